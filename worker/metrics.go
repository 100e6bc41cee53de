package worker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/models"
)

// metrics counts attempts. No label names a tenant, a webhook or a URL: their number has no bound.
type metrics struct {
	attempts *prometheus.CounterVec
	duration prometheus.Histogram
	latency  prometheus.Histogram
	held     *prometheus.CounterVec
	panics   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "webhooks_attempts_total", Help: "Attempts that ended, by outcome.",
		}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "webhooks_attempt_duration_seconds", Help: "How long attempts took, body included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "webhooks_emit_to_receipt_seconds", Help: "From the begin of an event's commit to the answer of its first attempt, where that succeeded; without events for later.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}),
		held: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "webhooks_held_back_total", Help: "Claimed deliveries that were given back unstarted, by why they wait.",
		}, []string{"reason"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "webhooks_attempt_panics_total", Help: "Attempts that an internal fault broke off.",
		}),
	}
	for _, why := range []heldWhy{heldByCircuit, heldByRate, heldByShare, heldByFault, heldBack} {
		m.held.WithLabelValues(string(why))
	}
	for _, c := range []prometheus.Collector{m.attempts, m.duration, m.latency, m.held, m.panics} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(c claim, result egress.Result) {
	m.attempts.WithLabelValues(string(result.Outcome)).Inc()
	m.duration.Observe(result.Timing.Total.Seconds())
	// What was emitted for later tells nothing of how fast we are.
	if c.Number == 1 && c.Trigger == models.TriggerAutomatic && result.Outcome == egress.Success && c.Waited != models.ReasonScheduled {
		// By the database's clock up to the claim, by our own from there on.
		m.latency.Observe((c.ClaimedAt.Sub(c.CreatedAt) + time.Since(c.at)).Seconds())
	}
}
