package services_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv/services"
)

// TestContainerLifeCycle drives a Server through a stand-in for Docker's command line that runs the
// installed Redis: machines that test this often have no engine, and the calls are what is ours.
func TestContainerLifeCycle(t *testing.T) { // not parallel: it changes the environment
	state := t.TempDir()
	stand, err := filepath.Abs("testdata")
	require.NoError(t, err)
	binary := os.Getenv(services.RedisSourceEnv)
	require.NotEmpty(t, binary, "run `make test`")
	t.Setenv("PATH", stand+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("FAKE_ENGINE_DIR", state)
	t.Setenv("REAL_REDIS", binary)

	source, err := services.ParseSource("docker://redis:test")
	require.NoError(t, err)
	server, err := services.StartRedis(t.Context(), source)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })

	options, err := redis.ParseURL(server.URL())
	require.NoError(t, err)
	options.MaxRetries, options.DialerRetries, options.ContextTimeoutEnabled = -1, 1, true
	ping := func() error {
		client := redis.NewClient(options)
		defer client.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return client.Ping(ctx).Err()
	}
	require.NoError(t, ping())
	require.NoError(t, server.Pause())
	require.ErrorContains(t, ping(), "timeout")
	require.NoError(t, server.Resume())
	require.NoError(t, ping())
	require.NoError(t, server.Kill())
	require.ErrorContains(t, ping(), "refused")
	require.NoError(t, server.Restart(t.Context()))
	require.NoError(t, ping())
	require.NoError(t, server.Stop(t.Context()))
	require.ErrorContains(t, ping(), "refused")
	require.NoError(t, server.Restart(t.Context()))
	require.NoError(t, server.Pause())
	require.NoError(t, server.Close())

	calls, err := os.ReadFile(filepath.Join(state, "calls"))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(calls), "run --detach --name testenv-"), "the container keeps its data over restarts")
	require.Contains(t, string(calls), "rm --force --volumes testenv-")
}
