package control

import (
	"context"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
)

// DeleteWebhook deletes a webhook: its open deliveries end CANCELLED, its history stays until
// retention takes it. Once it has answered, no attempt starts any more. A webhook that was deleted
// already is NOT_FOUND.
func (c *Control) DeleteWebhook(ctx context.Context, p *auth.Principal, id string) error {
	if err := c.store.DeleteWebhook(ctx, p.Reach(), id); err != nil {
		return translate(err, id)
	}
	return c.store.AwaitQuiet(ctx, id)
}

// PauseWebhook holds the webhook's open deliveries, and those of events to come, until it is
// resumed. Once it has answered, no attempt starts. A paused webhook stays as it is; a disabled
// one is NOT_ALLOWED_NOW, because nothing of it waits.
func (c *Control) PauseWebhook(ctx context.Context, p *auth.Principal, id string) (models.Webhook, error) {
	return c.halt(ctx, p, id, models.WebhookPaused)
}

// DisableWebhook ends the webhook's open deliveries as CANCELLED; events to come are recorded
// SKIPPED until it is resumed. Once it has answered, no attempt starts. A disabled webhook stays
// as it is.
func (c *Control) DisableWebhook(ctx context.Context, p *auth.Principal, id string) (models.Webhook, error) {
	return c.halt(ctx, p, id, models.WebhookDisabled)
}

// halt moves a webhook out of ACTIVE and waits until what was claimed before has started and
// ended, or was given back. It waits too where the status was set before: the call that set it may
// not have answered yet.
func (c *Control) halt(ctx context.Context, p *auth.Principal, id string, status models.WebhookStatus) (models.Webhook, error) {
	w, err := c.store.SetWebhookStatus(ctx, p.Reach(), id, status, models.ReasonByUser, nil)
	if err != nil {
		return models.Webhook{}, translate(err, id)
	}
	if err := c.store.AwaitQuiet(ctx, id); err != nil {
		return models.Webhook{}, err
	}
	c.logger.InfoContext(ctx, "webhook status set", "webhook_id", id, "status", string(status))
	return w, nil
}

// ResumeWebhook makes a paused or disabled webhook active again. What was held becomes due at
// once, oldest first. An active one stays as it is.
func (c *Control) ResumeWebhook(ctx context.Context, p *auth.Principal, id string) (models.Webhook, error) {
	w, err := c.store.SetWebhookStatus(ctx, p.Reach(), id, models.WebhookActive, "", c.remindDue)
	if err != nil {
		return models.Webhook{}, translate(err, id)
	}
	c.logger.InfoContext(ctx, "webhook status set", "webhook_id", id, "status", string(models.WebhookActive))
	return w, nil
}

// remindDue puts a page of deliveries that became due on the queue.
func (c *Control) remindDue(ctx context.Context, page []models.Due) error {
	items := make([]queue.Item, len(page))
	for i, d := range page {
		items[i] = queue.Item{DeliveryID: d.DeliveryID, Attempt: d.AttemptCount, At: d.NextAttemptAt}
	}
	c.remind(ctx, items)
	return nil
}
