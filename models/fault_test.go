package models_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// The connection breaks at the packet that carries the inserts and COMMIT, before the server gets
// it or after: the event is there once, and the caller is told so.
func TestCommitEvents_ConnectionCutAtCommit(t *testing.T) {
	t.Parallel()
	for name, verdict := range map[string]testenv.Verdict{
		"before": testenv.ResetBefore, "after": testenv.ResetAfter, "answer never comes": testenv.StallAfter,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := testenv.PostgresURL(t)
			proxy := testenv.NewProxy(t, dsn)
			store := modelstest.Open(t, models.Options{DSN: proxy.URL(dsn)})
			w := newWebhook(t, store, "acme", nil)
			commit(t, store, eventTo(w)) // prepares the statements, mostly: another connection has its own
			event := eventTo(w)
			event.ID = models.NewID(models.PrefixEvent)
			var armed atomic.Bool
			var answering atomic.Int32 // the connection whose answer does not come through
			proxy.SetHook(func(connection int, direction testenv.Direction, chunk []byte) testenv.Verdict {
				if direction == testenv.ToClient && answering.Load() == int32(connection) {
					if verdict == testenv.StallAfter {
						return testenv.Swallow
					}
					return testenv.ResetBefore // not sooner: what a server has not read yet goes with its connection
				}
				if direction != testenv.ToServer || !bytes.Contains(chunk, []byte(event.ID)) || !armed.CompareAndSwap(true, false) {
					return testenv.Pass
				}
				if verdict != testenv.ResetBefore {
					answering.Store(int32(connection))
					return testenv.Pass
				}
				return verdict
			})
			calls := 0
			results, err := store.CommitEvents(t.Context(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
				calls++
				armed.Store(calls == 1)
				return []models.NewEvent{event}, nil
			})
			require.NoError(t, err)
			require.Len(t, results, 1)
			events, err := store.Count(t.Context(), "SELECT count(*) FROM events")
			require.NoError(t, err)
			require.Equal(t, 2, events)
			require.Equal(t, models.DeliveryPending, delivery(t, store, results[0].Deliveries[0].ID).Status)
			if verdict == testenv.ResetBefore {
				require.Equal(t, 2, calls, "nothing took effect, so it was done again")
			} else {
				require.Equal(t, 1, calls, "it took effect")
			}
		})
	}
}

// Backends die at random while events are committed: what was answered is there, what was refused
// is not, and what was neither says so.
func TestCommitEvents_BackendsTerminated(t *testing.T) {
	t.Parallel()
	dsn := testenv.PostgresURL(t)
	store := modelstest.Open(t, models.Options{DSN: dsn})
	w := newWebhook(t, store, "acme", nil)
	admin, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = admin.Close(context.Background()) })
	var mu sync.Mutex
	answered, refused := map[string]bool{}, map[string]bool{}
	stop := make(chan struct{})
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				e := eventTo(w)
				e.ID = models.NewID(models.PrefixEvent)
				_, err := store.CommitEvents(context.Background(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
					return []models.NewEvent{e}, nil
				})
				var away *models.UnavailableError
				mu.Lock()
				switch {
				case err == nil:
					answered[e.ID] = true
				case errors.As(err, &away) && !away.OutcomeUnknown:
					refused[e.ID] = true
				default:
					assert.ErrorAs(t, err, &away)
				}
				mu.Unlock()
			}
		})
	}
	for range 30 {
		_, err := admin.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
		require.NoError(t, err)
	}
	close(stop)
	work.Wait()
	require.NotEmpty(t, answered)
	stored := map[string]bool{}
	rows, err := admin.Query(t.Context(), "SELECT e.id FROM events e JOIN deliveries d ON d.event_id = e.id")
	require.NoError(t, err)
	for rows.Next() {
		var id string
		require.NoError(t, rows.Scan(&id))
		require.False(t, stored[id])
		stored[id] = true
	}
	require.NoError(t, rows.Err())
	for id := range answered {
		require.True(t, stored[id])
	}
	for id := range refused {
		require.False(t, stored[id])
	}
}

