package testenv_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv"
)

func TestPostgresServer(t *testing.T) {
	t.Parallel()
	server := testenv.PostgresServer(t, "max_connections=20")
	connection := connect(t, server.URL())
	var most string
	require.NoError(t, connection.QueryRow(t.Context(), "SHOW max_connections").Scan(&most))
	require.Equal(t, "20", most)
	_, err := connection.Exec(t.Context(), "CREATE TABLE kept (id int)")
	require.NoError(t, err)

	rows := func() int {
		var count int
		require.NoError(t, connect(t, server.URL()).QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&count))
		return count
	}
	insert := func() {
		_, err := connect(t, server.URL()).Exec(t.Context(), "INSERT INTO kept VALUES (1)")
		require.NoError(t, err)
	}
	refuses := func() {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		require.Error(t, connection.Ping(ctx))
		require.NoError(t, ctx.Err(), "the connection did not break, it hung")
	}

	insert()
	server.Kill()
	refuses()
	server.Restart()
	require.Equal(t, 1, rows(), "a committed row outlives SIGKILL")

	insert()
	server.Stop()
	server.Stop()
	server.Restart()
	require.Equal(t, 2, rows())

	insert()
	server.Restart()
	require.Equal(t, 3, rows())

	connection = connect(t, server.URL())
	server.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, connection.Ping(ctx), context.DeadlineExceeded)
	server.Resume()
	require.Equal(t, 3, rows())

	server.Pause()
	server.Kill()
	server.Restart()
	require.Equal(t, 3, rows())
	server.Pause() // and the end of the test ends a paused server
}

func TestRedisServer(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t, "--maxmemory", "8mb")
	redisClient := client(t, server.URL())
	set := func() { require.NoError(t, redisClient.Set(t.Context(), "key", "value", 0).Err()) }
	gone := func() { require.ErrorIs(t, redisClient.Get(t.Context(), "key").Err(), redis.Nil) }

	require.Equal(t, "8388608", redisClient.ConfigGet(t.Context(), "maxmemory").Val()["maxmemory"])
	set()
	require.NoError(t, redisClient.FlushAll(t.Context()).Err())
	gone()

	set()
	server.Kill()
	require.Error(t, redisClient.Ping(t.Context()).Err())
	server.Restart()
	gone()

	set()
	server.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.Error(t, redisClient.Get(ctx, "key").Err())
	server.Resume()
	require.Equal(t, "value", client(t, server.URL()).Get(t.Context(), "key").Val())
	server.Stop()
	require.Error(t, redisClient.Ping(t.Context()).Err())
}
