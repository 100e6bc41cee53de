package graph

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/intervengine/webhooks/auth"
)

// StreamLimits bounds streams: WebSocket connections and server-sent events. Zero fields mean the
// default in brackets.
type StreamLimits struct {
	// Subscriptions is how many subscriptions one key or token may have open in this process [1,000].
	Subscriptions int
	// Operations is how many operations may be open on one WebSocket at once [100].
	Operations int
	// MessageBytes is the largest message on a WebSocket [1 MiB]; what is larger goes by POST.
	MessageBytes int64
	// InitTimeout is how long a WebSocket may take to say who it is [10 s].
	InitTimeout time.Duration
	// Idle is how long a WebSocket may be open without an operation [5 min].
	Idle time.Duration
	// Lifetime is how long a stream may be open [24 h]. Clients go on from their last cursor.
	Lifetime time.Duration
	// KeepAlive is how often a stream that is quiet shows that it is alive [15 s]. A WebSocket that
	// leaves three of them unanswered is closed.
	KeepAlive time.Duration
	// WriteTimeout is how long a client may take to take a message [10 s].
	WriteTimeout time.Duration
}

func (l *StreamLimits) setDefaults() {
	orDefault(&l.Subscriptions, 1_000)
	orDefault(&l.Operations, 100)
	orDefault(&l.MessageBytes, 1<<20)
	orDefault((*int64)(&l.InitTimeout), int64(10*time.Second))
	orDefault((*int64)(&l.Idle), int64(5*time.Minute))
	orDefault((*int64)(&l.Lifetime), int64(24*time.Hour))
	orDefault((*int64)(&l.KeepAlive), int64(15*time.Second))
	orDefault((*int64)(&l.WriteTimeout), int64(10*time.Second))
}

// streams are the open streams of a handler, and what each caller has open.
type streams struct {
	limits  StreamLimits
	mu      sync.Mutex
	open    sync.WaitGroup
	stop    map[*stopper]struct{}
	stopped bool
	callers map[callerKey]int
}

// stopper ends a stream, and does not wait for it.
type stopper struct{ stop func() }

// begin counts a stream until the function that it returns is called. False where the handler is
// stopping.
func (s *streams) begin(stop func()) (end func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, false
	}
	key := &stopper{stop}
	s.stop[key] = struct{}{}
	s.open.Add(1)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.stop, key)
		s.open.Done()
	}, true
}

// Stop ends all streams, refuses new ones, and waits until they are gone or ctx ends. Queries and
// mutations by POST go on.
func (h *Handler) Stop(ctx context.Context) error {
	h.streams.mu.Lock()
	h.streams.stopped = true
	for s := range h.streams.stop {
		s.stop()
	}
	h.streams.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		h.streams.open.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("end streams: %w", ctx.Err())
	}
}

// callerKey is who counts as one caller.
type callerKey struct{ id, tenant string }

func keyOf(p *auth.Principal) callerKey {
	k := callerKey{id: p.ID}
	if p.Tenant != nil {
		k.tenant = *p.Tenant
	}
	return k
}

// take counts a subscription of a caller until the function that it returns is called. False where
// the caller has as many as may be.
func (s *streams) take(p *auth.Principal) (giveBack func(), ok bool) {
	key := keyOf(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.callers[key] >= s.limits.Subscriptions {
		return nil, false
	}
	s.callers[key]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.callers[key]--; s.callers[key] == 0 {
			delete(s.callers, key)
		}
	}, true
}

// tooMany says that a bound on what is open at once is reached.
func tooMany(format string, args ...any) *gqlerror.Error {
	e := newError(codeRateLimited, fmt.Sprintf(format, args...))
	e.Extensions["retryAfterMs"] = time.Second.Milliseconds()
	return e
}

// running is a subscription that was made. It is for one goroutine, and must be closed.
type running struct {
	handler  *Handler
	ctx      context.Context //nolint:containedctx // it is the operation's, which lives as long
	prepared *prepared
	field    graphql.CollectedField
	source   source
	respond  graphql.ResponseHandler
	giveBack func()
}

