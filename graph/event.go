package graph

import (
	"context"

	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

type eventResolver struct{ *Resolver }

// Event resolves the fields of Event that are not stored with it.
func (r *Resolver) Event() generated.EventResolver { return eventResolver{r} }

func (r queryResolver) Event(ctx context.Context, id string) (*models.Event, error) {
	return found(r.store.Tenant(caller(ctx).Reach()).Event(ctx, id))
}

func (r queryResolver) Events(ctx context.Context, first *int, after *string, last *int, before *string, filter *model.EventFilter) (*model.EventConnection, error) {
	p := caller(ctx)
	f, err := eventFilter(filter)
	if err == nil {
		err = named(p, f.Tenant)
	}
	if err != nil {
		return nil, err
	}
	page, err := r.store.Tenant(p.Reach()).Events(ctx, f, models.Page{First: first, After: after, Last: last, Before: before})
	if err != nil {
		return nil, err
	}
	return &model.EventConnection{
		Nodes: page.Items, PageInfo: pageInfo(page),
		Edges: edges(page, func(cursor string, node *models.Event) model.EventEdge {
			return model.EventEdge{Cursor: cursor, Node: node}
		}),
	}, nil
}

func eventFilter(f *model.EventFilter) (models.EventFilter, error) {
	if f == nil {
		return models.EventFilter{}, nil
	}
	if err := filterSizes(len(f.EventTypes)); err != nil {
		return models.EventFilter{}, err
	}
	return models.EventFilter{
		EventTypes: f.EventTypes, Since: f.Since, Until: f.Until, IdempotencyKey: f.IdempotencyKey, Tenant: f.Tenant,
	}, filterTimes(f.Since, f.Until)
}

func (r eventResolver) Deliveries(ctx context.Context, e *models.Event, first *int, after *string, last *int, before *string, filter *model.DeliveryFilter) (*model.DeliveryConnection, error) {
	f, err := deliveryFilter(caller(ctx), filter)
	if err != nil {
		return nil, err
	}
	loadersOf(ctx).events.Prime(e.ID, *e)
	return deliveriesOfEvent(ctx, e.ID, f, models.Page{First: first, After: after, Last: last, Before: before})
}

func deliveriesOfEvent(ctx context.Context, eventID string, f models.DeliveryFilter, p models.Page) (*model.DeliveryConnection, error) {
	key, err := newPageKey(eventID, f, p)
	if err != nil {
		return nil, err
	}
	page, err := loadersOf(ctx).ofEvent.Load(ctx, key)
	if err != nil {
		return nil, err
	}
	return deliveryConnection(page), nil
}

func (r mutationResolver) CancelEvent(ctx context.Context, id string) (*model.CancelEventPayload, error) {
	e, cancelled, err := r.control.CancelEvent(ctx, caller(ctx), id)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.CancelEventPayload{UserErrors: problems}, err
	}
	return &model.CancelEventPayload{Event: &e, Cancelled: cancelled}, nil
}

func (r mutationResolver) EraseEvent(ctx context.Context, id string) (*model.EraseEventPayload, error) {
	e, err := r.control.EraseEvent(ctx, caller(ctx), id)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.EraseEventPayload{UserErrors: problems}, err
	}
	return &model.EraseEventPayload{Event: &e}, nil
}
