package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// memory is the resident memory of a process, in bytes.
func (p *process) memory() int64 {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(p.t, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			require.NoError(p.t, err)
			return kilobytes << 10
		}
	}
	p.t.Fatal("no VmRSS")
	return 0
}

// slowCallers are connections to an API that say what they say at their leisure, until the test ends.
type slowCallers struct {
	t     testing.TB
	w     *world
	group sync.WaitGroup
	ctx   context.Context

	mu    sync.Mutex
	ended int
}

func newSlowCallers(t testing.TB, w *world) *slowCallers {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	s := &slowCallers{t: t, w: w, ctx: ctx}
	t.Cleanup(func() {
		cancel()
		s.group.Wait()
	})
	return s
}

// call opens a connection, says begin, and then one byte of more each interval. It reads nothing.
func (s *slowCallers) call(begin, more string, interval time.Duration) {
	s.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(s.ctx, "tcp", strings.TrimPrefix(s.w.api().URL, "http://"))
	require.NoError(s.t, err)
	require.NoError(s.t, conn.(*net.TCPConn).SetReadBuffer(4<<10)) //nolint:forcetypeassert // what "tcp" gives
	_, err = conn.Write([]byte(begin))
	require.NoError(s.t, err)
	s.group.Go(func() {
		defer func() { _ = conn.Close() }()
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-s.ctx.Done():
				return
			case <-tick.C:
			}
			if more == "" {
				continue
			}
			if _, err := conn.Write([]byte{more[n%len(more)]}); err != nil {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.ended++
				return
			}
		}
	})
}

// gone is how many of those that go on speaking have found their connection closed.
func (s *slowCallers) gone() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// Callers who drip their requests, say nothing, or do not take what they subscribed to are no concern
// of the others.
func TestFault42_SlowCallers(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack, few: true, workers: 1})
		l := w.emit(20)
		w.accept(20)
		before := w.apis[0].memory()
		slow := newSlowCallers(t, w)
		post := "POST /graphql HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nAuthorization: Bearer " + w.api().Key + "\r\n"
		dripping := either(60, 1000)
		for range dripping / 2 {
			slow.call(post+"Content-Length: 20000000\r\n\r\n{\"query\":\"", " ", 500*time.Millisecond)
			slow.call("POST /graphql HTTP/1.1\r\nHost: api\r\nX-Slow: ", "x", 500*time.Millisecond)
		}
		for range either(300, 5000) {
			slow.call("", "", time.Minute)
		}
		for range either(4, 50) {
			query := `{"query":"subscription { deliveryUpdated { cursor delivery { id status attempts { request { body headers { name value } } response { body } } } } }"}`
			slow.call(fmt.Sprintf("%sAccept: text/event-stream\r\nContent-Length: %d\r\n\r\n%s", post, len(query), query), "", time.Minute)
		}
		began := time.Now()
		w.accept(either(100, 3000))
		require.Less(t, w.neverFails(began), either(50*time.Millisecond+slack, 50*time.Millisecond))
		// Whoever does not get on with it is shown out: headers within 5 s, a body within 30 s.
		apptest.EventuallyWithin(t, 60*time.Second, func() (bool, string) {
			gone := slow.gone()
			return gone >= either(dripping/2, dripping), fmt.Sprintf("%d of %d dripping callers are gone", gone, dripping)
		})
		grown := w.apis[0].memory() - before
		t.Logf("%d MiB more", grown>>20)
		require.Less(t, grown, int64(either(150<<20, 400<<20)))
		l.end(t)
		w.settle(60 * time.Second)
	})
}

// More is emitted than can be delivered, and in the full form than can be taken: what is accepted is
// delivered in the end, and the rest is refused by a word that says so.
func TestFault43_Overload(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack, few: true, workers: 1, env: map[string]string{"WORKER_CONCURRENCY": "16"}, callLimit: 30 * time.Second})
		w.books.patience = 0 // slower answers are what may be
		// It takes 40 a second: a quarter of the room, each for 100 ms. What piles up in five minutes would take it long.
		var fast atomic.Bool
		w.subscribe(subscribed{name: "narrow", schedule: patient}, func(int) receivertest.Answer {
			if fast.Load() {
				return receivertest.Status(200)
			}
			return receivertest.Delay(100*time.Millisecond, receivertest.Status(200))
		}, nil)
		senders := w.senders()
		l := w.emit(20)
		w.accept(40)
		before := senders[0].memory()
		began := time.Now()
		var more []*load
		for range either(1, 8) {
			more = append(more, w.emit(either(80, 25)))
		}
		var peak int64
		for end := time.Now().Add(either(3*time.Second, 5*time.Minute)); time.Now().Before(end); {
			w.pass(200 * time.Millisecond)
			peak = max(peak, senders[0].memory())
		}
		for _, m := range append(more, l) {
			m.end(t)
		}
		accepted, failed, slowest := w.counts(began)
		open := len(deliveries(t, w.api(), map[string]any{"statuses": []string{"PENDING", "RETRYING"}}))
		t.Logf("%d accepted, failed %v, slowest %s; at least %d open; %d MiB before, %d MiB at most", accepted, failed, slowest, open, before>>20, peak>>20)
		for code := range failed {
			require.Contains(t, []string{"RATE_LIMITED", "UNAVAILABLE"}, code)
		}
		require.NotZero(t, open, "no overload")
		require.Less(t, peak, 2*before+50<<20)
		fast.Store(either(false, true))
		w.settle(either(90*time.Second, 30*time.Minute))
	})
}
