package graph

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/gorilla/websocket"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
)

// The media types of answers. With typeJSON, whatever is wrong with the GraphQL of a well-formed
// request is answered with status 200, as old clients expect; with typeGraphQL the status tells.
const (
	typeJSON    = "application/json"
	typeGraphQL = "application/graphql-response+json"
)

// answer is what goes back to the caller: errors alone, or data with or without them.
type answer struct {
	status int
	errors gqlerror.List
	data   json.RawMessage // nil: the request was not executed
	events *prepared       // not nil: it is to be answered with server-sent events
}

// refuse answers a request that was not executed.
func refuse(status int, errs ...*gqlerror.Error) answer { return answer{status: status, errors: errs} }

// statusByMediaType stands for what is wrong with a request's GraphQL, which the two media types
// answer with different statuses.
const statusByMediaType = 0

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if websocket.IsWebSocketUpgrade(r) {
		h.serveWebSocket(w, r)
		return
	}
	mediaType := negotiate(r.Header.Values("Accept"))
	if _, only := wantsEvents(r.Header.Values("Accept")); only {
		mediaType = typeGraphQL // graphql-sse: what is refused before it runs has a status that says so
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.timeout)
	defer cancel()
	defer func() {
		// Resolvers recover by themselves; this is for what is around them.
		if v := recover(); v != nil {
			h.write(w, mediaType, refuse(http.StatusInternalServerError, h.present(ctx, h.recovered(ctx, v))))
		}
	}()
	a := h.serve(ctx, w, r)
	if a.events != nil {
		h.serveEvents(w, r, a.events)
		return
	}
	h.write(w, mediaType, a)
}

func (h *Handler) serve(ctx context.Context, w http.ResponseWriter, r *http.Request) answer {
	if a, ok := h.checkHeader(w, r); !ok {
		return a
	}
	principal, known := auth.FromContext(ctx)
	if !known {
		// A server that cannot check credentials must not say that they are wrong.
		var unavailable *models.UnavailableError
		var limited *auth.RateLimitedError
		switch err := auth.ErrFromContext(ctx); {
		case errors.As(err, &unavailable):
			return refuse(http.StatusServiceUnavailable, unavailableError(unavailable))
		case errors.As(err, &limited):
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(limited.RetryAfter.Seconds()))))
			return refuse(http.StatusTooManyRequests, rateLimited(limited))
		}
	}
	body, err := h.readBody(w, r, known)
	if err != nil {
		return h.refuseBody(ctx, err, known)
	}
	req, err := parseRequest(body, h.limits.Nesting)
	if err != nil {
		return refuse(http.StatusBadRequest, bodyError(err))
	}
	p, refused := h.prepare(ctx, req, principal)
	if refused != nil {
		return *refused
	}
	some, only := wantsEvents(r.Header.Values("Accept"))
	switch follows := p.operation.Operation == ast.Subscription; {
	case only, some && follows:
		return answer{events: p}
	case follows:
		return refuse(statusByMediaType, newError(codeBadRequest,
			"a subscription needs a stream: connect over WebSocket ("+subprotocol+"), or send Accept: "+typeEvents))
	}
	return h.execute(ctx, p)
}

// checkHeader refuses what is not a POST of JSON. A form, which another site's page could make a
// browser send, is refused by that too.
func (h *Handler) checkHeader(w http.ResponseWriter, r *http.Request) (answer, bool) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return refuse(http.StatusMethodNotAllowed, newError(codeBadRequest, "send GraphQL requests with POST")), false
	}
	contentType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset, named := params["charset"]
	if err != nil || contentType != typeJSON || named && !strings.EqualFold(charset, "utf-8") {
		return refuse(http.StatusUnsupportedMediaType, newError(codeBadRequest, "the Content-Type must be application/json in UTF-8")), false
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return refuse(http.StatusUnsupportedMediaType, newError(codeBadRequest, "compressed bodies are not taken")), false
	}
	return answer{}, true
}

