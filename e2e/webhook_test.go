package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

type userError struct {
	Code, Message string
	Field         []string
	ConflictingID *string
}

type webhook struct {
	ID, Name, TargetURL, Status, Tenant string
	StatusReason                        *string
	Version                             int
	EventTypes                          []string
	Headers                             []struct {
		Name, Value string
		Masked      bool
	}
	SecretKeyHint              *string
	PreviousSecretKeyExpiresAt *time.Time
	DeletedAt                  *time.Time
	Timeout                    string
	RetrySchedule              []string
}

const webhookFields = `id name targetUrl status statusReason version tenant eventTypes headers { name value masked } secretKeyHint
	previousSecretKeyExpiresAt deletedAt timeout retrySchedule`

type created struct {
	Webhook    *webhook
	SecretKey  string
	UserErrors []userError
}

// create makes a webhook; input is what createWebhook takes.
func create(t testing.TB, api *apptest.Client, input map[string]any) created {
	t.Helper()
	var out struct{ CreateWebhook created }
	api.Query(t, `mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { `+webhookFields+` } secretKey
		userErrors { code message field conflictingId } } }`, map[string]any{"input": input}, &out)
	return out.CreateWebhook
}

// subscribe makes a webhook for everything that must be fine, and gives the receiver its key.
func subscribe(t testing.TB, api *apptest.Client, receiver *receivertest.Receiver, more map[string]any) webhook {
	t.Helper()
	input := map[string]any{"name": "receiver", "targetUrl": receiver.URL(), "eventTypes": []string{"*"}}
	maps.Copy(input, more)
	c := create(t, api, input)
	require.Empty(t, c.UserErrors)
	receiver.Secret(c.SecretKey)
	return *c.Webhook
}

type emitted struct {
	Event      *struct{ ID string }
	Duplicate  bool
	Matched    int
	UserErrors []userError
}

func emit(t testing.TB, api *apptest.Client, input map[string]any) emitted {
	t.Helper()
	var out struct{ EmitEvent emitted }
	api.Query(t, `mutation($input: EmitEventInput!) { emitEvent(input: $input) { event { id } duplicate matched userErrors { code message field } } }`,
		map[string]any{"input": input}, &out)
	return out.EmitEvent
}

func message(data map[string]any) map[string]any {
	return map[string]any{"eventType": "message.sent", "data": data}
}

type delivery struct {
	ID, Status, Trigger, EventType string
	StatusReason, StatusDetail     *string
	AttemptCount                   int
	NextAttemptAt, CompletedAt     *time.Time
	Attempts                       []struct {
		ID, Outcome, Trigger string
		Number               int
		Error                *string
		Request              struct {
			URL, Body string
			Headers   []struct {
				Name, Value string
				Masked      bool
			}
		}
		Response *struct {
			Status        int
			Body          string
			BodyTruncated bool
		}
	}
}

// deliveries reads those that the filter leaves.
func deliveries(t testing.TB, api *apptest.Client, filter map[string]any) []delivery {
	t.Helper()
	var out struct{ Deliveries struct{ Nodes []delivery } }
	api.Query(t, `query($filter: DeliveryFilter) { deliveries(first: 100, filter: $filter) { nodes { id status trigger eventType statusReason statusDetail
		attemptCount nextAttemptAt completedAt attempts { id number outcome trigger error request { url body headers { name value masked } }
		response { status body bodyTruncated } } } } }`, map[string]any{"filter": filter}, &out)
	return out.Deliveries.Nodes
}

// until waits until the event's only delivery has the status.
func until(t testing.TB, api *apptest.Client, eventID, status string) delivery {
	t.Helper()
	var d delivery
	apptest.EventuallyWithin(t, 60*time.Second, func() (bool, string) {
		list := deliveries(t, api, map[string]any{"eventId": eventID})
		if len(list) != 1 {
			return false, fmt.Sprintf("%d deliveries", len(list))
		}
		d = list[0]
		return d.Status == status, fmt.Sprintf("%+v", d)
	})
	return d
}

// change runs a mutation that takes an id and answers with a webhook.
func change(t testing.TB, api *apptest.Client, mutation, id string) webhook {
	t.Helper()
	var out map[string]struct {
		Webhook    *webhook
		UserErrors []userError
	}
	api.Query(t, fmt.Sprintf(`mutation($id: ID!) { %s(id: $id) { webhook { %s } userErrors { code message field } } }`, mutation, webhookFields),
		map[string]any{"id": id}, &out)
	require.Empty(t, out[mutation].UserErrors)
	return *out[mutation].Webhook
}

