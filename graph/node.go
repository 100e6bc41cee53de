package graph

import (
	"context"
	"errors"
	"strings"

	"github.com/vikstrous/dataloadgen"

	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

type queryResolver struct{ *Resolver }

type mutationResolver struct{ *Resolver }

// Query is the root of what is read.
func (r *Resolver) Query() generated.QueryResolver { return queryResolver{r} }

// Mutation is the root of what is changed.
func (r *Resolver) Mutation() generated.MutationResolver { return mutationResolver{r} }

// maxNodes is how many objects nodes finds at once.
const maxNodes = 100

func (r queryResolver) Viewer(ctx context.Context) (*model.Viewer, error) {
	p := caller(ctx)
	return &model.Viewer{Tenant: p.Tenant, Scopes: p.Scopes}, nil
}

func (r queryResolver) Node(ctx context.Context, id string) (model.Node, error) {
	return node(ctx, id)()
}

func (r queryResolver) Nodes(ctx context.Context, ids []string) ([]model.Node, error) {
	if len(ids) > maxNodes {
		return nil, &badRequestError{"nodes finds at most 100 objects at once"}
	}
	// All are asked for before the first is waited for, so that each kind costs one statement.
	waiting := make([]func() (model.Node, error), len(ids))
	for i, id := range ids {
		waiting[i] = node(ctx, id)
	}
	nodes := make([]model.Node, len(ids))
	for i, wait := range waiting {
		var err error
		if nodes[i], err = wait(); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}

// node asks for an object of the kind that its id names. What it returns waits for it; nil where
// there is none.
func node(ctx context.Context, id string) func() (model.Node, error) {
	l := loadersOf(ctx)
	kind, _, _ := strings.Cut(id, "_")
	switch kind + "_" {
	case models.PrefixWebhook:
		return ask(ctx, l.webhooks, id)
	case models.PrefixEvent:
		return ask(ctx, l.events, id)
	case models.PrefixDelivery:
		return ask(ctx, l.deliveries, id)
	case models.PrefixAttempt:
		return ask(ctx, l.attempt, id)
	case models.PrefixEventType:
		return ask(ctx, l.eventTypes, id)
	case models.PrefixReplay:
		return ask(ctx, l.replays, id)
	default:
		return func() (model.Node, error) { return nil, nil }
	}
}

func ask[T model.Node](ctx context.Context, l *dataloadgen.Loader[string, T], id string) func() (model.Node, error) {
	wait := l.LoadThunk(ctx, id)
	return func() (model.Node, error) {
		v, err := wait()
		switch {
		case errors.Is(err, dataloadgen.ErrNotFound):
			return nil, nil
		case err != nil:
			return nil, err
		}
		return v, nil
	}
}

// found turns "there is none" into null.
func found[T any](v T, err error) (*T, error) {
	switch {
	case errors.Is(err, models.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &v, nil
}
