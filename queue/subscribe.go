package queue

import (
	"context"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

// quietLimit is how long a subscription's connection may bring nothing. go-redis asks for a sign
// of life every 3 s, so one that is well brings at least the answers.
const quietLimit = 8 * time.Second

// client is a client whose subscriptions notice that Redis has fallen silent. go-redis sets no
// deadline for those: one that begins while Redis hangs would wait for as long as that lasts, and
// asynq's server with it, which cannot be stopped meanwhile; one whose connection was lost without
// a word would miss every notice until TCP gives up.
type client struct {
	*redis.Client
	subscriptions *redis.Client
}

var _ redis.UniversalClient = client{}

// Subscribe subscribes to channels.
func (c client) Subscribe(ctx context.Context, channels ...string) *redis.PubSub {
	return c.subscriptions.Subscribe(ctx, channels...)
}

// PSubscribe subscribes to patterns.
func (c client) PSubscribe(ctx context.Context, patterns ...string) *redis.PubSub {
	return c.subscriptions.PSubscribe(ctx, patterns...)
}

// SSubscribe subscribes to the channels of a shard.
func (c client) SSubscribe(ctx context.Context, channels ...string) *redis.PubSub {
	return c.subscriptions.SSubscribe(ctx, channels...)
}

// newSubscriptions is the client behind client's subscriptions. It must be closed.
func newSubscriptions(opts *redis.Options) *redis.Client {
	ro := *opts
	dial := ro.Dialer
	if dial == nil {
		dial = redis.NewDialer(&ro)
	}
	ro.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return quietConn{conn}, nil
	}
	return redis.NewClient(&ro)
}

// quietConn is a connection on which no read waits longer than quietLimit.
type quietConn struct{ net.Conn }

// SetReadDeadline sets the deadline of reads; none means quietLimit from now.
func (c quietConn) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		t = time.Now().Add(quietLimit)
	}
	return c.Conn.SetReadDeadline(t) //nolint:wrapcheck // stands in for it
}
