package control

import (
	"context"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
)

// CancelDelivery ends an open delivery. Once it has answered, no attempt of it starts. One that
// has ended is NOT_ALLOWED_NOW.
func (c *Control) CancelDelivery(ctx context.Context, p *auth.Principal, id string) (models.Delivery, error) {
	d, err := c.store.CancelDelivery(ctx, p.Reach(), id)
	if err != nil {
		return models.Delivery{}, translateAt(err, "deliveryId")
	}
	if err := c.store.AwaitDeliveryQuiet(ctx, id); err != nil {
		return models.Delivery{}, err
	}
	return d, nil
}

// CancelEvent ends all open deliveries of an event and says how many there were. Once it has
// answered, no attempt of them starts.
func (c *Control) CancelEvent(ctx context.Context, p *auth.Principal, id string) (models.Event, int, error) {
	event, cancelled, err := c.store.CancelEvent(ctx, p.Reach(), id)
	if err != nil {
		return models.Event{}, 0, translateAt(err, "id")
	}
	if err := c.store.AwaitEventQuiet(ctx, id); err != nil {
		return models.Event{}, 0, err
	}
	return event, cancelled, nil
}

// EraseEvent removes an event's data, its shaped bodies and the stored responses, and ends what is
// open. Once it has answered, no attempt of it starts, and none that still runs leaves a response
// behind. The record that it existed stays.
func (c *Control) EraseEvent(ctx context.Context, p *auth.Principal, id string) (models.Event, error) {
	event, err := c.store.EraseEvent(ctx, p.Reach(), id)
	if err != nil {
		return models.Event{}, translateAt(err, "id")
	}
	if err := c.store.AwaitEventQuiet(ctx, id); err != nil {
		return models.Event{}, err
	}
	c.logger.InfoContext(ctx, "event erased", "event_id", id)
	return event, nil
}

// Redeliver makes a delivery that has ended due again, now, with the bytes of its earlier
// attempts. An open one, one of a deleted or disabled webhook or of an erased event is
// NOT_ALLOWED_NOW.
func (c *Control) Redeliver(ctx context.Context, p *auth.Principal, id string) (models.Delivery, error) {
	d, err := c.store.Redeliver(ctx, p.Reach(), id)
	if err != nil {
		return models.Delivery{}, translateAt(err, "deliveryId")
	}
	if d.NextAttemptAt != nil {
		c.remind(ctx, []queue.Item{{DeliveryID: d.ID, Attempt: d.AttemptCount, At: *d.NextAttemptAt}})
	}
	return d, nil
}

// TestWebhook sends an event of eventType to that webhook alone, marked as a test in history; data
// nil: the type's example. Without eventType it takes the first type that the webhook is subscribed
// to. Only an active webhook can be tested.
func (c *Control) TestWebhook(ctx context.Context, p *auth.Principal, id string, eventType *string, data []byte) (models.Delivery, error) {
	w, err := c.webhook(ctx, p, id)
	if err != nil {
		return models.Delivery{}, err
	}
	known, err := c.catalogue(ctx)
	if err != nil {
		return models.Delivery{}, err
	}
	var check checker
	if w.Status != models.WebhookActive {
		check.add(models.CodeNotAllowedNow, []string{"id"}, "the webhook is %s; resume it first", w.Status)
	}
	var name string
	if eventType != nil {
		name = *eventType
	} else if name = firstSubscribed(known, w.EventTypes); name == "" {
		check.add(models.CodeRequired, []string{"eventType"}, "the webhook is subscribed to no type that exists now; name one")
	}
	t, ok := known.Type(name)
	switch {
	case !ok && name != "":
		check.add(models.CodeUnknownEventType, []string{"eventType"}, "%s", known.UnknownType(name))
	case !ok && eventType != nil:
		check.add(models.CodeRequired, []string{"eventType"}, "an event type is needed; leave it out for the first one that the webhook is subscribed to")
	case ok && data == nil && t.Example == nil:
		check.add(models.CodeRequired, []string{"data"}, "the event type has no example; give data")
	case ok && data == nil:
		data = []byte(*t.Example)
	}
	if data == nil {
		return models.Delivery{}, check.problems.Err() // it is the example that is missing, or its type
	}
	return c.tester.EmitTest(ctx, w, name, data, check.problems)
}

// firstSubscribed is the type that the first of the patterns gives, "" where none gives any.
func firstSubscribed(known *catalogue.Catalogue, patterns []string) string {
	types := known.Types()
	for _, pattern := range patterns {
		for _, t := range types {
			if t.Status != models.EventTypeArchived && catalogue.MatchPattern(pattern, t.Name) {
				return t.Name
			}
		}
	}
	return ""
}