func TestW1_TheSecretKeyIsShownOnce(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		c := create(t, server.Client, map[string]any{"name": "w", "targetUrl": receiver.URL(), "eventTypes": []string{"*"}})
		require.Empty(t, c.UserErrors)
		encoded, ok := strings.CutPrefix(c.SecretKey, "whsec_")
		require.True(t, ok)
		key, err := base64.StdEncoding.DecodeString(encoded)
		require.NoError(t, err)
		require.Len(t, key, 32)
		bare := strings.TrimRight(encoded, "=")
		require.Equal(t, bare[len(bare)-4:], *c.Webhook.SecretKeyHint)

		receiver.Secret(c.SecretKey)
		e := emit(t, server.Client, message(map[string]any{"n": 1}))
		until(t, server.Client, e.Event.ID, "SUCCEEDED")
		a, err := server.Post(t.Context(), `{ webhooks { nodes { `+webhookFields+` publicKey } } deliveries { nodes { attempts { request { headers { name value } body } } } } }`, nil)
		require.NoError(t, err)
		require.NotContains(t, string(a.Body), bare)
		require.NotContains(t, server.Log.String(), bare)
	})
}

func TestW2_EveryProblemComesBackAtOnceAndNothingIsSaved(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		c := create(t, server.Client, map[string]any{
			"name": strings.Repeat("n", 201), "targetUrl": "ftp://example.com/x", "eventTypes": []string{"participant.creatd"},
			"headers": []map[string]any{{"name": "webhook-id", "value": "x"}, {"name": "x-ok", "value": "a\r\nb"}},
			"timeout": "15 seconds", "retrySchedule": []string{"PT5S", "P8D"}, "rateLimitPerSecond": -1,
		})
		require.Nil(t, c.Webhook)
		require.Empty(t, c.SecretKey)
		got := map[string]string{}
		for _, e := range c.UserErrors {
			got[strings.Join(e.Field, ".")] = e.Code
			require.NotEmpty(t, e.Message)
		}
		require.Equal(t, map[string]string{
			"input.name": "TOO_LONG", "input.targetUrl": "INVALID", "input.eventTypes.0": "UNKNOWN_EVENT_TYPE",
			"input.headers.0.name": "INVALID", "input.headers.1.value": "INVALID", "input.timeout": "INVALID",
			"input.retrySchedule.1": "INVALID", "input.rateLimitPerSecond": "INVALID",
		}, got)
		var out struct{ Webhooks struct{ TotalCount int } }
		server.Query(t, `{ webhooks { totalCount } }`, nil, &out)
		require.Zero(t, out.Webhooks.TotalCount)
		for _, target := range []string{"http://10.0.0.1/", "http://169.254.169.254/latest", "http://[::1]/", "http://[::ffff:10.0.0.1]/"} {
			c := create(t, server.Client, map[string]any{"name": "w", "targetUrl": target, "eventTypes": []string{"*"}})
			require.Len(t, c.UserErrors, 1, target)
			require.Equal(t, "FORBIDDEN_TARGET", c.UserErrors[0].Code, target)
		}
	})
}

func TestW2_UpdateKeepsClearsAndGuards(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		w := subscribe(t, server.Client, receiver, map[string]any{
			"timeout": "PT3S", "headers": []map[string]any{{"name": "Authorization", "value": "Bearer s3cret-value"}, {"name": "x-plain", "value": "v"}},
		})
		require.Equal(t, "PT3S", w.Timeout)
		require.True(t, w.Headers[0].Masked)
		require.NotContains(t, w.Headers[0].Value, "s3cret")
		update := func(input map[string]any, version any) (*webhook, []userError) {
			var out struct {
				UpdateWebhook struct {
					Webhook    *webhook
					UserErrors []userError
				}
			}
			server.Query(t, `mutation($id: ID!, $input: UpdateWebhookInput!, $version: Int) { updateWebhook(id: $id, input: $input, expectedVersion: $version) {
				webhook { `+webhookFields+` } userErrors { code message field conflictingId } } }`,
				map[string]any{"id": w.ID, "input": input, "version": version}, &out)
			return out.UpdateWebhook.Webhook, out.UpdateWebhook.UserErrors
		}
		after, problems := update(map[string]any{
			"name": "renamed", "timeout": nil,
			"headers": []map[string]any{{"name": "Authorization"}, {"name": "x-plain", "value": "w"}},
		}, w.Version)
		require.Empty(t, problems)
		require.Equal(t, "renamed", after.Name)
		require.Equal(t, "PT15S", after.Timeout, "null clears: the default again")
		require.Equal(t, w.EventTypes, after.EventTypes, "absent keeps")
		require.Equal(t, w.Version+1, after.Version)
		_, problems = update(map[string]any{"name": "late"}, w.Version)
		require.Equal(t, "CONFLICT", problems[0].Code)
		_, problems = update(map[string]any{"headers": []map[string]any{{"name": "Authorization", "value": after.Headers[0].Value}}}, nil)
		require.Len(t, problems, 1, "the mask is refused as a value")

		e := emit(t, server.Client, message(map[string]any{"n": 1}))
		require.Equal(t, "Bearer s3cret-value", receiver.Wait(t, 1)[0].Header.Get("Authorization"), "an absent value kept the stored one")
		d := until(t, server.Client, e.Event.ID, "SUCCEEDED")
		text, err := json.Marshal(d)
		require.NoError(t, err)
		require.NotContains(t, string(text), "s3cret")
	})
}

