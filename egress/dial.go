package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxAddresses is how many of a name's addresses are tried: a name server can
	// answer hundreds.
	maxAddresses = 6
	// fallbackDelay is how long an address has before the next one is tried beside
	// it (RFC 8305).
	fallbackDelay = 250 * time.Millisecond
	keepAlive     = 30 * time.Second
)

// stage is the part of a connection's making at which it failed.
type stage string

const (
	stageDNS     stage = "dns"
	stageConnect stage = "connect"
	stageTLS     stage = "tls"
)

// dialError says at which stage no connection came to be.
type dialError struct {
	stage stage
	err   error
}

func (e *dialError) Error() string { return string(e.stage) + ": " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// dialer makes every connection: it resolves, vets all addresses, and dials one of
// them with the guard at the socket.
type dialer struct {
	guard  *Guard
	lookup LookupFunc
	net    net.Dialer
	tls    *tls.Config
}

func newDialer(guard *Guard, lookup LookupFunc, roots *x509.CertPool) *dialer {
	if lookup == nil {
		lookup = SystemLookup
	}
	return &dialer{
		guard:  guard,
		lookup: lookup,
		net:    net.Dialer{Control: guard.Control, KeepAlive: keepAlive},
		tls:    clientTLS(roots),
	}
}

func (d *dialer) dial(ctx context.Context, _, address string) (net.Conn, error) {
	ctx, cancel, observed := bounded(ctx)
	defer cancel()
	return d.connect(ctx, observed, address)
}

// dialTLS does the handshake itself, so that its failures are told apart from
// those of the connection.
func (d *dialer) dialTLS(ctx context.Context, _, address string) (net.Conn, error) {
	ctx, cancel, observed := bounded(ctx)
	defer cancel()
	conn, err := d.connect(ctx, observed, address)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		_ = conn.Close()
		return nil, &dialError{stageTLS, err}
	}
	config := d.tls.Clone()
	config.ServerName = host
	secured := tls.Client(conn, config)
	start := time.Now()
	err = secured.HandshakeContext(ctx)
	observed.phase(stageTLS, time.Since(start))
	if err != nil {
		_ = conn.Close()
		return nil, &dialError{stageTLS, err}
	}
	if metered, ok := conn.(*meteredConn); ok {
		metered.streams = secured.ConnectionState().NegotiatedProtocol == "h2"
	}
	return secured, nil
}

// bounded gives a dial the deadline of the attempt that asked for it: net/http
// lets a dial go on after its request was given up.
func bounded(ctx context.Context) (context.Context, context.CancelFunc, *observation) {
	observed := attemptFrom(ctx)
	if observed == nil {
		observed = &observation{deadline: time.Now().Add(defaultTimeout)}
	}
	ctx, cancel := context.WithDeadline(ctx, observed.deadline)
	return ctx, cancel, observed
}

func (d *dialer) connect(ctx context.Context, observed *observation, address string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &dialError{stageConnect, err}
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, &dialError{stageConnect, err}
	}
	addrs, err := d.resolve(ctx, observed, host)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	conn, err := d.race(ctx, observed, addrs, uint16(port))
	observed.phase(stageConnect, time.Since(start))
	if err != nil {
		return nil, &dialError{stageConnect, err}
	}
	return newMeteredConn(conn), nil
}

// resolve returns the addresses to dial, all of them vetted.
func (d *dialer) resolve(ctx context.Context, observed *observation, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, d.guard.Check(addr)
	}
	start := time.Now()
	addrs, err := d.lookup(ctx, host)
	observed.phase(stageDNS, time.Since(start))
	if err != nil {
		return nil, &dialError{stageDNS, err}
	}
	if len(addrs) == 0 {
		return nil, &dialError{stageDNS, errors.New("no address")}
	}
	if err := d.guard.checkAll(addrs); err != nil {
		return nil, err
	}
	return addrs[:min(len(addrs), maxAddresses)], nil
}

