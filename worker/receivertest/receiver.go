// Package receivertest is a real HTTP receiver for tests: it listens on
// loopback, keeps everything that it gets, verifies signatures, and can answer in
// every way that a receiver on the internet can, the hostile ones included.
//
// A test scripts answers, drives the system, waits for requests and compares the
// receiver's log with what the system says. Nothing in it sleeps: hanging and
// dripping answers end when the client goes, the test releases them, or the test
// ends. Only tests import it.
package receivertest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/intervengine/webhooks/signing"
)

// Host is a name that the receiver's certificates are made for, besides
// 127.0.0.1. It does not resolve by itself: tests inject their own lookup.
const Host = "receiver.test"

// Path is the path of Receiver.URL.
const Path = "/hook"

// Receiver is a running receiver. Safe for concurrent use.
type Receiver struct {
	t        testing.TB
	mode     Mode
	http2    bool
	settings []H2Setting
	raw      H2Behaviour
	ca       *authority
	listener net.Listener

	closing  context.Context
	close    context.CancelFunc
	handlers sync.WaitGroup

	mu          sync.Mutex
	requests    []Request
	connections int
	changed     chan struct{} // closed and replaced when a request or a connection comes
	released    chan struct{}
	keys        []string
	verifier    *signing.Verifier
	script      []Answer
	answer      Answer
	onRequest   func(Request)
}

// Option changes how New makes a receiver.
type Option func(*Receiver)

// TLS serves over TLS with a certificate or handshake of the given mode.
func TLS(mode Mode) Option { return func(r *Receiver) { r.mode = mode } }

// HTTP2 lets clients choose HTTP/2; it implies TLS(Valid) unless TLS is given.
func HTTP2() Option { return func(r *Receiver) { r.http2 = true } }

// RawHTTP2 serves HTTP/2 frame by frame: behaviour answers each request, settings
// are announced first. It implies TLS(Valid).
func RawHTTP2(behaviour H2Behaviour, settings ...H2Setting) Option {
	return func(r *Receiver) { r.raw, r.settings, r.http2 = behaviour, settings, true }
}

// Secret makes the receiver verify each request with these keys ("whsec_…" or
// "whpk_…"), any of which may have signed it.
func Secret(keys ...string) Option { return func(r *Receiver) { r.Secret(keys...) } }

// Default sets the answer to requests that no script covers; without it, an
// empty 200.
func Default(answer Answer) Option { return func(r *Receiver) { r.answer = answer } }

// Listener serves on listener instead of a free port of 127.0.0.1.
func Listener(listener net.Listener) Option { return func(r *Receiver) { r.listener = listener } }

// New starts a receiver that the test's end stops. Unless an option says
// otherwise it speaks plain HTTP/1.1 and answers an empty 200.
func New(t testing.TB, options ...Option) *Receiver {
	t.Helper()
	r := &Receiver{
		t:        t,
		answer:   Status(http.StatusOK),
		changed:  make(chan struct{}),
		released: make(chan struct{}),
	}
	r.closing, r.close = context.WithCancel(context.Background())
	for _, option := range options {
		option(r)
	}
	if r.http2 && r.mode == Plain {
		r.mode = Valid
	}
	if r.listener == nil {
		listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("receivertest: listen: %v", err)
		}
		r.listener = listener
	}
	r.ca = newAuthority(t)
	t.Cleanup(r.serve())
	return r
}

// serve starts the server and returns what stops it and waits for its handlers.
func (r *Receiver) serve() (stop func()) {
	counted := &countingListener{r.listener, r}
	switch {
	case r.mode.beneathTLS():
		return r.serveConnections(counted, r.mode.connection)
	case r.raw != nil:
		return r.serveConnections(tls.NewListener(counted, r.tlsConfig("h2")), r.serveFrames)
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(r.handle),
		ErrorLog:          log.New(io.Discard, "", 0),
		ReadHeaderTimeout: time.Minute,
		MaxHeaderBytes:    1 << 20,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connection{}, conn)
		},
	}
	var listener net.Listener = counted
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(r.http2)
	server.Protocols = protocols
	serve := func() { _ = server.Serve(listener) }
	if r.mode != Plain {
		server.TLSConfig = r.tlsConfig()
		serve = func() { _ = server.ServeTLS(listener, "", "") }
	}
	var serving sync.WaitGroup
	serving.Go(serve)
	return func() {
		r.close()
		_ = server.Close()
		serving.Wait()
		r.handlers.Wait()
	}
}

