package testenv_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv"
)

const limit = 30 * time.Second

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	connection, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = connection.Close(context.Background()) }) // the test may have killed it
	return connection
}

func client(t *testing.T, url string) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(url)
	require.NoError(t, err)
	options.MaxRetries, options.DialerRetries, options.ContextTimeoutEnabled = -1, 1, true
	client := redis.NewClient(options)
	t.Cleanup(func() { assert.NoError(t, client.Close()) })
	return client
}

func TestPostgresURL(t *testing.T) { //nolint:tparallel // one step after the other
	t.Parallel()
	var url string
	t.Run("is an empty database of the test's own", func(t *testing.T) {
		url = testenv.PostgresURL(t)
		one, other := connect(t, url), connect(t, testenv.PostgresURL(t))
		for _, connection := range []*pgx.Conn{one, other} {
			_, err := connection.Exec(t.Context(), "CREATE TABLE mine (id int)")
			require.NoError(t, err)
		}
	})
	t.Run("is gone after the test", func(t *testing.T) {
		_, err := pgx.Connect(t.Context(), url)
		require.ErrorContains(t, err, "3D000") // invalid_catalog_name
	})
}

func TestRedisURL(t *testing.T) { //nolint:tparallel // one step after the other
	t.Parallel()
	var url string
	t.Run("is an empty key space of the test's own", func(t *testing.T) {
		url = testenv.RedisURL(t)
		one, other := client(t, url), client(t, testenv.RedisURL(t))
		require.NoError(t, one.Set(t.Context(), "mine", "1", 0).Err())
		require.ErrorIs(t, other.Get(t.Context(), "mine").Err(), redis.Nil)
	})
	t.Run("is emptied after the test", func(t *testing.T) {
		// Another test may hold the number by now, and does not use this key.
		require.ErrorIs(t, client(t, url).Get(t.Context(), "mine").Err(), redis.Nil)
	})
}
