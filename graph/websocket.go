package graph

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/vektah/gqlparser/v2/ast"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
)

// newUpgrader makes what makes WebSockets. Any origin may: a page of another site has no credentials of ours to
// send, since whoever attaches a session's cookie to a request checks where it comes from.
func newUpgrader() *websocket.Upgrader {
	return &websocket.Upgrader{
		HandshakeTimeout: 10 * time.Second,
		ReadBufferSize:   1 << 10, WriteBufferSize: 4 << 10, WriteBufferPool: &sync.Pool{},
		Subprotocols: []string{subprotocol},
		CheckOrigin:  func(*http.Request) bool { return true },
		Error: func(w http.ResponseWriter, _ *http.Request, status int, _ error) {
			http.Error(w, "this is not a WebSocket handshake that can be answered", status)
		},
	}
}

// connection is one WebSocket. Messages are read by one goroutine, which makes subscriptions and
// answers pings in the order in which they come: the pong to a ping says that every subscription
// before it has begun. Each operation runs in a goroutine of its own.
type connection struct {
	handler *Handler
	socket  *websocket.Conn
	ctx     context.Context //nolint:containedctx // it is the connection's own
	end     context.CancelCauseFunc
	closing sync.Once

	writing sync.Mutex

	mu         sync.Mutex
	operations map[string]*operationOf
	idle       *time.Timer
	running    sync.WaitGroup

	// For the reading goroutine alone.
	principal *auth.Principal // nil until connection_init
	caller    context.Context //nolint:containedctx // ctx with the principal
}

// operationOf is an operation that is open on a connection.
type operationOf struct{ cancel context.CancelFunc }

// serveWebSocket turns the request into a WebSocket and serves it until it is closed.
func (h *Handler) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	socket, err := h.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // it was answered
	}
	ctx, end := context.WithCancelCause(r.Context())
	c := &connection{handler: h, socket: socket, ctx: ctx, end: end, operations: map[string]*operationOf{}}
	done, ok := h.streams.begin(func() { end(errStopping) })
	if !ok {
		c.close(websocket.CloseGoingAway, errStopping.Error())
		c.drain()
		return
	}
	defer done()
	// Whatever ends the context closes the socket, which ends the reading.
	stop := context.AfterFunc(ctx, c.closeWithCause)
	defer stop()
	defer func() {
		c.drain()
		c.running.Wait()
	}()
	if socket.Subprotocol() != subprotocol {
		c.close(closeNoProtocol, "the sub-protocol must be "+subprotocol)
		return
	}
	l := &h.streams.limits
	lifetime := time.AfterFunc(l.Lifetime, func() { end(errLifetime) })
	defer lifetime.Stop()
	c.idle = time.AfterFunc(l.Idle, func() { end(errIdle) })
	defer c.idle.Stop()
	c.keepAlive()
	c.read()
}

// closeWithCause tells the client why the context ended.
func (c *connection) closeWithCause() {
	cause := context.Cause(c.ctx)
	switch {
	case errors.Is(cause, auth.ErrBadCredentials):
		c.close(closeForbidden, cause.Error())
	case errors.Is(cause, errStopping), errors.Is(cause, errLifetime):
		c.close(websocket.CloseGoingAway, cause.Error())
	case errors.Is(cause, errIdle):
		c.close(websocket.CloseNormalClosure, cause.Error())
	default:
		c.close(websocket.CloseGoingAway, "")
	}
}

// maxReason is how long the reason of a close may be.
const maxReason = 123

// goodbye is how long a client may take to answer a close.
const goodbye = time.Second

// close tells the client that the connection ends, once. What it sends from then on is not heard.
func (c *connection) close(code int, reason string) {
	c.closing.Do(func() {
		c.end(nil)
		deadline := time.Now().Add(goodbye)
		text := websocket.FormatCloseMessage(code, strings.ToValidUTF8(reason[:min(len(reason), maxReason)], ""))
		// A client that is gone hears nothing of this.
		_ = c.socket.WriteControl(websocket.CloseMessage, text, deadline)
		_ = c.socket.SetReadDeadline(deadline)
	})
}

