package graph

import (
	"context"

	"github.com/99designs/gqlgen/graphql"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
)

// requireScope is @auth: the field is resolved only for a caller with the scope. The generated code
// calls it for the field, not for a path, so there is no way around it.
func requireScope(ctx context.Context, _ any, next graphql.Resolver, scope models.Scope) (any, error) {
	p, ok := auth.FromContext(ctx)
	if !ok || !p.Has(scope) {
		return nil, &forbiddenError{scope: scope}
	}
	return next(ctx)
}

// caller is who asks. Every operation has one: answer refuses those without, but for __typename,
// which calls no resolver.
func caller(ctx context.Context) *auth.Principal {
	p, _ := auth.FromContext(ctx)
	return p
}
