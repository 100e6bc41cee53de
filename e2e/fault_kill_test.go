package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// What an emit meets that is killed in it, it finds out by repeating itself: the event is there, or
// it is not and comes to be.
func TestFault01_APIKilledMidEmit(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack, few: true, workers: 1})
		answered, landed, undone := 0, 0, 0
		for round := range either(12, 500) {
			idle, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.api().URL, "http://"))
			require.NoError(t, err)
			// The first of a process that has just started takes long, so the second tells how long
			// one takes here: the kill comes at any moment of it.
			var takes time.Duration
			for n := range 2 {
				sent := time.Now()
				require.True(t, w.call(t.Context(), w.api(), fmt.Sprintf("%s-%d-warm-%d", w.prefix, round, n), round))
				takes = time.Since(sent)
			}
			told := make([]bool, 4)
			key := func(caller int) string { return fmt.Sprintf("%s-%d-%d", w.prefix, round, caller) }
			var calls sync.WaitGroup
			for caller := range told {
				calls.Go(func() { told[caller] = w.call(t.Context(), w.api(), key(caller), round) })
			}
			w.pass(rand.N(max(5*time.Millisecond, 2*takes)))
			killed := time.Now()
			w.apis[0].kill()
			calls.Wait()
			require.NoError(t, idle.SetReadDeadline(killed.Add(10*time.Second)))
			_, err = idle.Read(make([]byte, 1))
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "an open connection ends with its process")
			require.NoError(t, idle.Close())
			require.Less(t, time.Since(killed), time.Second+slack, "callers hear of it")

			began := time.Now()
			w.restartAPI(0)
			require.Less(t, time.Since(began), 3*time.Second+slack, "serving again")
			for caller := range told {
				accepted := w.call(t.Context(), w.api(), key(caller), round)
				w.mu.Lock()
				last := w.books.calls[len(w.books.calls)-1]
				w.mu.Unlock()
				require.True(t, accepted, "repeated under its key: %+v", last)
				switch {
				case told[caller]:
					answered++
					require.True(t, last.duplicate, "what was answered is there")
				case last.duplicate:
					landed++
				default:
					undone++
				}
			}
		}
		t.Logf("of %d calls %d were answered, %d were not and had taken effect, %d had not", answered+landed+undone, answered, landed, undone)
		if full() {
			require.NotZero(t, landed)
			require.NotZero(t, undone)
		}
		w.settle(leaseOver)
	})
}

// killer ends whoever sends, once for each time that it is armed.
type killer struct {
	w     *world
	armed atomic.Bool
	died  chan string // the webhook-id of the request that was under way, where it is known
}

func newKiller(w *world) *killer { return &killer{w: w, died: make(chan string, 1)} }

func (k *killer) strike(id string) {
	for _, p := range k.w.senders() {
		p.kill()
	}
	k.died <- id
}

func (k *killer) arm(t *testing.T) (id string) {
	t.Helper()
	k.armed.Store(true)
	select {
	case id = <-k.died:
	case <-time.After(60 * time.Second):
		t.Fatal("nothing came that kills")
	}
	return id
}

// listening strikes when so many bytes of one connection have arrived.
func (k *killer) listening(t *testing.T, after int) receivertest.Option {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return receivertest.Listener(&strikingListener{listener, k, after})
}

type strikingListener struct {
	net.Listener
	killer *killer
	after  int
}

func (l *strikingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &strikingConn{Conn: conn, listener: l}, nil
}

type strikingConn struct {
	net.Conn
	listener *strikingListener
	got      int
}

func (c *strikingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.got += n; c.got >= c.listener.after && c.listener.killer.armed.CompareAndSwap(true, false) {
		c.listener.killer.strike("")
	}
	return n, err
}

