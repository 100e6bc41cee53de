package graph

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/graph/scalar"
	"github.com/intervengine/webhooks/live"
	"github.com/intervengine/webhooks/models"
)

// The values of extensions.code: every error of every answer has one.
const (
	codeUnauthenticated  = "UNAUTHENTICATED"
	codeForbidden        = "FORBIDDEN"
	codeBadRequest       = "BAD_REQUEST"
	codeNotFound         = "NOT_FOUND"
	codeRateLimited      = "RATE_LIMITED"
	codeTooComplex       = "TOO_COMPLEX"
	codePayloadTooLarge  = "PAYLOAD_TOO_LARGE"
	codeCursorExpired    = "CURSOR_EXPIRED"
	codeUnavailable      = "UNAVAILABLE"
	codeInternal         = "INTERNAL"
	codeParseFailed      = "GRAPHQL_PARSE_FAILED"
	codeValidationFailed = "GRAPHQL_VALIDATION_FAILED"
)

func newError(code, message string) *gqlerror.Error {
	return &gqlerror.Error{Message: message, Extensions: map[string]any{"code": code}}
}

func setCode(e *gqlerror.Error, code string) {
	if e.Extensions == nil {
		e.Extensions = map[string]any{}
	}
	e.Extensions["code"] = code
}

func codeOf(e *gqlerror.Error) string {
	code, _ := e.Extensions["code"].(string)
	return code
}

// badRequestError is what a caller asked for in a way that cannot be answered.
type badRequestError struct{ message string }

func (e *badRequestError) Error() string { return e.message }

// forbiddenError is what a caller's scopes do not cover.
type forbiddenError struct{ scope models.Scope }

func (e *forbiddenError) Error() string { return "this needs the scope " + string(e.scope) }

// present turns the error of a field into the one that the caller sees. What it does not know is
// INTERNAL, with a reference that is in the log beside the real error.
func (h *Handler) present(ctx context.Context, err error) *gqlerror.Error {
	shown := h.classify(ctx, err)
	if place, ok := errors.AsType[*gqlerror.Error](err); ok {
		shown.Path, shown.Locations = place.Path, place.Locations
	}
	if shown.Path == nil {
		shown.Path = graphql.GetPath(ctx)
	}
	return shown
}

func (h *Handler) classify(ctx context.Context, err error) *gqlerror.Error {
	var (
		bad         *badRequestError
		page        *models.PageError
		stats       *models.StatsError
		problems    models.Problems
		scope       *forbiddenError
		unavailable *models.UnavailableError
		limited     *auth.RateLimitedError
		reported    *reportedError
	)
	switch {
	case errors.As(err, &reported):
		return internal(reported.reference)
	case errors.As(err, &bad):
		return newError(codeBadRequest, bad.message)
	case errors.As(err, &page):
		return newError(codeBadRequest, page.Message)
	case errors.As(err, &stats):
		return newError(codeBadRequest, stats.Message)
	case errors.Is(err, models.ErrInvalidCursor):
		return newError(codeBadRequest, "the cursor is not one of this list")
	case errors.Is(err, models.ErrCursorExpired):
		return newError(codeCursorExpired, "the cursor is too old: what came after it is no longer known; subscribe without one, and read lists for what was missed")
	case errors.Is(err, live.ErrSlow), errors.Is(err, live.ErrStopped):
		return newError(codeUnavailable, err.Error())
	case errors.As(err, &problems):
		// A query has no userErrors; its arguments are just as much the caller's to put right.
		e := newError(codeBadRequest, cut(problems.Error()))
		e.Extensions["userErrors"] = shownProblems(problems)
		return e
	case errors.As(err, &scope):
		return newError(codeForbidden, scope.Error())
	case errors.Is(err, auth.ErrForbiddenTenant):
		return newError(codeForbidden, auth.ErrForbiddenTenant.Error())
	case errors.Is(err, models.ErrNotFound):
		return newError(codeNotFound, "there is no such object")
	case errors.As(err, &limited):
		return rateLimited(limited)
	case errors.As(err, &unavailable):
		return unavailableError(unavailable)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return newError(codeUnavailable, "the request ran out of time")
	case errors.Is(err, scalar.ErrTime), errors.Is(err, scalar.ErrJSON), errors.Is(err, scalar.ErrText):
		return newError(codeValidationFailed, "an argument has the wrong type")
	default:
		reference := rand.Text()
		h.logger.ErrorContext(ctx, "request failed", slog.String("reference", reference),
			slog.String("field", fieldName(ctx)), slog.Any("error", err))
		return internal(reference)
	}
}

func internal(reference string) *gqlerror.Error {
	e := newError(codeInternal, "internal error; the log has more under reference "+reference)
	e.Extensions["reference"] = reference
	return e
}

func unavailableError(err *models.UnavailableError) *gqlerror.Error {
	if err.OutcomeUnknown {
		return newError(codeUnavailable, "the database did not answer; whether it was done is unknown")
	}
	return newError(codeUnavailable, "the database is not available; nothing was changed")
}

func rateLimited(err *auth.RateLimitedError) *gqlerror.Error {
	e := newError(codeRateLimited, err.Error())
	e.Extensions["retryAfterMs"] = err.RetryAfter.Milliseconds()
	return e
}

// fieldName names the field that is being resolved by the schema's names: aliases are the caller's.
func fieldName(ctx context.Context) string {
	for fc := graphql.GetFieldContext(ctx); fc != nil; fc = fc.Parent {
		if fc.Field.Field != nil {
			return fc.Object + "." + fc.Field.Name
		}
	}
	return ""
}

// reportedError is in the log already.
type reportedError struct{ reference string }

func (e *reportedError) Error() string { return "internal error " + e.reference }

// shownProblem is a problem as userErrors would have it.
type shownProblem struct {
	Code      string              `json:"code"`
	Message   string              `json:"message"`
	Field     []string            `json:"field"`
	Locations []gqlerror.Location `json:"locations,omitempty"`
}

func shownProblems(problems models.Problems) []shownProblem {
	list := make([]shownProblem, len(problems))
	for i, p := range problems {
		list[i] = shownProblem{Code: string(p.Code), Message: cut(p.Message), Field: p.Path}
		for _, l := range p.Locations {
			list[i].Locations = append(list[i].Locations, gqlerror.Location{Line: l.Line, Column: l.Column})
		}
	}
	return list
}

// recovered logs a panic without what a caller sent: of a value that is not the runtime's own, only
// its type is told.
func (h *Handler) recovered(ctx context.Context, value any) error {
	reference := rand.Text()
	cause := fmt.Sprintf("%T", value)
	if err, ok := value.(runtime.Error); ok {
		cause = err.Error()
	}
	h.logger.ErrorContext(ctx, "request panicked", slog.String("reference", reference),
		slog.String("field", fieldName(ctx)), slog.String("error", cause), slog.String("stack", string(debug.Stack())))
	return &reportedError{reference: reference}
}

// problemsOf takes from err what belongs into a payload's userErrors. The other result is what
// remains an error.
func problemsOf(err error) ([]models.Problem, error) {
	if problems, ok := errors.AsType[models.Problems](err); ok {
		return problems, nil
	}
	return nil, err
}
