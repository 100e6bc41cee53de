package models_test

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestMigrations(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		require.NoError(t, store.CheckMigrated(t.Context()))
		require.NoError(t, store.Migrate(t.Context()), "again")
		require.NoError(t, store.Ping(t.Context()))
		epoch, err := store.ConfigEpoch(t.Context())
		require.NoError(t, err)
		require.Zero(t, epoch)
		now, err := store.Now(t.Context())
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), now, time.Minute)
		require.Equal(t, models.Instant(now), now)
	})
}

// Every column that GORM would read or write exists, in both dialects.
func TestColumns(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		for _, table := range []any{
			&models.Webhook{}, &models.Revision{}, &models.WebhookHealth{}, &models.EventType{}, &models.Event{},
			&models.Delivery{}, &models.Attempt{}, &models.APIKey{}, &models.Change{}, &models.Replay{},
		} {
			require.NoError(t, store.SelectColumns(t.Context(), table), "%T", table)
		}
	})
}

func TestCheckMigrated_EmptyDatabase(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]string{
		"sqlite": filepath.Join(t.TempDir(), "empty.db"), "postgres": testenv.PostgresURL(t),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, err := models.Open(t.Context(), models.Options{DSN: dsn, Logger: quiet()})
			require.NoError(t, err)
			defer store.Close()
			var wrong *models.SchemaError
			require.ErrorAs(t, store.CheckMigrated(t.Context()), &wrong)
			require.Zero(t, wrong.Have)
			require.ErrorContains(t, wrong, "run migrate")
		})
	}
}

func TestMigrate_ManyProcessesAtOnce(t *testing.T) {
	t.Parallel()
	dsn := testenv.PostgresURL(t)
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() { modelstest.Open(t, models.Options{DSN: dsn}) })
	}
	work.Wait()
}

func TestOpen_SQLiteFileInUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "deep", "webhooks.db")
	first := modelstest.Open(t, models.Options{DSN: path})
	_, err := models.Open(t.Context(), models.Options{DSN: path, Logger: quiet()})
	var locked *models.LockedError
	require.ErrorAs(t, err, &locked)
	require.Equal(t, path, locked.Path)
	require.ErrorContains(t, err, path)
	require.NoError(t, first.Ping(t.Context()), "the first is unharmed")
	require.NoError(t, first.Close())
	modelstest.Open(t, models.Options{DSN: path})
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	// Accepts and never answers, like a server that is stopped.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	for name, address := range map[string]string{"silent": silent.Addr().String(), "refused": gone.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, err := models.Open(t.Context(), models.Options{
				DSN: "postgres://u:secret@" + address + "/db?sslmode=disable", Logger: quiet(), StatementTimeout: 300 * time.Millisecond,
			})
			require.NoError(t, err)
			defer store.Close()
			began := time.Now()
			err = store.Ping(t.Context())
			var away *models.UnavailableError
			require.ErrorAs(t, err, &away)
			require.False(t, away.OutcomeUnknown)
			require.NotContains(t, err.Error(), "secret")
			require.Less(t, time.Since(began), 2*time.Second)

			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err = store.Ping(ctx)
			require.ErrorIs(t, err, context.Canceled)
			require.NotErrorAs(t, err, &away)
		})
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		require.NoError(t, store.Close())
		require.NoError(t, store.Close())
		var away *models.UnavailableError
		require.ErrorAs(t, store.Ping(t.Context()), &away)
	})
}
