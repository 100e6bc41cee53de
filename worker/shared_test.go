package worker_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/worker"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// noSecondOver fails where more than rate of the requests lie within one second.
func noSecondOver(t *testing.T, rate int, requests []receivertest.Request) {
	t.Helper()
	at := make([]time.Time, len(requests))
	for i, r := range requests {
		at[i] = r.At
	}
	slices.SortFunc(at, time.Time.Compare)
	for i := rate; i < len(at); i++ {
		if d := at[i].Sub(at[i-rate]); d < time.Second {
			t.Fatalf("requests %d to %d of %d came within %s, at most %d may in a second", i-rate, i, len(at), d, rate)
		}
	}
}

// Four workers, a backlog, retries in between: the receiver's log has no second with more.
func TestD9_TheRateHoldsOverAllWorkers(t *testing.T) {
	t.Parallel()
	for _, rate := range []int{1, 7, 40} {
		t.Run(fmt.Sprint(rate, " a second"), func(t *testing.T) {
			t.Parallel()
			onEach(t, func(t *testing.T, s *stack) {
				receiver := receivertest.New(t)
				receiver.Script(receivertest.Status(500), receivertest.Status(200), receivertest.CloseEarly(), receivertest.Status(500))
				w, _ := s.webhook(t, receiver.URL(), func(w *models.Webhook) { w.RateLimitPerSecond = &rate })
				for range 4 {
					s.start(t)
				}
				n := 5 * rate
				deliveries := s.emit(t, n, w)
				waited := false
				for _, d := range deliveries {
					d = s.until(t, d.ID, func(d models.Delivery) bool {
						waited = waited || d.StatusReason != nil && *d.StatusReason == models.ReasonRateLimited
						return !d.Status.Open()
					})
					require.Equal(t, models.DeliverySucceeded, d.Status)
				}
				assert.True(t, waited, "waiting says why")
				requests := receiver.Requests()
				noSecondOver(t, rate, requests)
				attempts := 0
				for _, d := range deliveries {
					attempts += s.delivery(t, d.ID).AttemptCount
				}
				assert.Equal(t, len(requests), attempts, "waiting is no attempt")
				assert.Equal(t, n+3, attempts)
			})
		})
	}
}

// The limit holds over a Redis that forgets everything.
func TestI9_TheRateHoldsOverAFlush(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t)
		rate := 10
		w, _ := s.webhook(t, receiver.URL(), func(w *models.Webhook) { w.RateLimitPerSecond = &rate })
		s.start(t)
		s.start(t)
		deliveries := s.emit(t, 60, w)
		for n := 10; n <= 50; n += 20 {
			receiver.Wait(t, n)
			require.NoError(t, s.queue.Client().FlushDB(t.Context()).Err())
		}
		for _, d := range deliveries {
			s.ended(t, d.ID)
		}
		noSecondOver(t, rate, receiver.Requests())
	})
}

// lateListener hands what comes first on each of its first connections over late: the receiver's machine is
// busy.
type lateListener struct {
	net.Listener
	left atomic.Int32
	by   time.Duration
}

func (l *lateListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil && l.left.Add(-1) >= 0 {
		conn = &lateConn{Conn: conn, by: l.by}
	}
	return conn, err
}

type lateConn struct {
	net.Conn
	once sync.Once
	by   time.Duration
}

func (c *lateConn) Read(buffer []byte) (int, error) {
	n, err := c.Conn.Read(buffer)
	c.once.Do(func() { <-time.After(c.by) })
	return n, err
}

// The first requests are late to come, and those of the next second are not: the receiver is slow to
// take them, or the worker to send them.
func TestI9_TheRateHoldsForWhatComesLate(t *testing.T) {
	t.Parallel()
	const rate = 5
	test := func(t *testing.T, s *stack, receiver *receivertest.Receiver, url string, change ...func(*worker.Options)) {
		t.Helper()
		w, _ := s.webhook(t, url, func(w *models.Webhook) { w.RateLimitPerSecond = new(rate) })
		for range 2 {
			s.start(t, change...)
		}
		for _, d := range s.emit(t, 3*rate, w) {
			s.ended(t, d.ID)
		}
		noSecondOver(t, rate, receiver.Requests())
	}
	t.Run("at the receiver", func(t *testing.T) {
		t.Parallel()
		onEach(t, func(t *testing.T, s *stack) {
			listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			late := &lateListener{Listener: listener, by: 800 * time.Millisecond}
			late.left.Store(rate)
			receiver := receivertest.New(t, receivertest.Listener(late))
			test(t, s, receiver, receiver.URL())
		})
	})
	t.Run("from the worker", func(t *testing.T) {
		t.Parallel()
		onEach(t, func(t *testing.T, s *stack) {
			receiver := receivertest.New(t)
			var left atomic.Int32
			left.Store(rate)
			client := egress.NewClient(egress.Options{
				Guard: egress.NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}),
				Lookup: func(context.Context, string) ([]netip.Addr, error) {
					if left.Add(-1) >= 0 {
						<-time.After(1300 * time.Millisecond)
					}
					return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
				},
			})
			t.Cleanup(client.Close)
			test(t, s, receiver, receiver.NamedURL(), func(o *worker.Options) { o.Client = client })
		})
	})
}

