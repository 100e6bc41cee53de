package e2e

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/internal/testenv"
)

// statements makes what changes the world's tables fail on order, by triggers: the error comes from
// Postgres itself, in the middle of the transaction.
type statements struct {
	t     testing.TB
	admin *pgx.Conn
}

func (w *world) statements() *statements {
	w.t.Helper()
	s := &statements{t: w.t, admin: w.sql(w.t.Context())}
	s.run(`CREATE TABLE ordered (state text NOT NULL, spare int NOT NULL, target text NOT NULL)`)
	s.run(`CREATE SEQUENCE struck`) // counts on, though the transaction is rolled back
	s.run(`CREATE FUNCTION strike() RETURNS trigger LANGUAGE plpgsql AS $$
		DECLARE o ordered;
		BEGIN
			SELECT * INTO o FROM ordered WHERE target IN ('', TG_TABLE_NAME);
			IF FOUND AND (nextval('struck') % o.spare) <> 0 THEN
				RAISE EXCEPTION 'ordered by the test' USING ERRCODE = o.state;
			END IF;
			RETURN NULL;
		END $$`)
	for _, table := range []string{"events", "deliveries", "attempts"} {
		s.run(`CREATE TRIGGER strike BEFORE INSERT OR UPDATE ON ` + table + ` FOR EACH STATEMENT EXECUTE FUNCTION strike()`)
	}
	return s
}

func (s *statements) run(text string, args ...any) {
	s.t.Helper()
	_, err := s.admin.Exec(s.t.Context(), text, args...)
	require.NoError(s.t, err)
}

// never is a spare that spares none.
const never = 1 << 30

// order makes changes of the table, "" for every one, fail with the SQLSTATE, but for every spareth.
func (s *statements) order(state, table string, spare int) {
	s.t.Helper()
	s.run(`SELECT setval('struck', 1, false)`)
	s.run(`INSERT INTO ordered VALUES ($1, $2, $3)`, state, spare, table)
}

// end ends the order and says how many changes met it.
func (s *statements) end() (struck int) {
	s.t.Helper()
	s.run(`DELETE FROM ordered`)
	require.NoError(s.t, s.admin.QueryRow(s.t.Context(), `SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM struck`).Scan(&struck))
	return struck
}

// lastCall is the code of the call that was answered last.
func (w *world) lastCall() call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.books.calls[len(w.books.calls)-1]
}

// There is no room for anything that is written. When there is again, all is as if there always had
// been, but for those who were told UNAVAILABLE.
func TestFault18_DiskFull(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack})
		var fill, free func()
		if stack == apptest.Production {
			s := w.statements()
			fill = func() { s.order("53100", "", never) }
			free = func() { require.NotZero(t, s.end()) }
		} else {
			limit := func(size uint64) {
				require.NoError(t, unix.Prlimit(w.apis[0].cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: unix.RLIM_INFINITY}, nil))
			}
			fill = func() { limit(0) }
			free = func() { limit(unix.RLIM_INFINITY) }
		}
		l := w.emit(20)
		w.accept(20)
		began := time.Now()
		for range either(1, 5) {
			fill()
			full := time.Now()
			w.pass(either(3*time.Second, 30*time.Second))
			free()
			accepted, failed, _ := w.counts(full)
			require.NotZero(t, failed["UNAVAILABLE"])
			require.LessOrEqual(t, accepted, 8, "no more than were being answered when it began, and since it ended")
			freed := time.Now()
			w.accept(1)
			require.Less(t, time.Since(freed), 5*time.Second+slack, "serving again")
			w.accept(20)
		}
		l.end(t)
		w.onlyUnavailable(began)
		w.settle(leaseOver)
		w.onlyFailingFailed()
	})
}

// Each of the errors that a database may have of its own, at every statement that changes something.
func TestFault19_StatementsFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production})
	s := w.statements()
	// One call by itself shows how often it was tried.
	tries := map[string]int{"40001": 3, "40P01": 3, "25006": 1, "57014": 1, "53100": 1}
	for state, want := range tries {
		s.order(state, "events", never)
		require.False(t, w.call(t.Context(), w.api(), "alone-"+state, 0), state)
		require.Equal(t, "UNAVAILABLE", w.lastCall().code, state)
		require.Equal(t, want, s.end(), "tries of %s", state)
		require.True(t, w.call(t.Context(), w.api(), "alone-"+state, 0), state)
		require.False(t, w.lastCall().duplicate, "%s left something behind", state)
	}
	for _, state := range []string{"40001", "40P01"} {
		s.order(state, "events", 3)
		require.True(t, w.call(t.Context(), w.api(), "third-"+state, 0), "the third try works")
		require.Equal(t, 3, s.end(), "tries of %s", state)
	}

	l := w.emit(20)
	w.accept(10)
	began := time.Now()
	length := either(time.Second, 30*time.Second)
	for state := range tries {
		s.order(state, "", 2)
		w.pass(length)
		require.NotZero(t, s.end(), state)
		w.accept(5)
	}
	// And those of the kind that need no trigger: sessions that may only read, statements cancelled.
	cut := `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`
	var name string
	require.NoError(t, s.admin.QueryRow(t.Context(), "SELECT current_database()").Scan(&name))
	s.run("ALTER DATABASE " + name + " SET default_transaction_read_only = on")
	s.run(cut)
	since := time.Now()
	w.pass(length)
	_, failed, _ := w.counts(since)
	require.NotZero(t, failed["UNAVAILABLE"], "read-only")
	s.run("ALTER DATABASE " + name + " SET default_transaction_read_only = off")
	s.run(cut)
	w.accept(5)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ending := time.Now().Add(length); time.Now().Before(ending); <-tick.C {
		s.run(`SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'`)
	}
	w.accept(20)
	l.end(t)
	w.onlyUnavailable(began)
	w.settle(leaseOver)
	w.onlyFailingFailed()
}

// Of all that is said to Postgres, one in twenty is lost with the connection before it arrives, and
// one in twenty after it took effect and before its answer.
func TestFaultStatements_LostBeforeAndAfterTheirEffect(t *testing.T) {
	t.Parallel()
	var proxy *testenv.Proxy
	w := newWorld(t, plan{stack: apptest.Production, few: true, throughDatabase: func(url string) string {
		proxy = testenv.NewProxy(t, url)
		return proxy.URL(url)
	}})
	// What a statement costs is the connection that it loses: the more events share one, the sooner there are many.
	l := w.emitBy(either(8, 64), either(20, 300))
	w.accept(10)
	began := time.Now()
	var before, after atomic.Int64
	proxy.SetHook(func(_ int, direction testenv.Direction, chunk []byte) testenv.Verdict {
		// Parse, Bind, Query: not the parts of a login.
		if direction != testenv.ToServer || len(chunk) == 0 || chunk[0] != 'P' && chunk[0] != 'B' && chunk[0] != 'Q' {
			return testenv.Pass
		}
		switch n := rand.IntN(100); {
		case n < 5:
			before.Add(1)
			return testenv.ResetBefore
		case n < 10:
			after.Add(1)
			return testenv.ResetAfter
		}
		return testenv.Pass
	})
	for range either(1, 100) {
		w.accept(either(100, 1000))
	}
	proxy.SetHook(nil)
	t.Logf("%d statements lost before their effect, %d after it", before.Load(), after.Load())
	require.NotZero(t, before.Load())
	require.NotZero(t, after.Load())
	l.end(t)
	w.onlyUnavailable(began)
	w.settle(leaseOver)
	w.onlyFailingFailed()
}
