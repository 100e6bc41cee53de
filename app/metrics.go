package app

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// scrapeTimeout bounds what a scrape asks of the database and the queue.
const scrapeTimeout = 2 * time.Second

// gauges reads, when it is scraped, what the parts of the process know. What cannot be read at the
// moment is left out rather than told wrongly. No metric names a tenant, a webhook or a URL.
type gauges struct {
	app *App

	accepted, duplicates, repairs, expired, build  *prometheus.Desc
	open, oldestDue, tasks, reconciled, logDropped *prometheus.Desc
}

func newGauges(a *App) *gauges {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &gauges{
		app:        a,
		accepted:   desc("webhooks_events_accepted_total", "Events that this process committed."),
		duplicates: desc("webhooks_events_duplicate_total", "Calls that were answered with the event of an earlier call."),
		repairs:    desc("webhooks_reconciler_repairs_total", "Deliveries that this process put back into the queue."),
		expired:    desc("webhooks_reconciler_expired_claims_total", "Claims of workers that ended in the middle of an attempt."),
		build:      desc("webhooks_build_info", "Always 1; the version is in the label.", "version"),
		open:       desc("webhooks_open_deliveries", "Deliveries that have not ended, up to the number that is counted."),
		oldestDue:  desc("webhooks_oldest_due_seconds", "How long the oldest delivery that is due has been due; 0: none is."),
		reconciled: desc("webhooks_reconciler_age_seconds", "How long ago any process completed a pass of the reconciler; none: never."),
		logDropped: desc("webhooks_log_lines_dropped_total", "Lines of the log that were dropped because nobody read them."),
		tasks:      desc("webhooks_queue_tasks", "Tasks in the queue, by state.", "state"),
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.accepted, g.duplicates, g.repairs, g.expired, g.build, g.open, g.oldestDue, g.tasks, g.reconciled, g.logDropped} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	counter := func(d *prometheus.Desc, n float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, n)
	}
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	gauge(g.build, 1, g.app.options.Version)
	counter(g.accepted, float64(g.app.intake.Stats().Accepted()))
	counter(g.duplicates, float64(g.app.intake.Stats().Duplicates()))
	var dropped uint64
	if g.app.options.LogDropped != nil {
		dropped = g.app.options.LogDropped()
	}
	counter(g.logDropped, float64(dropped))
	if g.app.reconciler != nil {
		stats := g.app.reconciler.Stats()
		counter(g.repairs, float64(stats.Repaired))
		counter(g.expired, float64(stats.Expired))
	}
	if stats, err := g.app.store.OpenStats(ctx); err == nil {
		gauge(g.open, float64(stats.Open))
		gauge(g.oldestDue, stats.OldestDue.Seconds())
	}
	if age, known, err := g.app.store.ReconciledAgo(ctx); err == nil && known {
		gauge(g.reconciled, age.Seconds())
	}
	if sizes, err := g.app.queue.Sizes(ctx); err == nil {
		gauge(g.tasks, float64(sizes.Pending), "pending")
		gauge(g.tasks, float64(sizes.Active), "active")
		gauge(g.tasks, float64(sizes.Scheduled), "scheduled")
		gauge(g.tasks, float64(sizes.Retry), "retry")
		gauge(g.tasks, float64(sizes.Archived), "archived")
	}
}
