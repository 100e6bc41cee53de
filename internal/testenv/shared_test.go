package testenv_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/internal/testenv/services"
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

// The subtests change the environment, so nothing is parallel.
func TestPostgresCopy(t *testing.T) { //nolint:paralleltest // see above
	prepared := 0
	model := func() *testenv.Model {
		prepared = 0
		return &testenv.Model{Prepare: func(url string) error {
			prepared++
			connection, err := pgx.Connect(t.Context(), url)
			if err != nil {
				return err
			}
			_, err = connection.Exec(t.Context(), "CREATE TABLE ours (id int)")
			return errors.Join(err, connection.Close(t.Context()))
		}}
	}
	use := func(t *testing.T, model *testenv.Model) {
		t.Helper()
		for range 2 {
			_, err := connect(t, testenv.PostgresCopy(t, model)).Exec(t.Context(), "ALTER TABLE ours RENAME TO mine")
			require.NoError(t, err)
		}
	}
	models := func(t *testing.T, url string) (count int) {
		t.Helper()
		query := "SELECT count(*) FROM pg_database WHERE datname LIKE 'model%'"
		require.NoError(t, connect(t, url).QueryRow(t.Context(), query).Scan(&count))
		return count
	}
	server := testenv.PostgresServer(t)
	t.Setenv(services.DatabaseURLEnv, server.URL())
	scratch := t.TempDir()
	t.Setenv(services.ScratchEnv, scratch)
	t.Run("without a run each is prepared", func(t *testing.T) {
		use(t, model())
		require.Equal(t, 2, prepared)
		require.Zero(t, models(t, server.URL()))
	})
	t.Run("in a run one is, which goes with it", func(t *testing.T) {
		require.NoError(t, services.MakeModelsDir(scratch))
		use(t, model())
		require.Equal(t, 1, prepared)
		require.Equal(t, 1, models(t, server.URL()))
		require.NoError(t, services.DropModelDatabases(t.Context(), server.URL()))
		require.Zero(t, models(t, server.URL()))
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
