package app_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

const followDeliveries = `subscription($filter: DeliveryFilter, $after: String) {
	deliveryUpdated(filter: $filter, after: $after) {
		cursor delivery { id status attemptCount eventType webhook { name } event { id } lastAttempt { outcome } }
	}
}`

type deliveryUpdate struct {
	DeliveryUpdated struct {
		Cursor   string
		Delivery struct {
			ID, Status, EventType string
			AttemptCount          int
			Webhook               struct{ Name string }
			Event                 struct{ ID string }
		}
	}
}

func TestH5_UpdatesArePushed(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		var made struct {
			CreateWebhook struct{ Webhook struct{ ID string } }
		}
		server.Query(t, `mutation($url: URL!) { createWebhook(input: {name: "w", targetUrl: $url, eventTypes: ["*"]}) { webhook { id } } }`,
			map[string]any{"url": receiver.URL()}, &made)
		for _, by := range []apptest.Transport{apptest.WebSocket, apptest.Events} {
			deliveries := server.Follow(t, by, followDeliveries, nil)
			events := server.Follow(t, by, `subscription { eventEmitted(filter: "data.participant.id == 'p_1'") { cursor event { id data } data } }`, nil)
			for _, participant := range []string{"p_0", "p_1"} {
				var emitted struct {
					EmitEvent struct{ Event struct{ ID string } }
				}
				server.Query(t, `mutation($data: JSON!) { emitEvent(input: {eventType: "participant.created", data: $data}) { event { id } } }`,
					map[string]any{"data": json.RawMessage(fmt.Sprintf(`{"participant":{"id":%q},"n":1.10}`, participant))}, &emitted)
				for i, status := range []string{"PENDING", "SUCCEEDED"} {
					var u deliveryUpdate
					deliveries.Into(t, &u)
					require.Equal(t, status, u.DeliveryUpdated.Delivery.Status)
					require.Equal(t, i, u.DeliveryUpdated.Delivery.AttemptCount)
					require.Equal(t, emitted.EmitEvent.Event.ID, u.DeliveryUpdated.Delivery.Event.ID)
					require.Equal(t, "w", u.DeliveryUpdated.Delivery.Webhook.Name)
				}
			}
			var e struct {
				EventEmitted struct{ Data json.RawMessage }
			}
			events.Into(t, &e)
			require.Equal(t, `{"participant":{"id":"p_1"},"n":1.10}`, string(e.EventEmitted.Data)) //nolint:testifylint // the very digits
		}
	})
}
