// Package modelstest gives tests a clean, migrated store of their own on either database, so that
// one suite holds for both. Only tests import it.
package modelstest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/models"
)

// patience bounds what a test asks of its database: the tests share a machine, so nobody is in a hurry.
const patience = time.Minute

// Each runs test as two parallel subtests, sqlite and postgres, each on an empty store of its own
// that is closed when the subtest ends. Without the run's Postgres the second one fails.
func Each(t *testing.T, test func(t *testing.T, store *models.Store)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, SQLite(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, Postgres(t))
	})
}

// SQLite is an empty store on a file of its own.
func SQLite(t testing.TB) *models.Store {
	t.Helper()
	return Open(t, models.Options{DSN: SQLiteFile(t), StatementTimeout: patience, WorkTimeout: patience})
}

// Postgres is an empty store on a database of its own in the run's server.
func Postgres(t testing.TB) *models.Store {
	t.Helper()
	return Open(t, models.Options{DSN: PostgresURL(t), StatementTimeout: patience, WorkTimeout: patience})
}

// SQLiteFile is the path of an empty, migrated database that ends with the test.
func SQLiteFile(t testing.TB) string {
	t.Helper()
	content, err := sqliteModel()
	if err != nil {
		t.Fatalf("make a migrated database: %v", err)
	}
	path := filepath.Join(t.TempDir(), "webhooks.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatalf("copy the migrated database: %v", err)
	}
	return path
}

// PostgresURL names an empty, migrated database in the run's server that ends with the test.
func PostgresURL(t testing.TB) string {
	t.Helper()
	return testenv.PostgresCopy(t, postgresModel)
}

// Migrating costs more than most tests do, so each process does it once and copies. The copies have one
// thing in common, the identity of their feeds: a cursor of one is a cursor of another.
var (
	postgresModel = &testenv.Model{Prepare: migrate}
	sqliteModel   = sync.OnceValues(func() (content []byte, err error) {
		dir, err := os.MkdirTemp("", "model-")
		if err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		path := filepath.Join(dir, "webhooks.db")
		if err := migrate(path); err != nil {
			return nil, err
		}
		// What is committed is in this file alone once the database is closed.
		return os.ReadFile(path)
	})
)

func migrate(dsn string) (err error) {
	store, err := models.Open(context.Background(), models.Options{
		DSN: dsn, Logger: slog.New(slog.DiscardHandler), StatementTimeout: patience, WorkTimeout: patience,
	})
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return store.Migrate(context.Background())
}

// Open opens and migrates the database that opts names, and closes it when the test ends. Without
// a logger it discards what the store says.
func Open(t testing.TB, opts models.Options) *models.Store {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	store, err := models.Open(context.Background(), opts)
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	if err := store.Migrate(context.Background()); err != nil {
		t.Fatalf("migrate: %v", err)
	}
	return store
}
