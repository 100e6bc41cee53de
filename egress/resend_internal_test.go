package egress

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/signing"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// dyingConn is a real connection whose next write fails once it is told to die,
// after some bytes went out: what a receiver's close looks like in the moment
// before it is noticed.
type dyingConn struct {
	net.Conn
	dead  *atomic.Bool
	after int
}

func (c *dyingConn) Write(buffer []byte) (int, error) {
	if !c.dead.Load() {
		return c.Conn.Write(buffer)
	}
	n, err := 0, error(nil)
	if c.after > 0 {
		n, err = c.Conn.Write(buffer[:min(c.after, len(buffer))])
	}
	_ = c.Close()
	if err == nil {
		err = syscall.EPIPE
	}
	return n, err
}

// A kept connection that turns out dead costs an attempt nothing when no byte of
// the request left, and is the end of the attempt when one did.
func TestOnlyAnUntouchedRequestIsSentAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		after int
		want  Outcome
	}{
		"no byte written":      {0, Success},
		"one byte written":     {1, ResponseError},
		"part of it written":   {40, ResponseError},
		"everything but a bit": {200, ResponseError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			receiver := receivertest.New(t)
			client := NewClient(Options{Guard: NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})})
			t.Cleanup(client.Close)
			dial, first, dead := client.transport.DialContext, true, &atomic.Bool{}
			client.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				if meter, ok := conn.(*meteredConn); ok && first {
					meter.Conn, first = &dyingConn{meter.Conn, dead, test.after}, false
				}
				return conn, err
			}
			parsed, err := ParseTarget(receiver.URL())
			require.NoError(t, err)
			key, err := signing.NewSecretKey(signing.HMACSHA256)
			require.NoError(t, err)
			request := Request{ID: "evt_1", Target: parsed, Body: []byte(`{}`), Timestamp: time.Now(), Signer: signing.NewSigner(key), Timeout: time.Minute}
			require.Equal(t, Success, client.Do(t.Context(), request).Outcome)
			dead.Store(true)
			result := client.Do(t.Context(), request)
			require.Equal(t, test.want, result.Outcome, result.Error)
			if test.want == Success {
				require.Len(t, receiver.Requests(), 2)
				require.Equal(t, 2, receiver.Connections())
			} else {
				require.Len(t, receiver.Requests(), 1)
				require.Equal(t, 1, receiver.Connections())
			}
		})
	}
}

// countingConn counts the writes, each of which is a packet of its own.
type countingConn struct {
	net.Conn
	writes *atomic.Int32
}

func (c *countingConn) Write(buffer []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(buffer)
}

// Head and body of a common event leave together: half the packets for both sides.
func TestAnAttemptIsOneWrite(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t)
	client := NewClient(Options{Guard: NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})})
	t.Cleanup(client.Close)
	dial, writes := client.transport.DialContext, &atomic.Int32{}
	client.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if meter, ok := conn.(*meteredConn); ok {
			meter.Conn = &countingConn{meter.Conn, writes}
		}
		return conn, err
	}
	parsed, err := ParseTarget(receiver.URL())
	require.NoError(t, err)
	key, err := signing.NewSecretKey(signing.HMACSHA256)
	require.NoError(t, err)
	request := Request{ID: "evt_1", Target: parsed, Body: make([]byte, 1024), Timestamp: time.Now(), Signer: signing.NewSigner(key), Timeout: time.Minute}
	require.Equal(t, Success, client.Do(t.Context(), request).Outcome)
	require.EqualValues(t, 1, writes.Load())
}

func BenchmarkDo(b *testing.B) {
	receiver := receivertest.New(b)
	client := NewClient(Options{Guard: NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})})
	b.Cleanup(client.Close)
	parsed, err := ParseTarget(receiver.URL())
	require.NoError(b, err)
	key, err := signing.NewSecretKey(signing.HMACSHA256)
	require.NoError(b, err)
	request := Request{ID: "evt_1", Target: parsed, Body: make([]byte, 1024), Timestamp: time.Now(), Signer: signing.NewSigner(key)}
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if result := client.Do(context.Background(), request); result.Outcome != Success {
				b.Error(result.Error)
			}
		}
	})
}