// drain waits for the client's answer to a close, so that the close is not lost with the connection,
// and closes the socket.
func (c *connection) drain() {
	if c.ctx.Err() != nil {
		c.closeWithCause()
	}
	c.close(websocket.CloseNormalClosure, "")
	for {
		if _, _, err := c.socket.NextReader(); err != nil {
			break
		}
	}
	_ = c.socket.Close()
}

// keepAlive pings the client for as long as it answers.
func (c *connection) keepAlive() {
	every := c.handler.streams.limits.KeepAlive
	extend := func(string) error {
		if c.ctx.Err() != nil {
			return nil //nolint:nilerr // it is being closed
		}
		return c.socket.SetReadDeadline(time.Now().Add(3 * every))
	}
	_ = extend("") // a socket that is closed is noticed by who reads it
	c.socket.SetPongHandler(extend)
	var ping *time.Timer
	var mu sync.Mutex
	mu.Lock()
	defer mu.Unlock()
	ping = time.AfterFunc(every, func() {
		err := c.socket.WriteControl(websocket.PingMessage, nil, time.Now().Add(c.handler.streams.limits.WriteTimeout))
		mu.Lock()
		defer mu.Unlock()
		if err == nil && c.ctx.Err() == nil {
			ping.Reset(every)
		}
	})
	context.AfterFunc(c.ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		ping.Stop()
	})
}

// read takes messages until the socket is closed.
func (c *connection) read() {
	h := c.handler
	l := &h.streams.limits
	c.socket.SetReadLimit(min(h.limits.AnonymousBytes, l.MessageBytes))
	timeout := time.AfterFunc(l.InitTimeout, func() { c.close(closeInitTimeout, "Connection initialisation timeout") })
	defer timeout.Stop()
	for {
		kind, reader, err := c.socket.NextReader()
		if err != nil {
			c.lost(err)
			return
		}
		text, err := io.ReadAll(reader)
		if err != nil {
			c.lost(err) // or it was too large: the socket was closed with that
			return
		}
		if c.ctx.Err() != nil {
			return
		}
		if kind != websocket.TextMessage {
			c.close(closeBadMessage, "messages must be text")
			return
		}
		m, err := parseMessage(text, h.limits.Nesting)
		if err != nil {
			c.close(closeBadMessage, "the message is not valid JSON of the protocol")
			return
		}
		if m.kind == "connection_init" {
			timeout.Stop()
		}
		if !c.take(m) {
			return
		}
	}
}

// lost closes a socket whose client is taken for gone, and tells it why, should it come back.
func (c *connection) lost(err error) {
	if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
		c.close(websocket.CloseGoingAway, errSilent.Error())
	}
}

// take does what a message asks for. False where the socket was closed.
func (c *connection) take(m message) bool {
	refuse := func(code int, reason string) bool {
		c.close(code, reason)
		return false
	}
	switch m.kind {
	case "connection_init":
		if c.principal != nil {
			return refuse(closeTwoInits, "Too many initialisation requests")
		}
		return c.begin(m.payload)
	case "ping":
		return c.write(writeMessage("pong", "", m.payload))
	case "pong":
		return true
	case "subscribe":
		switch {
		case c.principal == nil:
			return refuse(closeUnauthorized, "Unauthorized")
		case m.id == "" || len(m.id) > maxOperationID || len(m.payload) == 0:
			return refuse(closeBadMessage, "subscribe needs an id of at most 256 bytes and a payload")
		}
		return c.subscribe(m.id, m.payload)
	case "complete":
		c.mu.Lock()
		op := c.operations[m.id]
		c.mu.Unlock()
		if op != nil {
			c.finish(m.id, op)
		}
		return true
	default:
		return refuse(closeBadMessage, "the message has no type that the protocol knows")
	}
}

