package graph

import (
	"context"
	"errors"

	"github.com/intervengine/webhooks/auth"
)

// Admit does for a body all that stands between authentication and execution: it is read, counted
// and checked against every limit.
func (h *Handler) Admit(ctx context.Context, body []byte, principal *auth.Principal) error {
	req, err := parseRequest(body, h.limits.Nesting)
	if err != nil {
		return err
	}
	if _, refused := h.prepare(ctx, req, principal); refused != nil {
		return errors.New("refused")
	}
	return nil
}