func TestW3_TheSameExternalIDIsAConflict(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		input := map[string]any{"name": "w", "targetUrl": "https://example.com/x", "eventTypes": []string{"*"}, "externalId": "crm-1"}
		first := create(t, server.Client, input)
		require.Empty(t, first.UserErrors)
		second := create(t, server.Client, input)
		require.Equal(t, "CONFLICT", second.UserErrors[0].Code)
		require.Equal(t, first.Webhook.ID, *second.UserErrors[0].ConflictingID)
	})
}

func TestW6_PausedHoldsAndResumedSendsOldestFirst(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, map[string]string{"WORKER_CONCURRENCY": "1", "WEBHOOK_SHARE": "1"})
		receiver := receivertest.New(t)
		w := subscribe(t, server.Client, receiver, nil)
		require.Equal(t, "PAUSED", change(t, server.Client, "pauseWebhook", w.ID).Status)
		var ids []string
		for n := range 5 {
			e := emit(t, server.Client, message(map[string]any{"n": n}))
			require.Equal(t, 1, e.Matched)
			ids = append(ids, e.Event.ID)
		}
		for _, d := range deliveries(t, server.Client, nil) {
			require.Equal(t, "HELD", d.Status)
			require.Equal(t, "WEBHOOK_PAUSED", *d.StatusReason)
		}
		require.Empty(t, receiver.Requests())
		require.Equal(t, "ACTIVE", change(t, server.Client, "resumeWebhook", w.ID).Status)
		for n, r := range receiver.Wait(t, 5) {
			require.Equal(t, ids[n], r.ID(), "oldest first")
		}

		disabled := change(t, server.Client, "disableWebhook", w.ID)
		require.Equal(t, "DISABLED", disabled.Status)
		require.Equal(t, "BY_USER", *disabled.StatusReason)
		e := emit(t, server.Client, message(map[string]any{"n": 6}))
		d := until(t, server.Client, e.Event.ID, "SKIPPED")
		require.Equal(t, "WEBHOOK_DISABLED", *d.StatusReason)
	})
}

// W7: 48 times, a mutation against a stream of deliveries; nothing starts after its answer.
func TestW7_NothingStartsAfterAPauseADeletionOrANewURLHasAnswered(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		for round := range 8 {
			for _, action := range []string{"pause", "delete", "url"} {
				old := receivertest.New(t)
				next := receivertest.New(t)
				w := subscribe(t, server.Client, old, nil)
				for n := range 10 + round {
					emit(t, server.Client, message(map[string]any{"n": n}))
				}
				switch action {
				case "pause":
					change(t, server.Client, "pauseWebhook", w.ID)
				case "delete":
					server.Query(t, `mutation($id: ID!) { deleteWebhook(id: $id) { deletedId userErrors { message } } }`, map[string]any{"id": w.ID}, nil)
				case "url":
					server.Query(t, `mutation($id: ID!, $url: URL!) { updateWebhook(id: $id, input: {targetUrl: $url}) { userErrors { message } } }`,
						map[string]any{"id": w.ID, "url": next.URL()}, nil)
				}
				answered := time.Now()
				emit(t, server.Client, message(map[string]any{"after": true}))
				if action == "url" {
					apptest.Eventually(t, func() (bool, string) {
						open := deliveries(t, server.Client, map[string]any{"webhookId": w.ID, "statuses": []string{"PENDING", "RETRYING"}})
						return len(open) == 0, "still open"
					})
				}
				for _, r := range old.Requests() {
					require.False(t, r.At.After(answered), "%s: a request came %s after the answer", action, r.At.Sub(answered))
				}
				server.Query(t, `mutation($id: ID!) { deleteWebhook(id: $id) { deletedId } }`, map[string]any{"id": w.ID}, nil)
			}
		}
	})
}

