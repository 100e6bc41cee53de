package graph

import (
	"context"
	"net/http"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"

	"github.com/intervengine/webhooks/auth"
)

// answer executes a request, once it is known who asks and that what they ask for is within bounds.
func (h *Handler) answer(ctx context.Context, req request, principal *auth.Principal) answer {
	doc, cached := h.documents.cached(ctx, req.query)
	if !cached {
		parsed, errs := h.documents.parse(req.query)
		if len(errs) > 0 {
			return refuse(statusByMediaType, errs...)
		}
		// Before anything tells about the schema: what is wrong with a document would.
		if op, err := operation(parsed, req.operationName); principal == nil && (err != nil || !onlyTypename(op)) {
			return h.unauthenticated(ctx)
		}
		if doc, errs = h.documents.validate(ctx, req.query, parsed); len(errs) > 0 {
			return refuse(statusByMediaType, errs...)
		}
	}
	op, err := operation(doc.QueryDocument, req.operationName)
	switch {
	case principal == nil && (err != nil || !onlyTypename(op)):
		return h.unauthenticated(ctx)
	case err != nil:
		return refuse(statusByMediaType, err)
	}
	variables := map[string]any{}
	doc.bindConstants(variables)
	if err := h.limits.readVariables(h.types, op, req.variables, variables); err != nil {
		return refuse(statusByMediaType, err)
	}
	if err := doc.bindOthers(variables); err != nil {
		return refuse(statusByMediaType, newError(codeValidationFailed, "a variable inside a JSON value is not JSON"))
	}
	if err := h.limits.checkComplexity(op, variables); err != nil {
		return refuse(statusByMediaType, err)
	}
	return h.execute(ctx, req, doc, op, variables)
}

// onlyTypename reports whether an operation asks for nothing but the name of the root type.
func onlyTypename(op *ast.OperationDefinition) bool {
	for _, s := range op.SelectionSet {
		if f, ok := s.(*ast.Field); !ok || f.Name != "__typename" || len(f.Directives) > 0 {
			return false
		}
	}
	return op.Operation == ast.Query && len(op.Directives) == 0
}

func (h *Handler) execute(ctx context.Context, req request, doc *document, op *ast.OperationDefinition, variables map[string]any) answer {
	ctx = graphql.WithOperationContext(ctx, &graphql.OperationContext{
		RawQuery:               req.query,
		OperationName:          req.operationName,
		Variables:              variables,
		Doc:                    doc.QueryDocument,
		Operation:              op,
		RecoverFunc:            h.recovered,
		ResolverMiddleware:     resolve,
		RootResolverMiddleware: h.root(op.Operation),
	})
	ctx = graphql.WithResponseContext(h.loaders(ctx), h.present, h.recovered)
	response := h.schema.Exec(ctx)(ctx)
	return answer{status: http.StatusOK, data: response.Data, errors: append(response.Errors, graphql.GetErrors(ctx)...)}
}

func resolve(ctx context.Context, next graphql.Resolver) (any, error) { return next(ctx) }

// root gives each field of a mutation loaders of its own: what a field reads must not be older than
// what the field before it changed.
func (h *Handler) root(kind ast.Operation) graphql.RootFieldMiddleware {
	if kind != ast.Mutation {
		return func(ctx context.Context, next graphql.RootResolver) graphql.Marshaler { return next(ctx) }
	}
	return func(ctx context.Context, next graphql.RootResolver) graphql.Marshaler { return next(h.loaders(ctx)) }
}
