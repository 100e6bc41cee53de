package graph

import (
	"context"

	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

type eventTypeConnectionResolver struct{ *Resolver }

// EventTypeConnection resolves what is counted only where it was asked for.
func (r *Resolver) EventTypeConnection() generated.EventTypeConnectionResolver {
	return eventTypeConnectionResolver{r}
}

func (r queryResolver) EventType(ctx context.Context, name string) (*models.EventType, error) {
	return found(r.store.Tenant(caller(ctx).Reach()).EventTypeByName(ctx, name))
}

func (r queryResolver) EventTypes(ctx context.Context, first *int, after *string, last *int, before *string, status *models.EventTypeStatus) (*model.EventTypeConnection, error) {
	page, err := r.store.Tenant(caller(ctx).Reach()).EventTypes(ctx, status, models.Page{First: first, After: after, Last: last, Before: before})
	if err != nil {
		return nil, err
	}
	return &model.EventTypeConnection{
		Nodes: page.Items, PageInfo: pageInfo(page), Status: status,
		Edges: edges(page, func(cursor string, node *models.EventType) model.EventTypeEdge {
			return model.EventTypeEdge{Cursor: cursor, Node: node}
		}),
	}, nil
}

func (r eventTypeConnectionResolver) TotalCount(ctx context.Context, c *model.EventTypeConnection) (int, error) {
	return r.store.Tenant(caller(ctx).Reach()).EventTypeCount(ctx, c.Status)
}