func TestW7_TheHistoryOfADeletedWebhookStays(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, map[string]string{"RETRY_SCHEDULE": "1h"})
		receiver := receivertest.New(t, receivertest.Default(receivertest.Status(http.StatusInternalServerError)))
		w := subscribe(t, server.Client, receiver, nil)
		e := emit(t, server.Client, message(map[string]any{"n": 1}))
		until(t, server.Client, e.Event.ID, "RETRYING")
		server.Query(t, `mutation($id: ID!) { deleteWebhook(id: $id) { deletedId userErrors { message } } }`, map[string]any{"id": w.ID}, nil)
		d := until(t, server.Client, e.Event.ID, "CANCELLED")
		require.Equal(t, "WEBHOOK_DELETED", *d.StatusReason)
		require.Len(t, d.Attempts, 1)
		var out struct {
			Webhook  *webhook
			Webhooks struct{ Nodes []webhook }
		}
		server.Query(t, `query($id: ID!) { webhook(id: $id) { `+webhookFields+` } webhooks { nodes { id } } }`, map[string]any{"id": w.ID}, &out)
		require.NotNil(t, out.Webhook.DeletedAt)
		require.Empty(t, out.Webhooks.Nodes)
	})
}

func TestW8_ATestGoesToThatWebhookAloneAndIsMarked(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		receiver, other := receivertest.New(t), receivertest.New(t)
		w := subscribe(t, server.Client, receiver, map[string]any{"eventTypes": []string{"participant.created"}})
		subscribe(t, server.Client, other, nil)
		var out struct {
			TestWebhook struct {
				Delivery   *delivery
				UserErrors []userError
			}
		}
		server.Query(t, `mutation($id: ID!) { testWebhook(id: $id) { delivery { id trigger eventType } userErrors { code message field } } }`, map[string]any{"id": w.ID}, &out)
		require.Empty(t, out.TestWebhook.UserErrors)
		require.Equal(t, "TEST", out.TestWebhook.Delivery.Trigger)
		request := receiver.Wait(t, 1)[0]
		require.NoError(t, request.SignatureErr)
		require.Contains(t, string(request.Body), `"type":"participant.created"`)
		require.Empty(t, other.Requests())
	})
}

func TestS2_RotationSignsWithBothKeysForAWhile(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		c := create(t, server.Client, map[string]any{"name": "w", "targetUrl": receiver.URL(), "eventTypes": []string{"*"}})
		rotate := func(overlap string) string {
			var out struct {
				RotateWebhookSecretKey struct {
					SecretKey  string
					UserErrors []userError
				}
			}
			server.Query(t, `mutation($id: ID!, $overlap: Duration!) { rotateWebhookSecretKey(id: $id, overlap: $overlap) { secretKey userErrors { message } } }`,
				map[string]any{"id": c.Webhook.ID, "overlap": overlap}, &out)
			require.Empty(t, out.RotateWebhookSecretKey.UserErrors)
			return out.RotateWebhookSecretKey.SecretKey
		}
		second := rotate("PT24H")
		require.NotEqual(t, c.SecretKey, second)
		receiver.Secret(c.SecretKey)
		emit(t, server.Client, message(map[string]any{"n": 1}))
		request := receiver.Wait(t, 1)[0]
		require.NoError(t, request.SignatureErr, "the old key still verifies")
		require.Len(t, strings.Fields(request.Header.Get("webhook-signature")), 2)
		receiver.Secret(second)
		emit(t, server.Client, message(map[string]any{"n": 2}))
		require.NoError(t, receiver.Wait(t, 2)[1].SignatureErr, "and so does the new one")

		third := rotate("PT0S")
		receiver.Secret(third)
		emit(t, server.Client, message(map[string]any{"n": 3}))
		request = receiver.Wait(t, 3)[2]
		require.NoError(t, request.SignatureErr)
		require.Len(t, strings.Fields(request.Header.Get("webhook-signature")), 1)
	})
}
