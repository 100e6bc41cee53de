package graph

import (
	"bytes"
	"context"
	"errors"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/intervengine/webhooks/auth"
)

// typeEvents is the media type of server-sent events: GraphQL over them is graphql-sse in its
// distinct connections mode, see https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md.
const typeEvents = "text/event-stream"

// wantsEvents reports whether a caller takes server-sent events, and whether nothing else.
func wantsEvents(accept []string) (some, only bool) {
	only = true
	for _, list := range accept {
		for part := range strings.SplitSeq(list, ",") {
			name, params, err := mime.ParseMediaType(part)
			switch {
			case err != nil || params["q"] == "0":
			case name == typeEvents:
				some = true
			default:
				only = false
			}
		}
	}
	return some, some && only
}

// gqlErrors is a list of one.
func gqlErrors(err *gqlerror.Error) gqlerror.List { return gqlerror.List{err} }

// events is a response of server-sent events.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
}

// begin sends the head of the response.
func (h *Handler) beginEvents(w http.ResponseWriter) (*events, bool) {
	e := &events{w: w, control: http.NewResponseController(w), timeout: h.streams.limits.WriteTimeout}
	// The server's own bounds are those of requests that end.
	if err := e.control.SetReadDeadline(time.Time{}); err != nil {
		return nil, false
	}
	header := w.Header()
	header.Set("Content-Type", typeEvents+"; charset=utf-8")
	header.Set("Cache-Control", "no-cache, no-store")
	header.Set("X-Accel-Buffering", "no")
	header.Set("X-Content-Type-Options", "nosniff")
	return e, e.write([]byte(":\n\n")) // a comment: what is before the first event can be read
}

// write sends what is in b, at once. False where the client does not take it in time.
func (e *events) write(b []byte) bool {
	if err := e.control.SetWriteDeadline(time.Now().Add(e.timeout)); err != nil {
		return false
	}
	if _, err := e.w.Write(b); err != nil {
		return false
	}
	return e.control.Flush() == nil
}

// next sends a result.
func (e *events) next(result []byte) bool {
	var b bytes.Buffer
	b.Grow(len(result) + 24)
	b.WriteString("event: next\ndata: ")
	if bytes.ContainsAny(result, "\r\n") { // between tokens of JSON that is kept as it came
		result = bytes.ReplaceAll(bytes.ReplaceAll(result, []byte{'\r'}, []byte{'\n'}), []byte{'\n'}, []byte("\ndata: "))
	}
	b.Write(result)
	b.WriteString("\n\n")
	return e.write(b.Bytes())
}

// complete tells that there is no more.
func (e *events) complete() { e.write([]byte("event: complete\ndata:\n\n")) }

// serveEvents answers a request that was prepared with server-sent events.
func (h *Handler) serveEvents(w http.ResponseWriter, r *http.Request, p *prepared) {
	ctx, end := context.WithCancelCause(r.Context())
	defer end(nil)
	done, ok := h.streams.begin(func() { end(errStopping) })
	if !ok {
		h.write(w, typeGraphQL, refuse(http.StatusServiceUnavailable, newError(codeUnavailable, errStopping.Error())))
		return
	}
	defer done()
	if p.operation.Operation != ast.Subscription {
		bounded, cancel := context.WithTimeout(ctx, h.timeout)
		defer cancel()
		a := h.execute(bounded, p)
		if e, ok := h.beginEvents(w); ok && e.next(resultJSON(a.errors, a.data)) {
			e.complete()
		}
		return
	}
	principal := caller(ctx) // there is one: prepare refuses subscriptions of nobody
	s, errs := h.subscribe(ctx, p, principal)
	e, ok := h.beginEvents(w)
	switch {
	case len(errs) > 0:
		if ok && e.next(resultJSON(errs, nil)) {
			e.complete()
		}
		return
	case !ok:
		s.close()
		return
	}
	// From here on it is open: what it took to make it does not count.
	lifetime := time.AfterFunc(h.streams.limits.Lifetime, func() { end(errLifetime) })
	defer lifetime.Stop()
	h.sendUpdates(ctx, e, s, principal, end)
}

// sendUpdates sends a subscription's updates until it ends, and comments while there are none.
func (h *Handler) sendUpdates(ctx context.Context, e *events, s *running, principal *auth.Principal, end context.CancelCauseFunc) {
	type update struct {
		result []byte
		done   bool
	}
	updates := make(chan update)
	ended := make(chan struct{}, 2)
	go func() { h.watch(ctx, principal, end); ended <- struct{}{} }()
	go func() {
		defer func() { s.close(); ended <- struct{}{} }()
		for {
			result, done := s.next()
			select {
			case updates <- update{result, done}:
			case <-ctx.Done():
				return
			}
			if done {
				return
			}
		}
	}()
	defer func() { end(nil); <-ended; <-ended }()
	keepAlive := time.NewTicker(h.streams.limits.KeepAlive)
	defer keepAlive.Stop()
	for {
		select {
		case u := <-updates:
			switch {
			case u.done && u.result == nil:
				return
			case !e.next(u.result):
				return
			case u.done:
				e.complete()
				return
			}
		case <-keepAlive.C:
			if !e.write([]byte(":\n\n")) {
				return
			}
		case <-ctx.Done():
			// Without complete, so that the client goes on from its last cursor. Only for bad credentials
			// that would be of no use.
			if cause := context.Cause(ctx); errors.Is(cause, auth.ErrBadCredentials) {
				if e.next(resultJSON(gqlErrors(newError(codeUnauthenticated, cause.Error())), nil)) {
					e.complete()
				}
			}
			return
		}
	}
}
