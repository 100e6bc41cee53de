package queue

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// The in-process Redis holds what is in it, not what ever was.
func TestEmbedded_ForgetsKeysThatAreGone(t *testing.T) {
	t.Parallel()
	e, err := startEmbedded()
	require.NoError(t, err)
	t.Cleanup(e.close)
	client := redis.NewClient(e.options())
	t.Cleanup(func() { _ = client.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.tick(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})

	require.NoError(t, client.HSet(ctx, "stays", "state", "pending").Err())
	versions := e.versions()
	counted := func() int {
		e.server.Lock()
		defer e.server.Unlock()
		return len(*versions)
	}
	before := counted()
	require.Positive(t, before, "it counts elsewhere")
	for n := range 3 {
		pipe := client.Pipeline()
		for task := range mostVersions {
			key := fmt.Sprintf("task:%d:%d", n, task)
			pipe.HSet(ctx, key, "state", "active")
			pipe.Del(ctx, key)
		}
		_, err := pipe.Exec(ctx)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return counted() <= mostVersions }, time.Minute, 10*time.Millisecond)
	state, err := client.HGet(ctx, "stays", "state").Result()
	require.NoError(t, err)
	require.Equal(t, "pending", state)
	keys, err := client.DBSize(ctx).Result()
	require.NoError(t, err)
	require.EqualValues(t, 1, keys)
}
