package e2e

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// Receivers of every hostile kind at once, beside the load: each attempt ends in time, the worker's memory
// stays flat, and the load does not notice.
func TestFault34_HostileReceivers(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	kinds := map[string]receivertest.Answer{
		"drips headers": receivertest.DripHeaders(50 * time.Millisecond), "drips a body": receivertest.DripBody(200, 50*time.Millisecond),
		"hangs": receivertest.Hang(), "hangs in the body": receivertest.HangIn(200, "begin"),
		"endless body": receivertest.EndlessBody(200), "endless body of a 500": receivertest.EndlessBody(500),
		"gzip bomb": receivertest.GzipBomb(200, 10<<30), "gzip of nothing": receivertest.GzipNothing(200),
		"endless headers": receivertest.EndlessHeaders(), "1xx flood": receivertest.InformationalFlood(),
	}
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		w := newWorld(t, plan{stack: stack, few: true, workers: 1, env: map[string]string{"WORKER_CONCURRENCY": "2048"}})
		for name, answer := range kinds {
			subscribe(t, w.api(), receivertest.New(t, receivertest.Default(answer)), map[string]any{
				"name": name, "eventTypes": []string{"participant.created"}, "timeout": "PT2S", "retrySchedule": []string{},
			})
		}
		l := w.emit(20)
		w.accept(20)
		sender := w.senders()[0]
		before := sender.memory()
		began := time.Now()
		for range either(6, 100) { // times the ten kinds
			e := emit(t, w.api(), map[string]any{"eventType": "participant.created", "data": map[string]any{}})
			require.Equal(t, len(kinds), e.Matched)
		}
		var peak int64
		apptest.EventuallyWithin(t, 60*time.Second, func() (bool, string) {
			peak = max(peak, sender.memory())
			open := deliveries(t, w.api(), map[string]any{"eventTypes": []string{"participant.created"}, "statuses": []string{"PENDING", "RETRYING"}})
			return len(open) == 0, fmt.Sprintf("%d are open", len(open))
		})
		t.Logf("%d MiB before, %d MiB at most", before>>20, peak>>20)
		require.Less(t, peak-before, int64(100<<20))
		w.neverFails(began)
		l.end(t)
		w.settle(60 * time.Second)

		var out struct {
			Deliveries struct {
				Nodes []struct {
					Webhook     struct{ Name string }
					LastAttempt struct {
						Outcome string
						Timing  struct{ TotalMs float64 }
					}
				}
			}
		}
		w.api().Query(t, `{ deliveries(first: 100, filter: {eventTypes: ["participant.created"]}) { nodes { webhook { name } lastAttempt { outcome timing { totalMs } } } } }`, nil, &out)
		for _, d := range out.Deliveries.Nodes {
			took := time.Duration(d.LastAttempt.Timing.TotalMs * float64(time.Millisecond))
			require.LessOrEqual(t, took, timeout+either(time.Second+slack, time.Second), "%s: %s", d.Webhook.Name, d.LastAttempt.Outcome)
		}
	})
}

// downListener is a receiver's listener whose port refuses connections until it is up.
type downListener struct {
	addr   string
	up     chan struct{} // closed when there is inner
	inner  net.Listener
	closed chan struct{}
	once   sync.Once
}

func newDownListener(t testing.TB) *downListener {
	t.Helper()
	return &downListener{addr: freeAddr(t), up: make(chan struct{}), closed: make(chan struct{})}
}

func (l *downListener) rise(t testing.TB) {
	t.Helper()
	inner, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", l.addr)
	require.NoError(t, err)
	l.inner = inner
	close(l.up)
}

func (l *downListener) Accept() (net.Conn, error) {
	select {
	case <-l.up:
		return l.inner.Accept()
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *downListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	select {
	case <-l.up:
		return l.inner.Close()
	default:
		return nil
	}
}

func (l *downListener) Addr() net.Addr {
	addr, _ := net.ResolveTCPAddr("tcp", l.addr)
	return addr
}

// The receiver is away: connections are refused, then it answers 503. When it is back, what waited comes: each
// delivery once, at a steady pace, the oldest first.
func TestFault33_ReceiverDownAndBack(t *testing.T) {
	t.Parallel()
	apptest.Each(t, receiverDownAndBack)
}

func receiverDownAndBack(t *testing.T, stack apptest.Stack) {
	w := newWorld(t, plan{stack: stack, none: true, env: map[string]string{
		"BREAKER_MIN_ATTEMPTS": "20", "BREAKER_WINDOW": "10s", "BREAKER_COOLDOWN": "2s",
	}})
	listener := newDownListener(t)
	var up atomic.Bool
	w.subscribe(subscribed{name: "down", schedule: slices.Repeat([]time.Duration{2 * time.Second}, 50)}, func(int) receivertest.Answer {
		if up.Load() {
			return receivertest.Status(http.StatusOK)
		}
		return receivertest.Status(http.StatusServiceUnavailable)
	}, nil, receivertest.Listener(listener))
	l := w.emit(either(60, 300))
	w.pass(either(3*time.Second, 3*time.Minute))
	listener.rise(t)
	w.pass(either(3*time.Second, 3*time.Minute))
	l.end(t)
	up.Store(true)
	back := time.Now()
	w.settle(either(60*time.Second, 10*time.Minute))
	returned(t, w, back)
}

// returned judges the return: what came when, and in which order.
func returned(t testing.TB, w *world, back time.Time) {
	t.Helper()
	created := map[string]time.Time{}
	for _, d := range w.books.deliveries {
		require.Equal(t, "SUCCEEDED", d.status)
		created[d.event] = d.createdAt
	}
	got := w.logged("down")
	got = slices.DeleteFunc(got, func(r receipt) bool { return r.status != http.StatusOK })
	require.Len(t, got, len(created))
	slices.SortFunc(got, func(a, b receipt) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.id, b.id)) })
	age := map[string]int{} // 0: the oldest
	for n, r := range slices.SortedFunc(slices.Values(got), func(a, b receipt) int { return created[a.id].Compare(created[b.id]) }) {
		age[r.id] = n
	}
	quarter := len(got) / 4
	mean := func(rs []receipt) (sum float64) {
		for _, r := range rs {
			sum += float64(age[r.id]) / float64(len(rs)) / float64(len(got))
		}
		return sum
	}
	most, last := 0, got[len(got)-1].at
	for n, m := 0, 0; n < len(got); n++ {
		for got[n].at.Sub(got[m].at) >= time.Second {
			m++
		}
		most = max(most, n-m+1)
	}
	span := last.Sub(back)
	oldest, newest := mean(got[:quarter]), mean(got[len(got)-quarter:])
	t.Logf("%d came within %s of the return, at most %d in a second; mean age of the first quarter %.2f, of the last %.2f (0: the oldest)",
		len(got), span, most, oldest, newest)
	require.LessOrEqual(t, float64(most), 5*float64(len(got))/max(span.Seconds(), 1))
	// Exactly in order it would be 0.75, and 0 by chance, give or take 0.04 for the short form's 360. Those all fit into the
	// slots of two workers and run side by side.
	require.GreaterOrEqual(t, newest-oldest, either(0.15, 0.6), "the oldest first")
}
