package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/intervengine/webhooks/internal/testenv/services"
)

// Direction is the way that a proxy's bytes go.
type Direction int

// The two directions of a connection.
const (
	ToServer Direction = iota
	ToClient
)

// A Verdict is what a Hook decides about a chunk.
type Verdict int

const (
	// Pass sends the chunk on. It is the zero Verdict.
	Pass Verdict = iota
	// Swallow drops the chunk and lets the connection live.
	Swallow
	// ResetBefore drops the chunk and resets both sides.
	ResetBefore
	// ResetAfter sends the chunk on, then resets the side that it came from and closes the other:
	// what the server was told it may do, and the client does not learn of it.
	ResetAfter
	// StallAfter sends the chunk on, and nothing more of this connection in this direction.
	StallAfter
)

// A Hook sees each chunk before it goes on. Connections are numbered from 1 in the order of their
// coming. A chunk is what one read returned: protocols cut it anywhere. Hooks of different
// connections and directions run at the same time. The bytes may be looked at until it returns.
type Hook func(connection int, direction Direction, chunk []byte) Verdict

// A Proxy forwards TCP connections on 127.0.0.1 to one address and does them harm when told to.
// A new one is transparent. All methods may be called from several goroutines at any time and hold
// for open connections and later ones, unless they say otherwise.
type Proxy struct {
	addr string
	dial func() (net.Conn, error) // gives up when the proxy closes
	work sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while the proxy is down
	links    map[*link]struct{}
	count    int
	faults   faults
	changed  chan struct{} // closed and replaced when faults change
}

// faults is what happens to each chunk now.
type faults struct {
	latency [2]time.Duration
	stalled bool
	slice   int
	pause   time.Duration
	hook    Hook
}

// NewProxy starts a proxy to a host:port, or to the host of a URL, that ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	if parsed, err := url.Parse(target); err == nil && parsed.Host != "" {
		target = parsed.Host
	}
	listener, err := services.ListenLoopback()
	if err != nil {
		t.Fatalf("start proxy: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	proxy := &Proxy{
		addr: listener.Addr().String(),
		dial: func() (net.Conn, error) {
			dialer := net.Dialer{Timeout: 10 * time.Second}
			return dialer.DialContext(ctx, "tcp", target)
		},
		links: map[*link]struct{}{}, changed: make(chan struct{}),
	}
	proxy.serve(listener)
	t.Cleanup(func() {
		cancel()
		proxy.Down()
		proxy.work.Wait()
	})
	return proxy
}

// Addr is where the proxy listens, host:port. It never changes.
func (p *Proxy) Addr() string { return p.addr }

// URL returns the URL with its host replaced by the proxy.
func (p *Proxy) URL(rawURL string) string {
	parsed, err := url.Parse(rawURL)
	if err != nil {
		panic("testenv: Proxy.URL of something that is no URL") // a mistake in the test
	}
	parsed.Host = p.addr
	return parsed.String()
}

// Latency delays every chunk in both directions by d, in order; zero ends it.
func (p *Proxy) Latency(d time.Duration) {
	p.change(func(f *faults) { f.latency = [2]time.Duration{d, d} })
}

// LatencyTo delays the chunks of one direction by d; zero ends it.
func (p *Proxy) LatencyTo(direction Direction, d time.Duration) {
	p.change(func(f *faults) { f.latency[direction] = d })
}

// Stall makes every connection half-open: accepted and kept, and nothing goes through, until Heal.
func (p *Proxy) Stall() { p.change(func(f *faults) { f.stalled = true }) }

// Slice sends chunks on in pieces of size bytes with a pause between them; size zero ends it.
func (p *Proxy) Slice(size int, pause time.Duration) {
	p.change(func(f *faults) { f.slice, f.pause = size, pause })
}

// SetHook shows each chunk to hook before it goes on; nil ends it.
func (p *Proxy) SetHook(hook Hook) { p.change(func(f *faults) { f.hook = hook }) }

// Heal ends Latency, Stall, Slice and the hook. What a stall held back goes on.
func (p *Proxy) Heal() { p.change(func(f *faults) { *f = faults{} }) }

// Cut closes every open connection in order (FIN). New ones are accepted.
func (p *Proxy) Cut() { p.drop((*link).cut) }

// Reset resets every open connection (RST). New ones are accepted.
func (p *Proxy) Reset() { p.drop((*link).reset) }

// Down resets every connection and refuses new ones until Up. Being down twice is being down.
func (p *Proxy) Down() {
	p.mu.Lock()
	listener := p.listener
	p.listener = nil
	p.mu.Unlock()
	if listener != nil {
		_ = listener.Close() // it only ends the accepting
	}
	p.Reset()
}

// Up accepts connections again after Down, on the same address.
func (p *Proxy) Up() error {
	p.mu.Lock()
	isUp := p.listener != nil
	p.mu.Unlock()
	if isUp {
		return nil
	}
	listener, err := net.Listen("tcp", p.addr) //nolint:noctx // immediate
	if err != nil {
		return fmt.Errorf("listen again: %w", err)
	}
	p.serve(listener)
	return nil
}

// Connections returns how many connections are open now.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Accepted returns how many connections there have been.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

func (p *Proxy) change(apply func(*faults)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	apply(&p.faults)
	close(p.changed)
	p.changed = make(chan struct{})
}

// current returns the faults of now and a channel that closes when they change.
func (p *Proxy) current() (faults, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults, p.changed
}

func (p *Proxy) drop(end func(*link)) {
	p.mu.Lock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		end(l)
	}
}

// serve accepts connections until the listener closes.
func (p *Proxy) serve(listener net.Listener) {
	p.mu.Lock()
	p.listener = listener
	p.mu.Unlock()
	p.work.Go(func() {
		for {
			client, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // a connection that ended while it waited
			}
			p.work.Go(func() { p.connect(listener, client) })
		}
	})
}

// connect joins one client to the server and returns when the link has ended.
func (p *Proxy) connect(listener net.Listener, client net.Conn) {
	server, err := p.dial()
	if err != nil {
		reset(client) // as close to the server's own refusal as an accepted connection can be
		return
	}
	l := &link{proxy: p, client: client, server: server, ended: make(chan struct{})}
	p.mu.Lock()
	if p.listener != listener { // went down meanwhile
		p.mu.Unlock()
		l.reset()
		return
	}
	p.count++
	l.number = p.count
	p.links[l] = struct{}{}
	p.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { l.forward(ToServer) })
	both.Go(func() { l.forward(ToClient) })
	both.Wait()
	l.cut()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}