// A worker is killed in each phase of an attempt: claimed and nothing sent yet, in the handshake,
// while the request's body comes, while the answer is awaited, while the answer's body goes.
func TestFault02_WorkerKilledMidAttempt(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack, few: true, workers: 1, padding: 16 << 10})
		// Each attempt takes a connection of its own, so that there is a handshake to die in.
		ok := receivertest.Status(http.StatusOK, "Connection", "close")
		always := func(answer receivertest.Answer) func(int) receivertest.Answer {
			return func(int) receivertest.Answer { return answer }
		}
		handshake, sending, waiting, answering := newKiller(w), newKiller(w), newKiller(w), newKiller(w)
		killers := map[string]*killer{"handshake": handshake, "sending": sending, "waiting": waiting, "answering": answering}
		secure := w.subscribe(subscribed{name: "handshake", schedule: patient}, always(ok), nil, handshake.listening(t, 1), receivertest.TLS(receivertest.Valid))
		w.subscribe(subscribed{name: "sending", schedule: patient}, always(ok), nil, sending.listening(t, 8<<10))
		w.subscribe(subscribed{name: "waiting", schedule: patient}, always(func(x *receivertest.Exchange) {
			if waiting.armed.CompareAndSwap(true, false) {
				waiting.strike(x.Request.ID())
			}
			ok(x)
		}), nil)
		w.subscribe(subscribed{name: "answering", schedule: patient}, always(func(x *receivertest.Exchange) {
			if !answering.armed.CompareAndSwap(true, false) {
				ok(x)
				return
			}
			x.W.Header().Set("Content-Length", "1000")
			x.W.WriteHeader(http.StatusOK)
			_, _ = x.W.Write(bytes.Repeat([]byte("x"), 500))
			_ = http.NewResponseController(x.W).Flush()
			answering.strike(x.Request.ID())
		}), nil)
		if stack == apptest.Production {
			killers["claimed"] = w.killedAtClaim(t, "waiting")
		}
		// The processes that are there trust no such authority: those after them do.
		trusted := filepath.Join(t.TempDir(), "authority.pem")
		require.NoError(t, os.WriteFile(trusted, secure.Authority(), 0o600))
		w.env["SSL_CERT_FILE"] = trusted
		for _, p := range w.senders() {
			p.stop()
		}
		w.restartSenders()

		l := w.emit(5)
		rounds, kills := either(1, 25), 0
		for range rounds {
			type broken struct {
				id   string
				seen int
				at   time.Time
			}
			pending := map[string]broken{}
			for phase, k := range killers {
				w.accept(3)
				id := k.arm(t)
				kills++
				if id != "" {
					pending[phase] = broken{id, len(w.receivers[phase].ByID(id)), time.Now()}
				}
				w.restartSenders()
			}
			for phase, p := range pending {
				apptest.EventuallyWithin(t, 60*time.Second, func() (bool, string) {
					return len(w.receivers[phase].ByID(p.id)) > p.seen, p.id + " has not come again"
				})
				t.Logf("%s: attempted again %s after the kill", phase, time.Since(p.at).Round(time.Millisecond))
			}
		}
		l.end(t)
		w.settle(leaseOver)
		require.GreaterOrEqual(t, w.abandoned(), kills, "history shows every attempt that was broken off")
	})
}

// killedAtClaim strikes as soon as a delivery to the webhook is claimed, before or while its attempt
// looks for its receiver.
func (w *world) killedAtClaim(t *testing.T, webhook string) *killer {
	t.Helper()
	k := newKiller(w)
	id := ""
	for _, s := range w.books.webhooks {
		if s.name == webhook {
			id = s.id
		}
	}
	listener := w.sql(t.Context())
	for _, statement := range []string{
		`CREATE FUNCTION tell_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NOTIFY claimed; RETURN NULL; END $$`,
		fmt.Sprintf(`CREATE TRIGGER tell_claim AFTER UPDATE ON deliveries FOR EACH ROW
			WHEN (OLD.claim_token IS NULL AND NEW.claim_token IS NOT NULL AND NEW.webhook_id = '%s') EXECUTE FUNCTION tell_claim()`, id),
		`LISTEN claimed`,
	} {
		_, err := listener.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var listening sync.WaitGroup
	listening.Go(func() {
		for {
			if _, err := listener.WaitForNotification(ctx); err != nil {
				return
			}
			if k.armed.CompareAndSwap(true, false) {
				k.strike("")
			}
		}
	})
	t.Cleanup(func() {
		stop()
		listening.Wait()
	})
	return k
}

func TestFault03_WorkerKilledAfterThe2xx(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		killedAfterThe2xx(t, stack, either(1, 100), 0)
	})
}

// killedAfterThe2xx has a receiver kill whoever sends to it, within so long after its answer.
func killedAfterThe2xx(t *testing.T, stack apptest.Stack, kills int, within time.Duration) {
	t.Helper()
	w := newWorld(t, plan{stack: stack, few: true, workers: 1})
	k := newKiller(w)
	w.subscribe(subscribed{name: "killing", schedule: patient}, func(int) receivertest.Answer {
		return func(x *receivertest.Exchange) {
			receivertest.Status(http.StatusOK)(x)
			if k.armed.CompareAndSwap(true, false) {
				_ = http.NewResponseController(x.W).Flush()
				if within > 0 {
					w.pass(rand.N(within))
				}
				k.strike(x.Request.ID())
			}
		}
	}, nil)
	l := w.emit(20)
	for range kills {
		w.accept(10)
		k.arm(t)
		w.restartSenders()
	}
	l.end(t)
	w.settle(leaseOver)
	w.onlyFailingFailed()
}

// onlyFailingFailed demands after settle that nothing failed but for the receiver that always does.
func (w *world) onlyFailingFailed() {
	w.t.Helper()
	names := map[string]string{}
	for _, s := range w.books.webhooks {
		names[s.id] = s.name
	}
	for _, d := range w.books.deliveries {
		if d.status == "FAILED" {
			require.Equal(w.t, "failing", names[d.webhook], "%+v", d)
		}
	}
}

