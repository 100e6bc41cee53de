package graph

import (
	"context"
	"net/http"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"

	"github.com/intervengine/webhooks/auth"
)

// prepared is a request that is ready to be executed.
type prepared struct {
	request
	document  *document
	operation *ast.OperationDefinition
	variables map[string]any
}

// prepare gets a request ready, once it is known who asks and that what they ask for is within bounds.
// Otherwise it gives the answer that refuses it.
func (h *Handler) prepare(ctx context.Context, req request, principal *auth.Principal) (*prepared, *answer) {
	no := func(a answer) (*prepared, *answer) { return nil, &a }
	doc, cached := h.documents.cached(ctx, req.query)
	if !cached {
		parsed, errs := h.documents.parse(req.query)
		if len(errs) > 0 {
			return no(refuse(statusByMediaType, errs...))
		}
		// Before anything tells about the schema: what is wrong with a document would.
		if op, err := operation(parsed, req.operationName); principal == nil && (err != nil || !onlyTypename(op)) {
			return no(h.unauthenticated(ctx))
		}
		if doc, errs = h.documents.validate(ctx, req.query, parsed); len(errs) > 0 {
			return no(refuse(statusByMediaType, errs...))
		}
	}
	op, err := operation(doc.QueryDocument, req.operationName)
	switch {
	case principal == nil && (err != nil || !onlyTypename(op)):
		return no(h.unauthenticated(ctx))
	case err != nil:
		return no(refuse(statusByMediaType, err))
	}
	variables := map[string]any{}
	doc.bindConstants(variables)
	if err := h.limits.readVariables(h.types, op, req.variables, variables); err != nil {
		return no(refuse(statusByMediaType, err))
	}
	if err := doc.bindOthers(variables); err != nil {
		return no(refuse(statusByMediaType, newError(codeValidationFailed, "a variable inside a JSON value is not JSON")))
	}
	if err := h.limits.checkComplexity(op, variables); err != nil {
		return no(refuse(statusByMediaType, err))
	}
	if op.Operation == ast.Subscription && !followsOne(op.SelectionSet, variables) {
		return no(refuse(statusByMediaType, newError(codeValidationFailed,
			"a subscription selects exactly one field of Subscription")))
	}
	return &prepared{request: req, document: doc, operation: op, variables: variables}, nil
}

// followsOne reports whether a subscription selects one field that can be followed.
func followsOne(set ast.SelectionSet, variables map[string]any) bool {
	fields := follows(set, variables)
	return len(fields) == 1 && fields[0].Name != "__typename"
}

// follows is what a subscription selects, with its conditions decided.
func follows(set ast.SelectionSet, variables map[string]any) []graphql.CollectedField {
	return graphql.CollectFields(&graphql.OperationContext{Variables: variables}, set, []string{"Subscription"})
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

func (h *Handler) execute(ctx context.Context, p *prepared) answer {
	ctx = graphql.WithResponseContext(h.loaders(h.operationContext(ctx, p)), h.present, h.recovered)
	response := h.schema.Exec(ctx)(ctx)
	return answer{status: http.StatusOK, data: response.Data, errors: append(response.Errors, graphql.GetErrors(ctx)...)}
}

func (h *Handler) operationContext(ctx context.Context, p *prepared) context.Context {
	return graphql.WithOperationContext(ctx, &graphql.OperationContext{
		RawQuery:               p.query,
		OperationName:          p.operationName,
		Variables:              p.variables,
		Doc:                    p.document.QueryDocument,
		Operation:              p.operation,
		RecoverFunc:            h.recovered,
		ResolverMiddleware:     resolve,
		RootResolverMiddleware: h.root(p.operation.Operation),
	})
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
