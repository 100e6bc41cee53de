package queue

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/models"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// redisServer is a real Redis of the test's own.
type redisServer struct {
	t    *testing.T
	port int
	dir  string
	args []string
	cmd  *exec.Cmd
}

const redisPassword = "a-password-that-no-log-may-show"

func startRedis(t *testing.T, args ...string) *redisServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	s := &redisServer{t: t, port: port, dir: t.TempDir(), args: args}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *redisServer) start() {
	s.t.Helper()
	binary := os.Getenv("TEST_REDIS_BINARY")
	require.NotEmpty(s.t, binary, "TEST_REDIS_BINARY must name a redis-server")
	args := append([]string{
		"--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--requirepass", redisPassword,
		"--save", "", "--appendonly", "no", "--dir", s.dir,
	}, s.args...)
	s.cmd = exec.CommandContext(context.WithoutCancel(s.t.Context()), binary, args...)
	require.NoError(s.t, s.cmd.Start())
	client := redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", s.port), Password: redisPassword})
	defer func() { _ = client.Close() }()
	testenv.Eventually(s.t, 10*time.Second, func() (bool, string) {
		err := client.Ping(s.t.Context()).Err()
		return err == nil, fmt.Sprint(err)
	})
}

func (s *redisServer) url() string {
	return fmt.Sprintf("redis://:%s@127.0.0.1:%d/0", redisPassword, s.port)
}

func (s *redisServer) signal(sig os.Signal) { _ = s.cmd.Process.Signal(sig) }

func (s *redisServer) kill() {
	s.signal(syscall.SIGKILL)
	_ = s.cmd.Wait()
}

// proxy is a wire to Redis that can be slow, or swallow everything.
type proxy struct {
	port   int
	delay  atomic.Int64
	silent atomic.Bool
	hangOn string // what it swallows, whatever silent says
	cut    func()
}

func (p *proxy) url() string {
	return fmt.Sprintf("redis://:%s@127.0.0.1:%d", redisPassword, p.port)
}

func startProxy(t *testing.T, target int, hangOn string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{port: l.Addr().(*net.TCPAddr).Port, hangOn: hangOn}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	pass := func(to, from net.Conn) {
		defer func() { _, _ = to.Close(), from.Close() }()
		stop := context.AfterFunc(ctx, func() { _, _ = to.Close(), from.Close() })
		defer stop()
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if d := time.Duration(p.delay.Load()); d > 0 {
				select {
				case <-time.After(d):
				case <-ctx.Done():
					return
				}
			}
			if p.silent.Load() || p.hangOn != "" && bytes.Contains(buf[:n], []byte(p.hangOn)) {
				continue
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", target))
			if err != nil {
				_ = client.Close()
				continue
			}
			wg.Go(func() { pass(server, client) })
			wg.Go(func() { pass(client, server) })
		}
	})
	p.cut = func() { cancel(); _ = l.Close() }
	t.Cleanup(func() { p.cut(); wg.Wait() })
	return p
}

// logBuffer collects what is logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newLog(t *testing.T) (*slog.Logger, *logBuffer) {
	t.Helper()
	buf := &logBuffer{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(buf.String())
		}
	})
	return slog.New(slog.NewTextHandler(buf, &slog.HandlerOptions{Level: slog.LevelDebug})), buf
}

func open(t *testing.T, url string) *Conn {
	t.Helper()
	log, _ := newLog(t)
	return openWith(t, Options{RedisURL: url, Logger: log})
}

func openWith(t *testing.T, opts Options) *Conn {
	t.Helper()
	conn, err := Open(t.Context(), opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

// bothQueues runs a test on the embedded queue and on a real Redis.
func bothQueues(t *testing.T, test func(t *testing.T, conn *Conn)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, ""))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, startRedis(t).url()))
	})
}

// pickedUp collects what a Server's handler got.
type pickedUp struct {
	mu      sync.Mutex
	bundles [][]string
	at      map[string]time.Time
	count   map[string]int
}

func (p *pickedUp) handle(_ context.Context, ids []string) error {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == nil {
		p.at, p.count = make(map[string]time.Time), make(map[string]int)
	}
	p.bundles = append(p.bundles, ids)
	for _, id := range ids {
		p.at[id] = now
		p.count[id]++
	}
	return nil
}