// The transaction that records a batch of attempts is held inside, and the worker killed: either
// all of the batch is recorded, or none of it and all is done again.
func TestFault04_WorkerKilledDuringTheRecord(t *testing.T) {
	t.Parallel()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		killedAfterThe2xx(t, apptest.Embedded, either(6, 200), 5*time.Millisecond)
	})
	t.Run("production", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, plan{stack: apptest.Production, workers: 1})
		gate := w.recordGate()
		l := w.emit(20)
		for n := range either(2, 50) {
			w.accept(10)
			waiting := gate.shut()
			w.workers[0].kill()
			if n%2 == 0 {
				// What the worker had sent includes its COMMIT: without this, all of it takes effect.
				gate.undo(waiting)
			}
			gate.open()
			w.restartSenders()
		}
		l.end(t)
		w.settle(leaseOver)
		w.onlyFailingFailed()
		require.NotZero(t, w.abandoned(), "what was undone is done again, and history says so")
	})
}

// gate holds transactions of Postgres that record attempts, after the attempts' rows and before all
// else.
type gate struct {
	t     testing.TB
	admin *pgx.Conn
}

// gateLock is the advisory lock that the gate is.
const gateLock = 4

func (w *world) recordGate() *gate {
	w.t.Helper()
	g := &gate{w.t, w.sql(w.t.Context())}
	g.run(fmt.Sprintf(`CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_advisory_xact_lock_shared(%d); RETURN NULL; END $$`, gateLock))
	g.run(`CREATE TRIGGER wait_at_gate AFTER INSERT ON attempts FOR EACH STATEMENT EXECUTE FUNCTION wait_at_gate()`)
	return g
}

func (g *gate) run(text string, args ...any) {
	g.t.Helper()
	_, err := g.admin.Exec(g.t.Context(), text, args...)
	require.NoError(g.t, err)
}

func (g *gate) count(from string) (n int) {
	g.t.Helper()
	require.NoError(g.t, g.admin.QueryRow(g.t.Context(), "SELECT count(*) FROM "+from).Scan(&n))
	return n
}

// text is what one value is, "" for none.
func (g *gate) text(query string) string {
	g.t.Helper()
	var s *string
	require.NoError(g.t, g.admin.QueryRow(g.t.Context(), query).Scan(&s))
	if s == nil {
		return ""
	}
	return *s
}

// shut returns when somebody waits at it, and says who: the backends.
func (g *gate) shut() (waiting []int32) {
	g.t.Helper()
	g.run("SELECT pg_advisory_lock($1)", gateLock)
	apptest.EventuallyWithin(g.t, time.Minute, func() (bool, string) {
		rows, err := g.admin.Query(g.t.Context(), `SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, gateLock)
		require.NoError(g.t, err)
		waiting, err = pgx.CollectRows(rows, pgx.RowTo[int32])
		require.NoError(g.t, err)
		return len(waiting) > 0, "no record is under way"
	})
	return waiting
}

// undo ends those that wait, and rolls back what they did.
func (g *gate) undo(waiting []int32) {
	g.t.Helper()
	g.run("SELECT pg_terminate_backend(pid, 10000) FROM unnest($1::int[]) AS pid", waiting)
}

func (g *gate) open() {
	g.t.Helper()
	g.run("SELECT pg_advisory_unlock($1)", gateLock)
}

// The worker may take little more memory than it needs when idle, and events are large: it dies in
// the middle of them, where it asks for more. The one after it has enough.
func TestFault11_WorkerOutOfMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, plan{stack: apptest.Production, few: true, workers: 1, padding: 250 << 10})
	w.subscribe(subscribed{name: "holding", schedule: patient}, func(int) receivertest.Answer {
		return receivertest.Delay(2*time.Second, receivertest.Status(http.StatusOK))
	}, nil)
	for range either(1, 10) {
		pid := w.workers[0].cmd.Process.Pid
		limit := memoryOf(t, pid) + 16<<20
		require.NoError(t, unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: limit, Max: limit}, nil))
		l := w.emit(40)
		select {
		case <-w.workers[0].done:
		case <-time.After(60 * time.Second):
			t.Fatalf("it lives with %d MiB", limit>>20)
		}
		l.end(t)
		// What it says of it depends on what it was about: an allocation, or a thread.
		require.NotZero(t, w.workers[0].wait(), "it died of it")
		for line := range strings.Lines(w.workers[0].stderr.String()) {
			if !strings.HasPrefix(line, "{") {
				t.Log(line)
				break
			}
		}
		w.restartSenders()
	}
	w.settle(leaseOver)
	w.onlyFailingFailed()
	require.NotZero(t, w.abandoned())
}

// memoryOf is what RLIMIT_DATA counts of a process.
func memoryOf(t *testing.T, pid int) uint64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmData:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 64)
			require.NoError(t, err)
			return kib << 10
		}
	}
	t.Fatal("no VmData")
	return 0
}