// subscribe makes a subscription. Once it returns, nothing is missed. The errors are its answer where
// it could not be made.
func (h *Handler) subscribe(ctx context.Context, p *prepared, principal *auth.Principal) (*running, gqlerror.List) {
	giveBack, ok := h.streams.take(principal)
	if !ok {
		return nil, gqlerror.List{tooMany("this key has %d subscriptions open, the most that there may be", h.streams.limits.Subscriptions)}
	}
	r := &running{handler: h, prepared: p, giveBack: giveBack}
	r.field = follows(p.operation.SelectionSet, p.variables)[0]
	r.ctx = context.WithValue(h.operationContext(ctx, p), sourceKey{}, &r.source)
	response := graphql.WithResponseContext(h.loaders(r.ctx), h.present, h.recovered)
	r.respond = h.schema.Exec(response)
	if errs := graphql.GetErrors(response); len(errs) > 0 {
		r.close()
		return nil, errs
	}
	return r, nil
}

func (r *running) close() {
	if r.source.close != nil {
		r.source.close()
	}
	r.giveBack()
}

// next waits for an update and gives it as the JSON of a result. With done there are no more; the
// result is then its last word, nil where there is none: the caller has gone.
func (r *running) next() (result []byte, done bool) {
	h := r.handler
	defer func() {
		// Resolvers recover by themselves; this is for what is around them.
		if v := recover(); v != nil {
			result, done = resultJSON(gqlerror.List{h.present(r.ctx, h.recovered(r.ctx, v))}, nil), true
		}
	}()
	if err := r.source.pull(r.ctx); err != nil {
		if r.ctx.Err() != nil {
			return nil, true
		}
		return resultJSON(gqlerror.List{h.present(r.ctx, err)}, nil), true
	}
	ctx, cancel := context.WithTimeout(r.ctx, h.timeout)
	defer cancel()
	ctx = graphql.WithResponseContext(h.loaders(ctx), h.present, h.recovered)
	ctx = graphql.WithFieldContext(ctx, &graphql.FieldContext{Object: "Subscription", Field: r.field})
	response := r.respond(ctx)
	errs := graphql.GetErrors(ctx)
	if response == nil {
		return nil, true
	}
	data := response.Data
	// The fields of Subscription are never null: where an error made one so, there is no data.
	if len(errs) > 0 && bytes.HasSuffix(data, []byte(":null}")) && bytes.Count(data, []byte{'{'}) == 1 {
		data = []byte("null")
	}
	return resultJSON(errs, data), false
}

// resultJSON writes what GraphQL calls an execution result. Without data it is one that was not
// executed. The data is written as it is: encoding/json would escape what must stay.
func resultJSON(errs gqlerror.List, data []byte) []byte {
	var b bytes.Buffer
	b.Grow(len(data) + 64)
	b.WriteByte('{')
	if len(errs) > 0 {
		b.WriteString(`"errors":`)
		b.Write(errorsJSON(errs))
	}
	if data != nil {
		if len(errs) > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"data":`)
		b.Write(data)
	}
	b.WriteByte('}')
	return b.Bytes()
}

func errorsJSON(errs gqlerror.List) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(errs); err != nil { // strings, numbers and codes of ours
		return []byte(`[{"message":"internal error","extensions":{"code":"` + codeInternal + `"}}]`)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}

// watch ends ctx with an error that says so when the caller's credentials are no longer good.
func (h *Handler) watch(ctx context.Context, principal *auth.Principal, end context.CancelCauseFunc) {
	if err := h.auth.Watch(ctx, principal); errors.Is(err, auth.ErrBadCredentials) {
		end(err)
	}
}

// Why a stream ends that its client did not end.
var (
	errStopping = errors.New("the server is stopping")
	errLifetime = errors.New("the stream was open for as long as it may be")
	errIdle     = errors.New("no operation for a long time")
	errSilent   = errors.New("no ping was answered")
)