// begin takes a client's credentials: those of connection_init, else those of the handshake.
func (c *connection) begin(payload []byte) bool {
	h := c.handler
	header, err := credentials(payload, h.limits.Nesting)
	if err != nil {
		c.close(closeBadMessage, "the payload of connection_init must be an object with a text as Authorization")
		return false
	}
	principal, known := auth.FromContext(c.ctx)
	if header != "" {
		principal, err = h.auth.Authenticate(c.ctx, header)
	} else if !known {
		err = auth.ErrFromContext(c.ctx)
	}
	if err != nil {
		if _, ok := errors.AsType[*models.UnavailableError](err); ok {
			c.close(websocket.CloseTryAgainLater, "the credentials cannot be checked now")
		} else {
			c.close(closeForbidden, err.Error())
		}
		return false
	}
	c.principal, c.caller = principal, auth.WithPrincipal(c.ctx, principal)
	c.socket.SetReadLimit(min(h.limits.BodyBytes, h.streams.limits.MessageBytes))
	c.running.Go(func() { h.watch(c.ctx, principal, c.end) })
	return c.write(writeMessage("connection_ack", "", nil))
}

// subscribe begins an operation. A subscription has begun once it returns.
func (c *connection) subscribe(id string, payload []byte) bool {
	h := c.handler
	ctx, cancel := context.WithCancel(c.caller)
	op := &operationOf{cancel}
	c.mu.Lock()
	_, taken := c.operations[id]
	full := len(c.operations) >= h.streams.limits.Operations
	if !taken && !full {
		c.operations[id] = op
		c.idle.Stop()
	}
	c.mu.Unlock()
	switch {
	case taken:
		cancel()
		c.close(closeDuplicate, "Subscriber for this id already exists")
		return false
	case full:
		cancel()
		return c.write(writeMessage("error", id, errorsJSON(gqlErrors(tooMany(
			"this connection has %d operations open, the most that there may be", h.streams.limits.Operations)))))
	}
	req, err := parseRequest(payload, h.limits.Nesting)
	if err != nil {
		return c.fail(id, op, errorsJSON(gqlErrors(bodyError(err))))
	}
	p, refused := h.prepare(ctx, req, c.principal)
	if refused != nil {
		return c.fail(id, op, errorsJSON(refused.errors))
	}
	if p.operation.Operation != ast.Subscription {
		c.running.Go(func() { c.answer(ctx, id, op, p) })
		return true
	}
	s, errs := h.subscribe(ctx, p, c.principal)
	if len(errs) > 0 {
		return c.fail(id, op, errorsJSON(errs))
	}
	c.running.Go(func() { c.follow(id, op, s) })
	return true
}

// fail ends an operation with its errors, unless the client has ended it.
func (c *connection) fail(id string, op *operationOf, errs []byte) bool {
	if c.finish(id, op) {
		return c.write(writeMessage("error", id, errs))
	}
	return true
}

// finish forgets an operation. False where it was forgotten before.
func (c *connection) finish(id string, op *operationOf) bool {
	op.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.operations[id] != op {
		return false
	}
	delete(c.operations, id)
	if len(c.operations) == 0 {
		c.idle.Reset(c.handler.streams.limits.Idle)
	}
	return true
}

// answer runs a query or a mutation.
func (c *connection) answer(ctx context.Context, id string, op *operationOf, p *prepared) {
	bounded, cancel := context.WithTimeout(ctx, c.handler.timeout)
	defer cancel()
	a := c.handler.execute(bounded, p)
	if ctx.Err() == nil {
		c.write(writeMessage("next", id, resultJSON(a.errors, a.data)))
	}
	if c.finish(id, op) {
		c.write(writeMessage("complete", id, nil))
	}
}

// follow passes a subscription's updates on until it ends.
func (c *connection) follow(id string, op *operationOf, s *running) {
	defer s.close()
	for {
		result, done := s.next()
		switch {
		case done && result == nil:
			c.finish(id, op)
			return
		case done:
			// The protocol has errors without the object around them.
			c.fail(id, op, bytes.TrimSuffix(bytes.TrimPrefix(result, []byte(`{"errors":`)), []byte{'}'}))
			return
		}
		if s.ctx.Err() != nil || !c.write(writeMessage("next", id, result)) {
			c.finish(id, op)
			return
		}
	}
}

// write sends a message. False where the client did not take it in time: then the socket is closed.
func (c *connection) write(text []byte) bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	err := c.socket.SetWriteDeadline(time.Now().Add(c.handler.streams.limits.WriteTimeout))
	if err == nil {
		err = c.socket.WriteMessage(websocket.TextMessage, text)
	}
	if err != nil {
		_ = c.socket.Close() // ends the reading, and with it everything else
		return false
	}
	return true
}
