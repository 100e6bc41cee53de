package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"time"
)

const (
	defaultKeepBytes      = 16 << 10
	defaultMaxIdle        = 1024
	defaultMaxIdlePerHost = 128
	minIdlePerHost        = 16
	defaultTimeout        = 15 * time.Second
	idleTimeout           = 60 * time.Second

	// maxResponseHeader bounds all headers of a response together, those of 1xx
	// responses before it included. net/http resets the count at each 1xx when a
	// trace sets Got1xxResponse, so none does.
	maxResponseHeader = 64 << 10
	// h2Window is what a receiver may send of one body before it is read: net/http
	// would hold 4 MiB a stream, which a thousand hostile receivers make 4 GiB.
	h2Window           = 64 << 10
	h2WindowConnection = 1 << 20
)

// Options says how a Client works.
type Options struct {
	// Guard vets every address. Required.
	Guard *Guard
	// Lookup resolves names. Nil means SystemLookup.
	Lookup LookupFunc
	// RootCAs are the authorities that receivers' certificates are checked with.
	// Nil means the system's.
	RootCAs *x509.CertPool
	// KeepBytes is how much of a response's decoded body is kept and read. 0 means
	// 16 KiB.
	KeepBytes int
	// MaxIdlePerHost is how many connections to one host stay open between
	// attempts: at least 16. 0 means 128, as many as one webhook may hold in a worker
	// with default settings: with less, a busy one dials anew for every other attempt.
	MaxIdlePerHost int
	// MaxIdle bounds the connections that stay open between attempts. 0 means 1,024.
	MaxIdle int
}

// Client sends attempts. It keeps connections open between them; Close closes
// those that are idle. Safe for concurrent use.
type Client struct {
	transport *http.Transport
	dialer    *dialer
	keep      int
}

// NewClient makes a client. It panics without a guard and on negative bounds:
// mistakes of the programmer.
func NewClient(options Options) *Client {
	if options.Guard == nil || options.KeepBytes < 0 || options.MaxIdle < 0 || options.MaxIdlePerHost < 0 {
		panic("egress: a guard is required, and bounds are not negative")
	}
	d := newDialer(options.Guard, options.Lookup, options.RootCAs)
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &Client{
		keep:   orDefault(options.KeepBytes, defaultKeepBytes),
		dialer: d,
		transport: &http.Transport{
			Proxy:                  nil, // never the environment's: it would dial for us, unguarded
			DialContext:            d.dial,
			DialTLSContext:         d.dialTLS,
			Protocols:              protocols,
			DisableCompression:     true, // decoding is bounded, in body.go
			MaxIdleConns:           orDefault(options.MaxIdle, defaultMaxIdle),
			MaxIdleConnsPerHost:    max(orDefault(options.MaxIdlePerHost, defaultMaxIdlePerHost), minIdlePerHost),
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: maxResponseHeader,
			HTTP2: &http.HTTP2Config{
				MaxReceiveBufferPerStream:     h2Window,
				MaxReceiveBufferPerConnection: h2WindowConnection,
				// A connection that died without a word must not swallow one attempt
				// after the other.
				SendPingTimeout:  15 * time.Second,
				PingTimeout:      10 * time.Second,
				WriteByteTimeout: 15 * time.Second,
			},
		},
	}
}

// Close closes the connections that are idle; attempts that run are not touched.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

func clientTLS(roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    roots,
		NextProtos: []string{"h2", "http/1.1"},
		// Resumption saves a round trip to receivers that close between attempts.
		ClientSessionCache: tls.NewLRUClientSessionCache(1024),
	}
}

// attemptKey finds the attempt in the context of a dial. net/http dials in a
// context that keeps the request's values and drops its deadline.
type attemptKey struct{}

func attemptFrom(ctx context.Context) *observation {
	observed, _ := ctx.Value(attemptKey{}).(*observation)
	return observed
}

func orDefault(value, fallback int) int {
	if value == 0 {
		return fallback
	}
	return value
}
