package graph

import (
	"context"

	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

type replayResolver struct{ *Resolver }

// Replay resolves the fields of Replay that are not stored with it.
func (r *Resolver) Replay() generated.ReplayResolver { return replayResolver{r} }

func (r replayResolver) Webhook(ctx context.Context, replay *models.Replay) (*models.Webhook, error) {
	return load(ctx, loadersOf(ctx).webhooks, replay.WebhookID)
}

func (r queryResolver) Replay(ctx context.Context, id string) (*models.Replay, error) {
	return found(r.store.Tenant(caller(ctx).Reach()).Replay(ctx, id))
}

func (r queryResolver) Replays(ctx context.Context, webhookID *string, first *int, after *string, last *int, before *string) (*model.ReplayConnection, error) {
	page, err := r.store.Tenant(caller(ctx).Reach()).Replays(ctx, webhookID, models.Page{First: first, After: after, Last: last, Before: before})
	if err != nil {
		return nil, err
	}
	return &model.ReplayConnection{
		Nodes: page.Items, PageInfo: pageInfo(page),
		Edges: edges(page, func(cursor string, node *models.Replay) model.ReplayEdge {
			return model.ReplayEdge{Cursor: cursor, Node: node}
		}),
	}, nil
}

func (r mutationResolver) ReplayDeliveries(ctx context.Context, in model.ReplayInput, dryRun bool) (*model.ReplayDeliveriesPayload, error) {
	replay, count, err := r.control.ReplayDeliveries(ctx, caller(ctx), control.ReplayInput{
		WebhookID: in.WebhookID, Since: in.Since, Until: in.Until, Statuses: in.Statuses, EventTypes: in.EventTypes,
		IncludeUnmatched: in.IncludeUnmatched, IdempotencyKey: in.IdempotencyKey,
	}, dryRun)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.ReplayDeliveriesPayload{UserErrors: problems}, err
	}
	return &model.ReplayDeliveriesPayload{Replay: replay, Count: count}, nil
}

func (r mutationResolver) CancelReplay(ctx context.Context, id string) (*model.CancelReplayPayload, error) {
	replay, err := r.control.CancelReplay(ctx, caller(ctx), id)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.CancelReplayPayload{UserErrors: problems}, err
	}
	return &model.CancelReplayPayload{Replay: &replay}, nil
}