// serveConnections runs handle for every connection until the receiver stops.
func (r *Receiver) serveConnections(listener net.Listener, handle func(context.Context, net.Conn)) (stop func()) {
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(r.closing, func() { _ = conn.Close() })()
				handle(r.closing, conn)
			})
		}
	})
	return func() {
		r.close()
		_ = listener.Close()
		serving.Wait()
	}
}

// URL is the receiver's target URL, by address: http(s)://127.0.0.1:port/hook.
func (r *Receiver) URL() string { return r.scheme() + "://" + r.AddrPort().String() + Path }

// NamedURL is the target URL by name: http(s)://receiver.test:port/hook.
func (r *Receiver) NamedURL() string {
	_, port, _ := net.SplitHostPort(r.listener.Addr().String())
	return r.scheme() + "://" + net.JoinHostPort(Host, port) + Path
}

// AddrPort is what the receiver listens on.
func (r *Receiver) AddrPort() netip.AddrPort {
	return netip.MustParseAddrPort(r.listener.Addr().String())
}

// RootCAs trusts the authority that signs the receiver's certificates in the
// modes that are signed by it.
func (r *Receiver) RootCAs() *x509.CertPool { return r.ca.pool }

// Authority is what RootCAs trusts, as PEM: for a client that is another process.
func (r *Receiver) Authority() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.ca.certificate.Raw})
}

// Secret replaces the keys that requests are verified with; without keys they
// are not verified.
func (r *Receiver) Secret(keys ...string) {
	r.t.Helper()
	var verifier *signing.Verifier
	if len(keys) > 0 {
		var err error
		if verifier, err = signing.NewVerifier(keys...); err != nil {
			r.t.Fatalf("receivertest: %v", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys, r.verifier = slices.Clone(keys), verifier
}

// Answer replaces the answer to requests that no script covers.
func (r *Receiver) Answer(answer Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// Script adds answers for the next requests, one each, in order of arrival.
func (r *Receiver) Script(answers ...Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.script = append(r.script, answers...)
}

// OnRequest sets a function that is called with every request after it was kept
// and before it is answered: where a test kills a process or moves a clock.
func (r *Receiver) OnRequest(call func(Request)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onRequest = call
}

// Release ends every answer that hangs now; later ones hang again.
func (r *Receiver) Release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.released)
	r.released = make(chan struct{})
}

// connection is the key of a request's net.Conn in its context.
type connection struct{}

// soon is within how long of its arrival a request is taken up by a receiver that is not behind; what the
// kernel says of the time is not more exact.
const soon = 20 * time.Millisecond

// arrived is the moment of which since says how long ago it was. A busy process may have to wait before or
// after it has asked, for seconds, so the answer counts that came quickest of a few.
func arrived(since func() (time.Duration, bool)) (at time.Time, known bool) {
	const (
		quick = 5 * time.Millisecond
		tries = 10
	)
	best := time.Duration(math.MaxInt64)
	for n := 0; n < tries && best > quick; n++ {
		asked := time.Now()
		ago, ok := since()
		if !ok {
			return time.Time{}, false
		}
		if took := time.Since(asked); took < best {
			at, best = asked.Add(took/2-ago), took
		}
	}
	return at, true
}

func (r *Receiver) handle(w http.ResponseWriter, request *http.Request) {
	r.handlers.Add(1)
	defer r.handlers.Done()
	kept := Request{
		Method: request.Method, Path: request.URL.Path, Query: request.URL.RawQuery, Proto: request.Proto,
		Host: request.Host, Header: request.Header.Clone(), RemoteAddr: request.RemoteAddr, At: time.Now(),
	}
	kept.Arrived = kept.At
	if conn, ok := request.Context().Value(connection{}).(net.Conn); ok {
		if at, known := arrived(func() (time.Duration, bool) { return sinceData(conn) }); known && kept.At.Sub(at) > soon {
			kept.Arrived = at
		}
	}
	kept.Body, kept.BodyErr = io.ReadAll(request.Body)
	answer, released := r.keep(&kept)
	answer(&Exchange{W: w, R: request, Request: kept, receiver: r, released: released})
	if r.closing.Err() != nil {
		// What the end released has no answer; to return would be a 200.
		panic(http.ErrAbortHandler)
	}
}

func (r *Receiver) scheme() string {
	if r.mode == Plain {
		return "http"
	}
	return "https"
}

// countingListener tells the receiver of each connection, also of those that
// never carry a request.
type countingListener struct {
	net.Listener
	receiver *Receiver
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.receiver.mu.Lock()
		l.receiver.connections++
		l.receiver.notify()
		l.receiver.mu.Unlock()
	}
	return conn, err
}
