package worker_test

import (
	"slices"
	"testing"
	"time"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/worker"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// BenchmarkFairness measures from commit to receipt at a healthy webhook, alone and beside one with a
// backlog of 10,000 that it does not take. ratio is what the others cost its p99 (D10: at most 2).
func BenchmarkFairness(b *testing.B) {
	rate := 10
	for _, kind := range []string{"embedded", "production"} {
		for name, beside := range map[string]struct {
			answer receivertest.Answer
			rate   *int
		}{
			"hanging":      {receivertest.Hang(), nil},
			"slow":         {receivertest.Delay(2*time.Second, receivertest.Status(200)), nil},
			"failing":      {receivertest.Status(500), nil},
			"rate-limited": {receivertest.Status(200), &rate},
		} {
			b.Run(kind+"/"+name, func(b *testing.B) {
				var s *stack
				if kind == "embedded" {
					s = embedded(b)
				} else {
					s = production(b)
				}
				healthy := receivertest.New(b)
				w, _ := s.webhook(b, healthy.URL())
				p := s.start(b, func(o *worker.Options) { o.Concurrency = 512; o.Timeout = 15 * time.Second })
				p99(b, s, w, healthy, 200) // connections, caches, plans
				idle := p99(b, s, w, healthy, 1000)
				other := receivertest.New(b, receivertest.Default(beside.answer))
				o, _ := s.webhook(b, other.URL(), func(w *models.Webhook) { w.RateLimitPerSecond = beside.rate })
				s.emit(b, 10_000, o)
				other.Wait(b, 5)
				b.ResetTimer()
				first := p99(b, s, w, healthy, 500) // while each of the backlog is looked at for the first time
				loaded := p99(b, s, w, healthy, 2000)
				b.ReportMetric(float64(first.Microseconds())/1000, "first-p99-ms")
				b.ReportMetric(float64(idle.Microseconds())/1000, "idle-p99-ms")
				b.ReportMetric(float64(loaded.Microseconds())/1000, "p99-ms")
				b.ReportMetric(float64(loaded)/float64(idle), "ratio")
				other.Release()
				p.stop()
			})
		}
	}
}

// BenchmarkBacklog measures how much of what its slots could do a webhook with a backlog gets.
func BenchmarkBacklog(b *testing.B) {
	for _, kind := range []string{"embedded", "production"} {
		for name, backlog := range map[string]struct {
			concurrency, slots, deliveries int
			takes                          time.Duration
		}{
			"fast and narrow": {16, 4, 600, 20 * time.Millisecond},
			"wider":           {64, 16, 960, 100 * time.Millisecond},
			"slow":            {16, 4, 60, 200 * time.Millisecond},
		} {
			b.Run(kind+"/"+name, func(b *testing.B) {
				for range b.N {
					s := production
					if kind == "embedded" {
						s = embedded
					}
					stack := s(b)
					receiver := receivertest.New(b, receivertest.Default(receivertest.Delay(backlog.takes, receivertest.Status(200))))
					w, _ := stack.webhook(b, receiver.URL())
					stack.emit(b, backlog.deliveries, w)
					p := stack.start(b, func(o *worker.Options) { o.Concurrency = backlog.concurrency })
					got := receiver.Wait(b, backlog.deliveries)
					took := got[len(got)-1].At.Sub(got[0].At)
					least := time.Duration(backlog.deliveries/backlog.slots-1) * backlog.takes
					b.ReportMetric(100*float64(least)/float64(took), "%busy")
					p.stop()
				}
			})
		}
	}
}

// p99 of n deliveries, one after the other each few milliseconds.
func p99(b *testing.B, s *stack, w models.Webhook, receiver *receivertest.Receiver, n int) time.Duration {
	b.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	emitted := map[string]time.Time{}
	seen := len(receiver.Requests())
	for range n {
		<-tick.C
		at := time.Now()
		emitted[s.emit(b, 1, w)[0].EventID] = at
	}
	var took []time.Duration
	for _, r := range receiver.Wait(b, seen+n)[seen:] {
		took = append(took, r.At.Sub(emitted[r.ID()]))
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}
