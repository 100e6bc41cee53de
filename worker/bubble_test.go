package worker

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startRedis starts the embedded Redis outside of any bubble.
func startRedis(t *testing.T) *miniredis.Miniredis {
	t.Helper()
	server := miniredis.NewMiniRedis()
	require.NoError(t, server.Start())
	t.Cleanup(server.Close)
	return server
}

// bubbleClient speaks to server from a bubble, with the bubble's clock as Redis'. Waiting for a socket
// keeps a bubble's clock still, so a command takes no time. Close it within the bubble.
func bubbleClient(server *miniredis.Miniredis) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: server.Addr(), Protocol: 2, DisableIdentity: true, MaxRetries: -1, PoolSize: 4,
		// The network's clock is not the bubble's, whose deadlines it would take for long past.
		ReadTimeout: -1, WriteTimeout: -1,
		Dialer: func(_ context.Context, network, address string) (net.Conn, error) {
			return net.Dial(network, address)
		},
	})
	client.AddHook(bubbleClock{server})
	return client
}

// bubbleClock sets Redis' clock before each command.
type bubbleClock struct{ server *miniredis.Miniredis }

func (bubbleClock) DialHook(next redis.DialHook) redis.DialHook { return next }

func (b bubbleClock) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		b.server.SetTime(time.Now())
		return next(ctx, cmd)
	}
}

func (b bubbleClock) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		b.server.SetTime(time.Now())
		return next(ctx, cmds)
	}
}

// instants is a log of moments, safe for concurrent use.
type instants struct {
	mu sync.Mutex
	at []time.Time
}

func (i *instants) add() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.at = append(i.at, time.Now())
}
