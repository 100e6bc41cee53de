package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// notice is the body of a webhook.failing or webhook.disabled.
type notice struct {
	Type string
	Data struct {
		Webhook struct {
			ID, Name, TargetURL     string
			FailingSince, DisableAt *time.Time
		}
	}
}

// noticesOf are the notices that a receiver got, by type and the webhook that they are about.
func noticesOf(t testing.TB, receiver *receivertest.Receiver) map[string]notice {
	t.Helper()
	out := map[string]notice{}
	for _, r := range receiver.Requests() {
		require.NoError(t, r.SignatureErr)
		var n notice
		require.NoError(t, json.Unmarshal(r.Body, &n))
		if n.Data.Webhook.ID != "" {
			out[n.Type+" "+n.Data.Webhook.ID] = n
		}
	}
	return out
}

type healthOf struct {
	Webhook struct {
		Status       string
		StatusReason *string
		UpdatedAt    time.Time
		Health       struct{ FailingSince, DisableAt *time.Time }
	}
}

func health(t testing.TB, api *apptest.Client, id string) (h healthOf) {
	t.Helper()
	api.Query(t, `query($id: ID!) { webhook(id: $id) { status statusReason updatedAt health { failingSince disableAt } } }`, map[string]any{"id": id}, &h)
	return h
}

// Two webhooks subscribe to the notices and fail at everything, notices too; a third one takes them. Each
// is told of once at half time and once at its end, to the others alone, and that is the end of it.
func TestD7_NoticesEndAndDisableAtIsTrue(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		const after = 4 * time.Second
		server := apptest.Start(t, stack, map[string]string{"DISABLE_AFTER": after.String(), "BREAKER_MIN_ATTEMPTS": "1000000"})
		notices := []string{"webhook.failing", "webhook.disabled"}
		broken := receivertest.Default(receivertest.Status(http.StatusInternalServerError))
		first, second, watching := receivertest.New(t, broken), receivertest.New(t, broken), receivertest.New(t)
		short := map[string]any{"retrySchedule": iso([]time.Duration{500 * time.Millisecond})}
		with := func(eventTypes []string) map[string]any {
			return map[string]any{"eventTypes": eventTypes, "retrySchedule": short["retrySchedule"]}
		}
		a := subscribe(t, server.Client, first, with(append([]string{"message.sent"}, notices...)))
		b := subscribe(t, server.Client, second, with(notices))
		subscribe(t, server.Client, watching, with(notices))
		emit(t, server.Client, message(map[string]any{"n": 1}))

		var told healthOf
		apptest.Eventually(t, func() (bool, string) {
			told = health(t, server.Client, a.ID)
			return told.Webhook.Health.DisableAt != nil, "no deadline yet"
		})
		deadline := *told.Webhook.Health.DisableAt
		require.Equal(t, told.Webhook.Health.FailingSince.Add(after), deadline)

		var got map[string]notice
		apptest.EventuallyWithin(t, 60*time.Second, func() (bool, string) {
			got = noticesOf(t, watching)
			return len(got) >= 4, fmt.Sprintf("%+v", got)
		})
		for _, w := range []webhook{a, b} {
			failing, disabled := got["webhook.failing "+w.ID].Data.Webhook, got["webhook.disabled "+w.ID].Data.Webhook
			require.Equal(t, w.TargetURL, failing.TargetURL)
			ended := health(t, server.Client, w.ID).Webhook
			require.Equal(t, "DISABLED", ended.Status)
			require.Equal(t, "FAILING", *ended.StatusReason)
			require.Equal(t, failing.FailingSince.Add(after), *failing.DisableAt)
			require.False(t, ended.UpdatedAt.Before(*failing.DisableAt), "not early")
			require.Less(t, ended.UpdatedAt.Sub(*failing.DisableAt), time.Second+slack, "true to the second")
			require.True(t, disabled.DisableAt.Equal(ended.UpdatedAt))
		}
		require.Equal(t, deadline, *got["webhook.failing "+a.ID].Data.Webhook.DisableAt)
		for receiver, id := range map[*receivertest.Receiver]string{first: a.ID, second: b.ID} {
			for key, n := range noticesOf(t, receiver) {
				require.NotEqual(t, id, n.Data.Webhook.ID, "%s went to the webhook that it is about", key)
			}
		}
		// Nobody is left who fails, so nothing more is told: all that was ever emitted is there.
		until := time.NewTimer(after)
		defer until.Stop()
		<-until.C
		var out struct {
			Events struct{ Nodes []struct{ EventType string } }
		}
		server.Query(t, `{ events(first: 100) { nodes { eventType } } }`, nil, &out)
		require.Len(t, out.Events.Nodes, 5, "the message and four notices")
		require.Len(t, watching.Requests(), 4)
	})
}
