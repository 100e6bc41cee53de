package graph

import (
	"context"
	"time"

	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

type deliveryResolver struct{ *Resolver }

// Delivery resolves the fields of Delivery that are not stored with it.
func (r *Resolver) Delivery() generated.DeliveryResolver { return deliveryResolver{r} }

func (r queryResolver) Delivery(ctx context.Context, id string) (*models.Delivery, error) {
	return found(r.store.Tenant(caller(ctx).Reach()).Delivery(ctx, id))
}

func (r queryResolver) Deliveries(ctx context.Context, first *int, after *string, last *int, before *string, filter *model.DeliveryFilter) (*model.DeliveryConnection, error) {
	p := caller(ctx)
	f, err := deliveryFilter(p, filter)
	if err != nil {
		return nil, err
	}
	page, err := r.store.Tenant(p.Reach()).Deliveries(ctx, f, models.Page{First: first, After: after, Last: last, Before: before})
	if err != nil {
		return nil, err
	}
	return deliveryConnection(page), nil
}

func (r deliveryResolver) Event(ctx context.Context, d *models.Delivery) (*models.Event, error) {
	return load(ctx, loadersOf(ctx).events, d.EventID)
}

func (r deliveryResolver) Webhook(ctx context.Context, d *models.Delivery) (*models.Webhook, error) {
	return load(ctx, loadersOf(ctx).webhooks, d.WebhookID)
}

// NextAttemptAt is null while a delivery is held, and once it has ended: nothing is planned then.
func (r deliveryResolver) NextAttemptAt(_ context.Context, d *models.Delivery) (*time.Time, error) {
	if !d.Status.Open() || d.Status == models.DeliveryHeld {
		return nil, nil
	}
	return d.NextAttemptAt, nil
}

func (r deliveryResolver) Attempts(ctx context.Context, d *models.Delivery) ([]models.Attempt, error) {
	l := loadersOf(ctx)
	l.deliveries.Prime(d.ID, *d) // an attempt that asks for its delivery, or for its body, needs no statement
	list, err := load(ctx, l.attempts, d.ID)
	if list == nil {
		return nil, err
	}
	return *list, err
}

func (r deliveryResolver) LastAttempt(ctx context.Context, d *models.Delivery) (*models.Attempt, error) {
	l := loadersOf(ctx)
	l.deliveries.Prime(d.ID, *d)
	return load(ctx, l.lastAttempts, d.ID)
}

func (r mutationResolver) Redeliver(ctx context.Context, deliveryID string) (*model.RedeliverPayload, error) {
	d, err := r.control.Redeliver(ctx, caller(ctx), deliveryID)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.RedeliverPayload{UserErrors: problems}, err
	}
	return &model.RedeliverPayload{Delivery: &d}, nil
}

func (r mutationResolver) CancelDelivery(ctx context.Context, deliveryID string) (*model.CancelDeliveryPayload, error) {
	d, err := r.control.CancelDelivery(ctx, caller(ctx), deliveryID)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.CancelDeliveryPayload{UserErrors: problems}, err
	}
	return &model.CancelDeliveryPayload{Delivery: &d}, nil
}