// readBody reads the whole body, unless its length says that it is too large.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, known bool) ([]byte, error) {
	limit := h.limits.BodyBytes
	if !known {
		limit = min(limit, h.limits.AnonymousBytes)
	}
	if r.ContentLength > limit {
		drain(r, limit)
		return nil, &http.MaxBytesError{Limit: limit}
	}
	var b bytes.Buffer
	// A length is a claim until the bytes have come: do not allocate all of it at once.
	b.Grow(int(min(max(r.ContentLength, 0), 64<<10)) + bytes.MinRead)
	_, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		drain(r, limit)
	}
	return b.Bytes(), err
}

// drain reads on through a body that is not wanted, if it is not far too large: many clients send all of
// theirs before they read the answer, and would meet a closed connection instead of what is wrong. Who
// asks first whether the body is wanted is told at once that it is not.
func drain(r *http.Request, limit int64) {
	most := max(2*limit, 1<<20)
	if r.Header.Get("Expect") == "" && r.ContentLength <= most {
		_, _ = io.CopyN(io.Discard, r.Body, most) // what breaks it off breaks off the answer too
	}
}

func (h *Handler) refuseBody(ctx context.Context, err error, known bool) answer {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge) && !known:
		return h.unauthenticated(ctx)
	case errors.As(err, &tooLarge):
		return refuse(http.StatusRequestEntityTooLarge, newError(codePayloadTooLarge,
			"the body has more than "+strconv.FormatInt(h.limits.BodyBytes, 10)+" bytes"))
	default:
		// Whatever broke off the body, nobody is left to read much of this.
		return refuse(http.StatusBadRequest, newError(codeBadRequest, "the body could not be read"))
	}
}

func bodyError(err error) *gqlerror.Error {
	if errors.Is(err, errTooDeep) {
		return newError(codeTooComplex, err.Error())
	}
	return newError(codeBadRequest, err.Error()) // none of parseRequest's errors quotes the body
}

// unauthenticated answers a caller without valid credentials, with what is wrong with them.
func (h *Handler) unauthenticated(ctx context.Context) answer {
	err := auth.ErrFromContext(ctx)
	if !errors.Is(err, auth.ErrBadCredentials) {
		err = auth.ErrNoCredentials
	}
	return refuse(http.StatusUnauthorized, newError(codeUnauthenticated, err.Error()))
}

func (h *Handler) write(w http.ResponseWriter, mediaType string, a answer) {
	status := a.status
	if status == statusByMediaType {
		status = http.StatusOK
		if mediaType == typeGraphQL {
			status = http.StatusBadRequest
		}
	}
	var head bytes.Buffer
	head.WriteByte('{')
	if len(a.errors) > 0 {
		head.WriteString(`"errors":`)
		enc := json.NewEncoder(&head)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(a.errors); err != nil { // strings, numbers and codes of ours
			head.Reset()
			head.WriteString(`{"errors":[{"message":"internal error","extensions":{"code":"` + codeInternal + `"}}]`)
		}
	}
	tail := "}"
	if a.data != nil {
		if len(a.errors) > 0 {
			head.WriteByte(',')
		}
		head.WriteString(`"data":`)
	}
	header := w.Header()
	header.Set("Content-Type", mediaType+"; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(head.Len()+len(a.data)+len(tail)))
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(status)
	// The data is written as it is: encoding/json would escape what must stay. A caller that is gone
	// reads no error either.
	_, _ = head.WriteTo(w)
	_, _ = w.Write(a.data)
	_, _ = io.WriteString(w, tail)
}

// negotiate chooses the media type of the answer: GraphQL's own where the caller asks for it at least
// as much as for JSON, else JSON.
func negotiate(accept []string) string {
	var graphQL, plain float64
	for _, list := range accept {
		for part := range strings.SplitSeq(list, ",") {
			name, params, err := mime.ParseMediaType(part)
			if err != nil {
				continue
			}
			q := 1.0
			if text, ok := params["q"]; ok {
				if q, err = strconv.ParseFloat(text, 64); err != nil || q < 0 || q > 1 {
					continue
				}
			}
			switch name {
			case typeGraphQL:
				graphQL = max(graphQL, q)
			case typeJSON:
				plain = max(plain, q)
			}
		}
	}
	if graphQL > 0 && graphQL >= plain {
		return typeGraphQL
	}
	return typeJSON
}
