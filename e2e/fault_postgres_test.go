package e2e

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/internal/testenv"
)

// slack is what a busy machine may add to a bound of time.
const slack = 1500 * time.Millisecond

// onlyUnavailable demands that callers heard of the fault in no other way, and within the bound.
func (w *world) onlyUnavailable(since time.Time) {
	w.t.Helper()
	accepted, failed, slowest := w.counts(since)
	w.t.Logf("%d accepted, failed %v, slowest %s", accepted, failed, slowest.Round(time.Millisecond))
	for code := range failed {
		require.Equal(w.t, "UNAVAILABLE", code)
	}
	require.LessOrEqual(w.t, slowest, 2*time.Second+slack)
}

// sql connects to the world's database as another client of it.
func (w *world) sql(ctx context.Context) *pgx.Conn {
	w.t.Helper()
	connection, err := pgx.Connect(ctx, w.database)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = connection.Close(context.Background()) }) // the test may have ended it
	return connection
}

func TestFault13_PostgresRestarted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production, ownPostgres: true})
	l := w.emit(20)
	w.accept(20)
	began := time.Now()
	for range either(1, 20) {
		w.postgres.Stop()
		w.pass(time.Second)
		w.postgres.Restart()
		returned := time.Now()
		w.accept(1)
		require.Less(t, time.Since(returned), 5*time.Second+slack, "serving again")
		w.accept(10)
	}
	l.end(t)
	w.onlyUnavailable(began)
	w.settle(leaseOver)
}

func TestFault14_PostgresKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production, ownPostgres: true})
	l := w.emit(40)
	w.accept(20)
	began := time.Now()
	for range either(2, 50) {
		w.postgres.Kill()
		w.postgres.Restart()
		w.accept(10)
	}
	l.end(t)
	w.onlyUnavailable(began)
	w.settle(leaseOver)
}

func TestFault15_PostgresStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production, ownPostgres: true})
	l := w.emit(40)
	w.accept(20)
	baseline := metric(t, w.api(), "go_goroutines")
	began := time.Now()
	w.postgres.Pause()
	w.pass(either(5*time.Second, 60*time.Second))
	code, body := get(t, w.api().URL+"/readyz", nil)
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "database")
	w.postgres.Resume()
	returned := time.Now()
	w.accept(1)
	require.Less(t, time.Since(returned), 5*time.Second+slack, "serving again")
	w.onlyUnavailable(began)
	_, failed, _ := w.counts(began)
	require.NotZero(t, failed["UNAVAILABLE"])
	w.accept(20)
	after := metric(t, w.api(), "go_goroutines")
	t.Logf("goroutines: %g before, %g after", baseline, after)
	require.LessOrEqual(t, after, 2*baseline)
	l.end(t)
	w.settle(leaseOver)
}

func TestFault16_BackendsTerminated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production, ownPostgres: true})
	l := w.emit(40)
	w.accept(20)
	began := time.Now()
	admin := w.sql(t.Context())
	killed := 0
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range either(40, 600) {
		<-tick.C
		var n int
		require.NoError(t, admin.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1) AS one`).Scan(&n))
		killed += n
	}
	require.NotZero(t, killed)
	t.Logf("%d backends terminated", killed)
	w.accept(10)
	l.end(t)
	w.onlyUnavailable(began)
	w.settle(leaseOver)
}

func TestFault17_ConnectionsExhausted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production, postgres: []string{"max_connections=40"}})
	l := w.emit(20)
	w.accept(20)
	began := time.Now()
	admin := w.sql(t.Context())
	// Another client takes every place that there is, and those of the server too as they get free.
	var others []*pgx.Conn
	taking, cancel := context.WithTimeout(t.Context(), either(4*time.Second, 60*time.Second))
	defer cancel()
	for taking.Err() == nil {
		connection, err := pgx.Connect(taking, w.postgres.URL())
		if err == nil {
			others = append(others, connection)
			continue
		}
		// All are taken: what the server holds is cut, and taken in the next round.
		_, err = admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND NOT pid = ANY($1)`, pids(others))
		require.NoError(t, err)
	}
	code, body := get(t, w.api().URL+"/readyz", nil)
	t.Logf("%d places taken; /readyz: %d %s", len(others), code, body)
	for _, connection := range others {
		require.NoError(t, connection.Close(context.WithoutCancel(t.Context())))
	}
	w.accept(20)
	l.end(t)
	w.onlyUnavailable(began)
	w.settle(leaseOver)
}

