package app_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

const eraseEvent = `mutation($id: ID!) { eraseEvent(id: $id) { event { id data erasedAt } userErrors { code message field } } }`

type erased struct {
	EraseEvent struct {
		Event *struct {
			ID       string
			Data     any
			ErasedAt *string
		}
		UserErrors []userError
	}
}

func TestH6_EraseEvent(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, map[string]string{"RETRY_SCHEDULE": "1h"})
		shaping := receivertest.New(t, receivertest.Default(receivertest.Reply(200, "seen: Ada")))
		failing := receivertest.New(t, receivertest.Default(receivertest.Reply(500, "cannot store Ada")))
		create(t, s.Client, shaping.URL(), map[string]any{
			"eventTypes":   []string{"participant.created"},
			"payloadQuery": "subscription { event { ... on ParticipantCreated { participant { name } } } }",
		})
		create(t, s.Client, failing.URL(), nil)
		id := emit(t, s.Client, "participant.created", `{"participant":{"id":"p1","name":"Ada"}}`)
		shaping.Wait(t, 1)
		failing.Wait(t, 1)
		states := func(want ...string) []delivered {
			var list []delivered
			apptest.Eventually(t, func() (bool, string) {
				list = deliveries(t, s.Client, id)
				got := map[string]int{}
				for _, d := range list {
					got[d.Status]++
				}
				for _, status := range want {
					got[status]--
				}
				text := ""
				var textSb49 strings.Builder
				for status, n := range got {
					if n != 0 {
						textSb49.WriteString(" " + status)
					}
				}
				text += textSb49.String()
				return text == "", text
			})
			return list
		}
		states("SUCCEEDED", "RETRYING")

		acme := tenantKey(t, s.Client, "acme", "MANAGE")
		var out erased
		acme.Query(t, eraseEvent, map[string]any{"id": id}, &out)
		require.Equal(t, "NOT_FOUND", out.EraseEvent.UserErrors[0].Code)
		require.Equal(t, []string{"id"}, out.EraseEvent.UserErrors[0].Field)

		s.Query(t, eraseEvent, map[string]any{"id": id}, &out)
		require.Nil(t, out.EraseEvent.Event.Data)
		require.NotNil(t, out.EraseEvent.Event.ErasedAt)
		list := states("SUCCEEDED", "CANCELLED")
		var shown struct {
			Event struct {
				Deliveries struct {
					Nodes []struct {
						StatusReason *string
						Attempts     []struct {
							Request  struct{ Body string }
							Response struct {
								Status  int
								Body    string
								Headers []any
							}
						}
					}
				}
			}
		}
		s.Query(t, `query($id: ID!) { event(id: $id) { deliveries { nodes { statusReason attempts {
			request { body } response { status body headers { name } } } } } } }`, map[string]any{"id": id}, &shown)
		for _, d := range shown.Event.Deliveries.Nodes {
			for _, a := range d.Attempts {
				require.NotZero(t, a.Response.Status)
				require.Empty(t, a.Request.Body)
				require.Empty(t, a.Response.Body)
				require.Empty(t, a.Response.Headers)
			}
		}
		var refused struct {
			Redeliver struct{ UserErrors []userError }
		}
		s.Query(t, `mutation($id: ID!) { redeliver(deliveryId: $id) { userErrors { code message field } } }`,
			map[string]any{"id": list[0].ID}, &refused)
		require.Equal(t, "NOT_ALLOWED_NOW", refused.Redeliver.UserErrors[0].Code)
	})
}

// What still runs when eraseEvent answers ends without leaving behind what the receiver said.
func TestH6_AttemptUnderWayLeavesNoResponse(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t, receivertest.Default(receivertest.After(receivertest.Reply(200, "got Ada"))))
		create(t, s.Client, receiver.URL(), nil)
		id := emit(t, s.Client, "participant.created", `{"participant":{"id":"p1","name":"Ada"}}`)
		receiver.Wait(t, 1)
		var out erased
		s.Query(t, eraseEvent, map[string]any{"id": id}, &out)
		require.Empty(t, out.EraseEvent.UserErrors)
		require.Equal(t, "EVENT_ERASED", *eventually(t, s.Client, id, "CANCELLED")[0].StatusReason)
		receiver.Release()
		eventually(t, s.Client, id, "SUCCEEDED")
		var shown struct {
			Event struct {
				Deliveries struct {
					Nodes []struct {
						LastAttempt struct {
							Response struct {
								Status int
								Body   string
							}
						}
					}
				}
			}
		}
		s.Query(t, `query($id: ID!) { event(id: $id) { deliveries { nodes { lastAttempt { response { status body } } } } } }`,
			map[string]any{"id": id}, &shown)
		last := shown.Event.Deliveries.Nodes[0].LastAttempt
		require.Equal(t, 200, last.Response.Status)
		require.Empty(t, last.Response.Body)
		require.Len(t, receiver.Requests(), 1)
	})
}
