package graph

import (
	"context"

	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

type apiKeyResolver struct{ *Resolver }

type apiKeyConnectionResolver struct{ *Resolver }

// ApiKey resolves the fields of ApiKey that are stored in another form.
func (r *Resolver) ApiKey() generated.ApiKeyResolver {
	return apiKeyResolver{r}
}

// ApiKeyConnection resolves what is counted only where it was asked for.
func (r *Resolver) ApiKeyConnection() generated.ApiKeyConnectionResolver {
	return apiKeyConnectionResolver{r}
}

func (r queryResolver) APIKeys(ctx context.Context, first *int, after *string, last *int, before *string) (*model.APIKeyConnection, error) {
	page, err := r.store.Tenant(caller(ctx).Reach()).APIKeys(ctx, models.Page{First: first, After: after, Last: last, Before: before})
	if err != nil {
		return nil, err
	}
	return &model.APIKeyConnection{
		Nodes: page.Items, PageInfo: pageInfo(page),
		Edges: edges(page, func(cursor string, node *models.APIKey) model.APIKeyEdge {
			return model.APIKeyEdge{Cursor: cursor, Node: node}
		}),
	}, nil
}

// TotalCount counts all keys: who may list them sees every tenant's.
func (r apiKeyConnectionResolver) TotalCount(ctx context.Context, _ *model.APIKeyConnection) (int, error) {
	return r.store.CountAPIKeys(ctx)
}

func (r apiKeyResolver) Scopes(_ context.Context, k *models.APIKey) ([]models.Scope, error) {
	scopes := make([]models.Scope, len(k.Scopes))
	for i, s := range k.Scopes {
		scopes[i] = models.Scope(s)
	}
	return scopes, nil
}

func (r mutationResolver) CreateAPIKey(ctx context.Context, in model.CreateAPIKeyInput) (*model.CreateAPIKeyPayload, error) {
	k, key, err := r.control.CreateAPIKey(ctx, caller(ctx), control.APIKeyInput{
		Name: in.Name, Tenant: in.Tenant, Scopes: in.Scopes, ExpiresAt: in.ExpiresAt,
	})
	if err != nil {
		problems, err := problemsOf(err)
		return &model.CreateAPIKeyPayload{UserErrors: problems}, err
	}
	return &model.CreateAPIKeyPayload{APIKey: &k, Key: shownOnce(key)}, nil
}

func (r mutationResolver) RevokeAPIKey(ctx context.Context, id string) (*model.RevokeAPIKeyPayload, error) {
	k, err := r.control.RevokeAPIKey(ctx, caller(ctx), id)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.RevokeAPIKeyPayload{UserErrors: problems}, err
	}
	return &model.RevokeAPIKeyPayload{APIKey: &k}, nil
}