func pids(connections []*pgx.Conn) []int32 {
	out := make([]int32, len(connections))
	for n, c := range connections {
		out[n] = int32(c.PgConn().PID())
	}
	return out
}

// Whether a COMMIT took effect cannot be known where the connection breaks before its answer: the
// event is looked up, never doubled and never denied.
func TestFault20_CutBetweenCommitAndAnswer(t *testing.T) {
	t.Parallel()
	for name, verdict := range map[string]testenv.Verdict{"before it arrives": testenv.ResetBefore, "after it arrived": testenv.ResetAfter} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var proxy *testenv.Proxy
			w := newWorld(t, plan{stack: apptest.Production, throughDatabase: func(url string) string {
				proxy = testenv.NewProxy(t, url)
				return proxy.URL(url)
			}})
			l := w.emit(20)
			w.accept(20)
			began := time.Now()
			var cut atomic.Int64
			proxy.SetHook(func(_ int, direction testenv.Direction, chunk []byte) testenv.Verdict {
				if direction == testenv.ToServer && bytes.Contains(bytes.ToLower(chunk), []byte("commit")) && rand.IntN(4) == 0 {
					cut.Add(1)
					return verdict
				}
				return testenv.Pass
			})
			w.accept(either(60, 3000))
			proxy.SetHook(nil)
			t.Logf("%d connections cut at COMMIT", cut.Load())
			require.NotZero(t, cut.Load())
			l.end(t)
			w.onlyUnavailable(began)
			w.settle(leaseOver)
		})
	}
}

// Somebody else's lock on the deliveries is a database that does not answer.
func TestFault21_DeliveriesLocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production, ownPostgres: true})
	l := w.emit(20)
	w.accept(20)
	began := time.Now()
	other := w.sql(t.Context())
	tx, err := other.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
	w.pass(either(4*time.Second, 30*time.Second))
	require.NoError(t, tx.Rollback(t.Context()))
	w.accept(20)
	l.end(t)
	w.onlyUnavailable(began)
	w.settle(leaseOver)
}

// Postgres is away while a process starts, as it is when both come back from the same power cut.
func TestStart_WaitsForPostgres(t *testing.T) {
	t.Parallel()
	env := apptest.Environment(t, apptest.Production)
	proxy := testenv.NewProxy(t, env["DATABASE_URL"])
	proxy.Down()
	through := with(env, map[string]string{"DATABASE_URL": proxy.URL(env["DATABASE_URL"])})
	for _, role := range []string{"api", "worker"} {
		p := start(t, through, role)
		apptest.Eventually(t, func() (bool, string) {
			return strings.Contains(p.stderr.String(), `"msg":"waiting for the database"`), p.stderr.tail()
		})
		require.NoError(t, proxy.Up())
		p.url()
		p.stop()
		proxy.Down()
	}

	// It does not wait for ever, nor for what does not pass by itself.
	late := start(t, through, "api")
	database, err := url.Parse(env["DATABASE_URL"])
	require.NoError(t, err)
	elsewhere, stranger := *database, *database
	elsewhere.Path = "/nosuchdatabase"
	stranger.User = url.UserPassword("nosuchrole", "itspassword")
	for name, wrong := range map[string]*url.URL{"nosuchdatabase": &elsewhere, "nosuchrole": &stranger} {
		p := start(t, with(env, map[string]string{"DATABASE_URL": wrong.String()}), "api")
		require.Equal(t, 1, p.wait())
		require.Contains(t, p.stderr.String(), name)
		require.NotContains(t, p.stderr.String(), "waiting")
		require.NotContains(t, p.stderr.String(), "itspassword")
	}
	require.Equal(t, 1, late.wait())
	require.Contains(t, late.stderr.String(), "database unavailable")
}