// all is the bundles so far. Those that were enqueued twice may come still.
func (p *pickedUp) all() [][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.bundles)
}

func (p *pickedUp) times(id string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[id]
}

func (p *pickedUp) when(id string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at[id]
}

func (p *pickedUp) distinct() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.count)
}

func (p *pickedUp) wait(t *testing.T, within time.Duration, ids ...string) {
	t.Helper()
	testenv.Eventually(t, within, func() (bool, string) {
		missing := 0
		for _, id := range ids {
			if p.times(id) == 0 {
				missing++
			}
		}
		return missing == 0, fmt.Sprintf("%d of %d are missing", missing, len(ids))
	})
}

func serve(t *testing.T, conn *Conn, handler func(context.Context, []string) error) *Server {
	t.Helper()
	log, _ := newLog(t)
	s := NewServer(conn, ServerOptions{Handler: handler, Logger: log, Concurrency: 16, ShutdownTimeout: 5 * time.Second})
	require.NoError(t, s.Start())
	t.Cleanup(s.Stop)
	return s
}

func deliveryIDs(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = models.NewID(models.PrefixDelivery)
	}
	return ids
}

func itemsOf(ids []string) []Item {
	items := make([]Item, len(ids))
	for i, id := range ids {
		items[i] = Item{DeliveryID: id}
	}
	return items
}

// memoryLedger is a Ledger of its own making: what is due, until it is claimed.
type memoryLedger struct {
	mu      sync.Mutex
	due     []models.Due
	expired []models.Due
	settled int
	holder  string
	until   time.Time
	asked   int
	refused int // who asked for the lease and did not get it
	marked  int
}

func (l *memoryLedger) AcquireLease(_ context.Context, _, holder string, ttl time.Duration) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder != holder && time.Now().Before(l.until) {
		l.refused++
		return false, nil
	}
	l.holder, l.until = holder, time.Now().Add(ttl)
	return true, nil
}

func (l *memoryLedger) ReleaseLease(_ context.Context, _, holder string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder == holder {
		l.until = time.Time{}
	}
	return nil
}

func (l *memoryLedger) MarkReconciled(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marked++
	return nil
}

func (l *memoryLedger) ExpireClaims(_ context.Context, _ models.DueCursor, limit int) (page []models.Due, next models.DueCursor, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(limit, len(l.expired))
	page = l.expired[:n]
	l.expired = l.expired[n:]
	if len(l.expired) > 0 {
		next = page[n-1].Cursor()
	}
	return page, next, nil
}

func (l *memoryLedger) DueDeliveries(_ context.Context, olderThan time.Duration, after models.DueCursor, limit int) ([]models.Due, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	var page []models.Due
	now := time.Now() // one for all, as the database has
	for _, d := range l.due {
		past := d.NextAttemptAt.After(after.NextAttemptAt) ||
			d.NextAttemptAt.Equal(after.NextAttemptAt) && d.DeliveryID > after.DeliveryID
		if past && now.Sub(d.NextAttemptAt) > olderThan && len(page) < limit {
			page = append(page, d)
		}
	}
	return page, nil
}

func (l *memoryLedger) SettleInactive(_ context.Context, limit int) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(limit, l.settled)
	l.settled -= n
	return n, nil
}

// add makes ids due since then.
func (l *memoryLedger) add(since time.Time, ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.due = append(l.due, models.Due{DeliveryID: id, NextAttemptAt: since})
	}
}

// claim is the handler of a Server that takes what it gets off the due list.
func (l *memoryLedger) claim(into *pickedUp) func(context.Context, []string) error {
	return func(ctx context.Context, ids []string) error {
		l.mu.Lock()
		taken := make(map[string]bool, len(ids))
		for _, id := range ids {
			taken[id] = true
		}
		kept := l.due[:0:0]
		for _, d := range l.due {
			if !taken[d.DeliveryID] {
				kept = append(kept, d)
			}
		}
		l.due = kept
		l.mu.Unlock()
		return into.handle(ctx, ids)
	}
}

func reconcile(t *testing.T, conn *Conn, ledger Ledger, interval time.Duration) *Reconciler {
	t.Helper()
	log, _ := newLog(t)
	r := NewReconciler(conn, ledger, ReconcilerOptions{Interval: interval, PageSize: 100, Logger: log})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("run reconciler: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return r
}
