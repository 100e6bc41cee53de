package app_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

func TestH4_Retention(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, map[string]string{
			"RETENTION": "5s", "RETENTION_INTERVAL": "50ms", "IDEMPOTENCY_WINDOW": "500ms", "RETRY_SCHEDULE": "1h",
		})
		receiver := receivertest.New(t)
		w := create(t, s.Client, receiver.URL(), map[string]any{"eventTypes": []string{"participant.created"}}).Webhook.ID
		paused := create(t, s.Client, receiver.URL(), map[string]any{"eventTypes": []string{"message.sent"}}).Webhook.ID
		s.Query(t, `mutation($id: ID!) { pauseWebhook(id: $id) { userErrors { message } } }`, map[string]any{"id": paused}, nil)
		failing := receivertest.New(t, receivertest.Default(receivertest.Status(500)))
		create(t, s.Client, failing.URL(), map[string]any{"eventTypes": []string{"participant.tags_added"}})

		held := emit(t, s.Client, "message.sent", `{}`)
		retrying := emit(t, s.Client, "participant.tags_added", `{}`)
		keyed := tryEmit(t, s.Client, "participant.created", `{}`, map[string]any{"idempotencyKey": "k"}).Event.ID
		done := []string{keyed}
		for range 20 {
			done = append(done, emit(t, s.Client, "participant.created", `{}`))
		}
		delivery := eventually(t, s.Client, keyed, "SUCCEEDED")[0].ID
		started := replayDeliveries(t, s.Client, w, false, nil)
		finished(t, s.Client, started.Replay.ID, "COMPLETED")

		gone := func(id string) (bool, string) {
			var out struct{ Node *struct{ ID string } }
			s.Query(t, `query($id: ID!) { node(id: $id) { id } }`, map[string]any{"id": id}, &out)
			return out.Node == nil, id + " is still there"
		}
		for _, id := range append(done, delivery, started.Replay.ID) {
			apptest.Eventually(t, func() (bool, string) { return gone(id) })
		}
		for _, id := range []string{held, retrying} {
			there, _ := gone(id)
			require.False(t, there, "what is still open stays")
			require.Len(t, deliveries(t, s.Client, id), 1)
		}
		again := tryEmit(t, s.Client, "participant.created", `{"other":true}`, map[string]any{"idempotencyKey": "k"})
		require.Empty(t, again.UserErrors)
		require.NotEqual(t, keyed, again.Event.ID)

		// The history of a deleted webhook goes, and then the webhook.
		s.Query(t, `mutation($id: ID!) { deleteWebhook(id: $id) { deletedId } }`, map[string]any{"id": w}, nil)
		apptest.Eventually(t, func() (bool, string) { return gone(w) })
		s.Query(t, `mutation($id: ID!) { resumeWebhook(id: $id) { userErrors { message } } }`, map[string]any{"id": paused}, nil)
		apptest.Eventually(t, func() (bool, string) { return gone(held) })
		require.Len(t, receiver.ByID(held), 1, "it was delivered before it went")
	})
}
