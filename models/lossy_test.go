package models_test

import (
	"context"
	"database/sql/driver"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// lossy is a way to a database on which statements get lost, as they do on a bad disk: before their
// effect, or after it and before the answer. It is real SQLite that it leads to.
type lossy struct {
	driver        driver.Driver
	dsn           string
	percent       atomic.Int64 // of each kind
	before, after atomic.Int64
}

// errLost is what is heard of a statement that got lost: nothing that tells which kind it was.
var errLost = fmt.Errorf("lost: %w", io.ErrUnexpectedEOF)

func (l *lossy) Driver() driver.Driver { return l.driver }

func (l *lossy) Connect(context.Context) (driver.Conn, error) {
	conn, err := l.driver.Open(l.dsn)
	if err != nil {
		return nil, err
	}
	return &lossyConn{conn.(sqliteConn), l}, nil
}

// lose runs do, or loses it or its answer.
func lose[T any](l *lossy, do func() (T, error), drop func(T)) (T, error) {
	var none T
	percent := int(l.percent.Load())
	n := rand.IntN(100)
	if n < percent {
		l.before.Add(1)
		return none, errLost
	}
	value, err := do()
	if err == nil && n >= 100-percent {
		l.after.Add(1)
		drop(value)
		return none, errLost
	}
	return value, err
}

func closeRows(rows driver.Rows) { _ = rows.Close() }

func nothing(driver.Result) {}

type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

type lossyConn struct {
	sqliteConn
	lossy *lossy
}

func (c *lossyConn) ExecContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Result, error) {
	return lose(c.lossy, func() (driver.Result, error) { return c.sqliteConn.ExecContext(ctx, text, args) }, nothing)
}

func (c *lossyConn) QueryContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Rows, error) {
	return lose(c.lossy, func() (driver.Rows, error) { return c.sqliteConn.QueryContext(ctx, text, args) }, closeRows)
}

func (c *lossyConn) PrepareContext(ctx context.Context, text string) (driver.Stmt, error) {
	stmt, err := c.sqliteConn.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	return &lossyStmt{stmt.(sqliteStmt), c.lossy}, nil
}

func (c *lossyConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	tx, err := lose(c.lossy, func() (driver.Tx, error) { return c.sqliteConn.BeginTx(ctx, opts) }, func(tx driver.Tx) { _ = tx.Rollback() })
	if err != nil {
		return nil, err
	}
	return &lossyTx{tx, c.lossy}, nil
}

type sqliteStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type lossyStmt struct {
	sqliteStmt
	lossy *lossy
}

func (s *lossyStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return lose(s.lossy, func() (driver.Result, error) { return s.sqliteStmt.ExecContext(ctx, args) }, nothing)
}

func (s *lossyStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return lose(s.lossy, func() (driver.Rows, error) { return s.sqliteStmt.QueryContext(ctx, args) }, closeRows)
}

type lossyTx struct {
	driver.Tx
	lossy *lossy
}

// Commit that has no effect is a rollback: so SQLite ends a transaction that it cannot write down.
func (t *lossyTx) Commit() error {
	done := false
	_, err := lose(t.lossy, func() (struct{}, error) {
		done = true
		return struct{}{}, t.Tx.Commit()
	}, func(struct{}) {})
	if !done {
		_ = t.Rollback()
	}
	return err
}

