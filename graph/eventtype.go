package graph

import (
	"context"

	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

type eventTypeResolver struct{ *Resolver }

type eventTypeConnectionResolver struct{ *Resolver }

// EventType resolves the fields of EventType that are not stored with it.
func (r *Resolver) EventType() generated.EventTypeResolver { return eventTypeResolver{r} }

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

func (r queryResolver) EventCatalogueSdl(ctx context.Context) (string, error) {
	c, err := loadersOf(ctx).catalogue()
	if err != nil {
		return "", err
	}
	return c.SDL(), nil
}

func (r eventTypeResolver) GraphqlType(ctx context.Context, e *models.EventType) (*string, error) {
	c, err := loadersOf(ctx).catalogue()
	if err != nil {
		return nil, err
	}
	if name := c.GraphQLType(e.Name); name != "" {
		return &name, nil
	}
	return nil, nil
}

func (r eventTypeConnectionResolver) TotalCount(ctx context.Context, c *model.EventTypeConnection) (int, error) {
	return r.store.Tenant(caller(ctx).Reach()).EventTypeCount(ctx, c.Status)
}

func (r mutationResolver) UpsertEventType(ctx context.Context, in model.EventTypeInput, dryRun, force bool) (*model.UpsertEventTypePayload, error) {
	change, err := r.control.UpsertEventType(ctx, caller(ctx), control.EventTypeInput{
		Name: in.Name, Title: fieldOf(in.Title), Description: fieldOf(in.Description), Schema: fieldOf(in.Schema),
		Example: fieldOf(in.Example), Strict: fieldOf(in.Strict), Status: fieldOf(in.Status),
	}, dryRun, force)
	payload := &model.UpsertEventTypePayload{BrokenWebhooks: change.Broken, BrokenWebhookCount: change.BrokenCount}
	if err != nil {
		payload.UserErrors, err = problemsOf(err)
		return payload, err
	}
	if change.EventType.ID != "" { // what a dry run would make has none
		payload.EventType = &change.EventType
	}
	return payload, nil
}