// Every kind of trouble of the database's own is UNAVAILABLE in time, writes nothing, and passes.
func TestUnavailable_OwnTrouble(t *testing.T) {
	t.Parallel()
	// Only what is refused hurries: a busy machine may be slow at all else.
	const timeout = 500 * time.Millisecond
	refuses := func(t *testing.T, store, patient *models.Store, w models.Webhook) {
		t.Helper()
		began := time.Now()
		e := eventTo(w)
		e.Data = new(fmt.Sprintf("%0300000d", 1)) // no room for this
		_, err := store.CommitEvents(t.Context(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
			return []models.NewEvent{e}, nil
		})
		var away *models.UnavailableError
		require.ErrorAs(t, err, &away)
		require.Less(t, time.Since(began), 2*time.Second)
		n, err := patient.Count(t.Context(), "SELECT count(*) FROM events")
		require.NoError(t, err)
		require.Zero(t, n)
	}
	t.Run("postgres, table locked", func(t *testing.T) {
		t.Parallel()
		dsn := modelstest.PostgresURL(t)
		patient := modelstest.Open(t, models.Options{DSN: dsn, StatementTimeout: time.Minute})
		w := newWebhook(t, patient, "acme", nil)
		store := modelstest.Open(t, models.Options{DSN: dsn, StatementTimeout: timeout})
		other, err := pgx.Connect(t.Context(), dsn)
		require.NoError(t, err)
		t.Cleanup(func() { _ = other.Close(context.Background()) })
		tx, err := other.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "LOCK TABLE deliveries")
		require.NoError(t, err)
		refuses(t, store, patient, w)
		require.NoError(t, tx.Rollback(t.Context()))
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			_, err := store.CommitEvents(t.Context(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
				return []models.NewEvent{eventTo(w)}, nil
			})
			return err == nil, fmt.Sprint(err)
		})
	})
	t.Run("postgres, read-only", func(t *testing.T) {
		t.Parallel()
		dsn := modelstest.PostgresURL(t)
		patient := modelstest.Open(t, models.Options{DSN: dsn, StatementTimeout: time.Minute})
		w := newWebhook(t, patient, "acme", nil)
		readOnly, err := url.Parse(dsn)
		require.NoError(t, err)
		query := readOnly.Query()
		query.Set("default_transaction_read_only", "on")
		readOnly.RawQuery = query.Encode()
		other, err := models.Open(t.Context(), models.Options{DSN: readOnly.String(), Logger: quiet(), StatementTimeout: timeout})
		require.NoError(t, err)
		defer other.Close()
		refuses(t, other, patient, w)
		commit(t, patient, eventTo(w))
	})
	t.Run("sqlite, disk full", func(t *testing.T) {
		t.Parallel()
		store := modelstest.SQLite(t)
		w := newWebhook(t, store, "acme", nil)
		require.NoError(t, store.Exec(t.Context(), "PRAGMA max_page_count = 1")) // what it has already
		refuses(t, store, store, w)
		require.NoError(t, store.Exec(t.Context(), "PRAGMA max_page_count = 4294967294"))
		commit(t, store, eventTo(w))
	})
}

// A database that takes connections and never answers: callers do not pile up behind it, and are
// served soon after it is back.
func TestUnavailable_SilentDatabase(t *testing.T) {
	t.Parallel()
	dsn := testenv.PostgresURL(t)
	proxy := testenv.NewProxy(t, dsn)
	store := modelstest.Open(t, models.Options{DSN: proxy.URL(dsn), StatementTimeout: 300 * time.Millisecond})
	require.Eventually(t, func() bool { return store.Ping(t.Context()) == nil }, 30*time.Second, 10*time.Millisecond)
	proxy.Stall()
	var work sync.WaitGroup
	for range 20 {
		work.Go(func() {
			var away *models.UnavailableError
			assert.ErrorAs(t, store.Ping(context.Background()), &away)
		})
	}
	work.Wait()
	var waited atomic.Int32
	for range 100 {
		work.Go(func() {
			began := time.Now()
			var away *models.UnavailableError
			assert.ErrorAs(t, store.Ping(context.Background()), &away)
			if time.Since(began) > 200*time.Millisecond {
				waited.Add(1)
			}
		})
	}
	work.Wait()
	require.Less(t, waited.Load(), int32(50), "a probe waits, the others hear at once")
	proxy.Heal()
	require.Eventually(t, func() bool { return store.Ping(t.Context()) == nil }, 30*time.Second, 10*time.Millisecond)
}

func TestCommitEvents_UnstorableTextFailsAlone(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		bad := eventTo(w)
		bad.IdempotencyKey = new("a\x00b")
		results := commit(t, store, bad, eventTo(w))
		require.ErrorIs(t, results[0].Err, models.ErrUnstorable)
		require.NoError(t, results[1].Err)
		require.Len(t, results[1].Deliveries, 1)
	})
}