// One statement in twenty has no effect, and one in twenty has it unheard. What was answered holds,
// what was refused is not there, and nothing is doubled or half there. (Postgres is e2e's
// TestFaultStatements_LostBeforeAndAfterTheirEffect.)
func TestFaultStatements_LostBeforeAndAfterTheirEffectOnSQLite(t *testing.T) {
	t.Parallel()
	events := 200
	if os.Getenv("FAULTS") == "full" {
		events = 100_000
	}
	path := filepath.Join(t.TempDir(), "webhooks.db")
	store := modelstest.Open(t, models.Options{DSN: path})
	w := newWebhook(t, store, "acme", nil)
	var way *lossy
	require.NoError(t, store.WriteThrough(path, func(d driver.Driver, dsn string) driver.Connector {
		way = &lossy{driver: d, dsn: dsn}
		return way
	}))
	way.percent.Store(5)

	var mu sync.Mutex
	accepted, refused := map[string]string{}, []string{}
	tell := func(err error, id string) {
		var away *models.UnavailableError
		if assert.ErrorAs(t, err, &away) && !away.OutcomeUnknown && id != "" {
			mu.Lock()
			refused = append(refused, id)
			mu.Unlock()
		}
	}
	var emitters sync.WaitGroup
	keys := make(chan string)
	for range 4 {
		emitters.Go(func() {
			for key := range keys {
				for { // a caller repeats itself under its key
					e := eventTo(w)
					e.ID, e.IdempotencyKey, e.IdempotencyHash = models.NewID(models.PrefixEvent), &key, "h"
					results, err := store.CommitEvents(context.Background(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
						return []models.NewEvent{e}, nil
					})
					if err == nil && assert.NoError(t, results[0].Err) {
						mu.Lock()
						accepted[key] = results[0].Event.ID
						mu.Unlock()
						break
					}
					tell(err, e.ID)
				}
			}
		})
	}
	emitting := make(chan struct{})
	go func() {
		for n := range events {
			keys <- fmt.Sprintf("key-%d", n)
		}
		close(keys)
		emitters.Wait()
		close(emitting)
	}()

	var recorded atomic.Int64
	deadline := time.Now().Add(5*time.Minute + time.Duration(events)*50*time.Millisecond)
	ended := func() bool {
		select {
		case <-emitting:
		default:
			return false
		}
		open, err := store.Count(t.Context(), "SELECT count(*) FROM deliveries WHERE status IN ('PENDING', 'RETRYING')")
		return assert.NoError(t, err) && open == 0
	}
	var workers sync.WaitGroup
	for worker := range 8 {
		workers.Go(func() {
			for n := 0; !ended(); n++ {
				if !assert.True(t, time.Now().Before(deadline), "%d attempts recorded", recorded.Load()) {
					return
				}
				if _, _, err := store.ExpireClaims(t.Context(), models.DueCursor{}, 10); err != nil {
					tell(err, "")
				}
				// Few together: with each more it gets less likely that none of it is lost.
				due, err := store.DueDeliveries(t.Context(), 0, models.DueCursor{}, 16)
				if !assert.NoError(t, err) {
					return
				}
				due = due[min(2*worker, len(due)):min(2*worker+2, len(due))]
				ids := make([]string, len(due))
				for i := range due {
					ids[i] = due[i].DeliveryID
				}
				claims, err := store.Claim(t.Context(), ids, fmt.Sprintf("token-%d-%d", worker, n), time.Second)
				if err != nil {
					tell(err, "") // whether they are claimed shows when the lease is over
					continue
				}
				var records []models.AttemptRecord
				for _, c := range claims.Claimed {
					if rand.IntN(3) == 0 {
						records = append(records, attempt(c, models.OutcomeHTTPError, models.RetryAfter(0)))
					} else {
						records = append(records, attempt(c, models.OutcomeSuccess, models.Succeeded()))
					}
				}
				for { // a worker does not give up either
					if _, err = store.Record(t.Context(), records); err == nil {
						break
					}
					tell(err, "")
				}
				recorded.Add(int64(len(records)))
			}
		})
	}
	workers.Wait()
	way.percent.Store(0)
	t.Logf("%d lost before their effect, %d after it, %d commits refused", way.before.Load(), way.after.Load(), len(refused))
	require.NotZero(t, way.before.Load())
	require.NotZero(t, way.after.Load())
	require.Len(t, accepted, events)
	count := func(want int, what, text string, args ...any) {
		t.Helper()
		n, err := store.Count(t.Context(), text, args...)
		require.NoError(t, err)
		require.Equal(t, want, n, what)
	}
	count(events, "one event for each key", "SELECT count(*) FROM events")
	count(events, "one delivery for each event", "SELECT count(DISTINCT event_id) FROM deliveries")
	count(events, "and no other", "SELECT count(*) FROM deliveries WHERE status = 'SUCCEEDED'")
	count(0, "a success that was not recorded", `SELECT count(*) FROM deliveries d WHERE NOT EXISTS
		(SELECT 1 FROM attempts a WHERE a.delivery_id = d.id AND a.outcome = 'SUCCESS')`)
	// Those that were recorded after another attempt had begun in their stead stay ABANDONED, with their answer.
	count(int(recorded.Load()), "each attempt that was recorded, once", "SELECT count(*) FROM attempts WHERE response_status IS NOT NULL")
	for _, id := range accepted {
		count(1, "accepted", "SELECT count(*) FROM events WHERE id = ?", id)
	}
	for _, id := range refused {
		count(0, "refused", "SELECT count(*) FROM events WHERE id = ?", id)
	}
}