func TestD8_ACircuitOverAllWorkers(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t, receivertest.Default(receivertest.Status(500)))
		w, _ := s.webhook(t, receiver.URL(), func(w *models.Webhook) { w.RetrySchedule = &models.Schedule{time.Hour} })
		for range 3 {
			s.start(t, func(o *worker.Options) { o.Breaker.Cooldown = 2 * time.Second })
		}
		s.emit(t, 40, w)
		reader := worker.NewCircuits(s.queue.Client())
		state := func() models.Circuit {
			all, err := reader.Circuits(t.Context(), []string{w.ID})
			require.NoError(t, err)
			return all[w.ID]
		}
		s.eventually(t, func() (bool, string) { return state().State != models.CircuitClosed, string(state().State) })
		// Those that began before it opened, at most a share of each worker.
		s.eventually(t, func() (bool, string) {
			all := s.open(t)
			return len(all) == 0, fmt.Sprint(len(all), " without an attempt or a reason")
		})
		held := s.emit(t, 30, w)
		for _, d := range held {
			// But for one that came at the end of a cooldown.
			s.until(t, d.ID, func(d models.Delivery) bool {
				return d.AttemptCount > 0 || d.StatusReason != nil && *d.StatusReason == models.ReasonCircuitOpen
			})
		}
		begun := len(receiver.Requests())
		// In the next seconds there is one probe for each cooldown, whoever makes it.
		probes := receiver.WaitFor(t, "probes", func(r []receivertest.Request) bool { return len(r) >= begun+3 })[begun:]
		for i, p := range probes[1:] {
			assert.Greater(t, p.At.Sub(probes[i].At), 1900*time.Millisecond)
		}
		receiver.Answer(receivertest.Status(200))
		ended := 0
		for _, d := range held {
			// Some of them were probes and have failed once.
			d = s.until(t, d.ID, func(d models.Delivery) bool { return !d.Status.Open() || d.AttemptCount > 0 })
			if d.Status == models.DeliverySucceeded {
				assert.Equal(t, 1, d.AttemptCount, "held deliveries burn no attempts")
				ended++
			}
		}
		assert.GreaterOrEqual(t, ended, 20)
		s.eventually(t, func() (bool, string) { return state().State == models.CircuitClosed, string(state().State) })
	})
}

// open lists the open deliveries that neither were attempted nor say why they wait.
func (s *stack) open(t testing.TB) []models.Delivery {
	t.Helper()
	first := 100
	page, err := s.store.Tenant(models.Reach{All: true}).Deliveries(t.Context(), models.DeliveryFilter{
		Statuses: []models.DeliveryStatus{models.DeliveryPending},
	}, models.Page{First: &first})
	require.NoError(t, err)
	return slices.DeleteFunc(page.Items, func(d models.Delivery) bool { return d.StatusReason != nil })
}

// One webhook hangs with a backlog: the other one's deliveries are there before any of its attempts
// has ended. How fast is BenchmarkFairness's to say.
func TestD10_OneThatHangsDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		hanging := receivertest.New(t, receivertest.Default(receivertest.Hang()))
		healthy := receivertest.New(t)
		h, _ := s.webhook(t, hanging.URL(), func(w *models.Webhook) { w.Timeout = new(models.Millis(time.Minute)) })
		w, _ := s.webhook(t, healthy.URL())
		p := s.start(t)
		s.emit(t, 400, h)
		hanging.Wait(t, 16) // its share of 64
		s.emit(t, 200, w)
		healthy.Wait(t, 200)
		assert.Len(t, hanging.Requests(), 16, "no more than its share at once")
		assert.Positive(t, heldFor(t, p, "share"))
		hanging.Release()
	})
}

// A rate that is raised holds for what waits already, and what comes meanwhile is told the new line's times.
func TestD9_WhatWaitsGoesOnAtARaisedRate(t *testing.T) {
	t.Parallel()
	for name, raised := range map[string]*int{"raised": new(40), "taken away": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, func(t *testing.T, s *stack) {
				receiver := receivertest.New(t)
				w, _ := s.webhook(t, receiver.URL(), func(w *models.Webhook) { w.RateLimitPerSecond = new(1) })
				s.start(t)
				deliveries := s.emit(t, 30, w)
				var told time.Time // when the last one would come at the old rate
				for _, d := range deliveries {
					d = s.until(t, d.ID, func(d models.Delivery) bool {
						return !d.Status.Open() || d.StatusReason != nil && *d.StatusReason == models.ReasonRateLimited
					})
					if d.NextAttemptAt != nil && d.NextAttemptAt.After(told) {
						told = *d.NextAttemptAt
					}
				}
				w, err := s.store.UpdateWebhook(t.Context(), models.Reach{All: true}, w.ID, nil, func(w *models.Webhook) error {
					w.RateLimitPerSecond = raised
					return nil
				})
				require.NoError(t, err)
				moved := 0
				require.NoError(t, s.store.HastenLimited(t.Context(), w, func(ctx context.Context, page []models.Due) error {
					moved += len(page)
					return s.remind(ctx, page)
				}))
				assert.Positive(t, moved)
				// Half of the line at the old rate is long enough for all of it at the new one, the news included.
				within := time.Until(told) / 2
				require.Greater(t, within, 5*time.Second)
				for _, d := range append(deliveries, s.emit(t, 10, w)...) {
					d = s.ended(t, d.ID)
					require.Equal(t, models.DeliverySucceeded, d.Status)
					require.Less(t, d.CompletedAt.Sub(told.Add(-2*within)), within)
				}
				if raised != nil {
					noSecondOver(t, *raised, receiver.Requests())
				}
			})
		})
	}
}