// race dials the addresses in turn and takes the first connection: the next one
// starts when the one before failed or did not answer within fallbackDelay.
func (d *dialer) race(ctx context.Context, observed *observation, addrs []netip.Addr, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the dials that lost
	type dialled struct {
		conn net.Conn
		err  error
	}
	results := make(chan dialled)
	running, next := 0, 0
	start := func() {
		target := netip.AddrPortFrom(addrs[next].Unmap(), port).String()
		observed.dialling(target)
		next++
		running++
		go func() {
			conn, err := d.net.DialContext(ctx, "tcp", target)
			results <- dialled{conn, err}
		}()
	}
	start()
	timer := time.NewTimer(fallbackDelay)
	defer timer.Stop()
	var first error
	for running > 0 {
		select {
		case result := <-results:
			running--
			if result.err == nil {
				cancel()
				// The losers end at once, for their context has: nobody is left behind.
				for ; running > 0; running-- {
					if late := <-results; late.conn != nil {
						_ = late.conn.Close()
					}
				}
				return result.conn, nil
			}
			if first == nil {
				first = result.err
			}
			if next < len(addrs) {
				start()
				timer.Reset(fallbackDelay)
			}
		case <-timer.C:
			if next < len(addrs) {
				start()
				timer.Reset(fallbackDelay)
			}
		}
	}
	return nil, first
}

// errFlood ends a connection whose other side sends what nobody asked for.
var errFlood = errors.New("the receiver sent far more than an answer")

const (
	// handshakeBudget is what a connection may receive before its first attempt:
	// certificates and settings.
	handshakeBudget = 1 << 20
	// attemptBudget is what each attempt adds: headers, what is kept of a body,
	// what is in flight when its reading stops.
	attemptBudget = 1 << 20
	maxBudget     = 256 << 20
)

// meteredConn counts what is written, so that an attempt knows whether any byte
// of it left, and bounds what is received: HTTP/2 control frames and empty 1xx
// responses cost a receiver nothing and would keep a core busy between attempts.
type meteredConn struct {
	net.Conn
	written atomic.Int64
	budget  atomic.Int64
	start   atomic.Pointer[start] // of the request that is written next; nil: whenever
	// streams says that this is HTTP/2, whose answers say which request they are to. It is set before
	// the connection is shared.
	streams bool

	mu      sync.Mutex
	reading bool // nothing that was received is left to be read
	closed  bool
	rested  chan struct{} // closed when reading or closed becomes true; nil: nobody waits
}

func newMeteredConn(conn net.Conn) *meteredConn {
	metered := &meteredConn{Conn: conn}
	metered.budget.Store(handshakeBudget)
	return metered
}

func (c *meteredConn) Read(buffer []byte) (int, error) {
	c.now(true, false)
	n, err := c.Conn.Read(buffer)
	c.now(false, false)
	if c.budget.Add(-int64(n)) < 0 {
		_ = c.Close()
		return 0, fmt.Errorf("read: %w", errFlood)
	}
	return n, err
}

// start is until when a request may start, and is told when it did not for that.
type start struct {
	by   time.Time
	late *atomic.Bool
}

// writeWithin is how soon a connection that was made for a request is used.
const writeWithin = 900 * time.Millisecond

var errLate = errors.New("the request came too late to be sent")

func (c *meteredConn) Write(buffer []byte) (int, error) {
	if s := c.start.Swap(nil); s != nil && time.Now().After(s.by) {
		s.late.Store(true)
		_ = c.Close()
		return 0, fmt.Errorf("write: %w", errLate)
	}
	n, err := c.Conn.Write(buffer)
	c.written.Add(int64(n))
	return n, err
}

// Close closes the connection.
func (c *meteredConn) Close() error {
	c.now(false, true)
	return c.Conn.Close()
}

func (c *meteredConn) now(reading, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading, c.closed = reading, c.closed || closed
	if (c.reading || c.closed) && c.rested != nil {
		close(c.rested)
		c.rested = nil
	}
}

// rest waits until whoever reads the connection has come back for more, and so has found nothing beyond
// the answer to the last attempt, or has closed it over what was there. Without it what a receiver
// sends behind an answer could be taken for the answer to the next attempt: net/http looks for it
// only after it has let the connection go. It takes microseconds; until bounds it all the same.
func (c *meteredConn) rest(until time.Time) {
	c.mu.Lock()
	if c.streams || c.reading || c.closed {
		c.mu.Unlock()
		return
	}
	if c.rested == nil {
		c.rested = make(chan struct{})
	}
	rested := c.rested
	c.mu.Unlock()
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-rested:
	case <-timer.C:
	}
}

// grant is called when an attempt begins to use the connection.
func (c *meteredConn) grant(wire int64) {
	if c.budget.Load() < maxBudget {
		c.budget.Add(attemptBudget + wire)
	}
}

// metered finds the meteredConn beneath what net/http reports.
func metered(conn net.Conn) *meteredConn {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	found, _ := conn.(*meteredConn)
	return found
}
