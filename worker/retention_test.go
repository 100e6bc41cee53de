package worker_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
	"github.com/intervengine/webhooks/worker"
)

// BenchmarkH4_CommitsDuringRetention commits events one by one, without and with a retention that
// removes a backlog beside it, and reports what 99 of 100 stay under.
func BenchmarkH4_CommitsDuringRetention(b *testing.B) {
	for name, open := range map[string]func(testing.TB) *models.Store{"sqlite": modelstest.SQLite, "postgres": modelstest.Postgres} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				store := open(b)
				data := `{"participant":{"id":"p1"}}`
				add := func(n int) {
					_, err := store.CommitEvents(b.Context(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
						events := make([]models.NewEvent, n)
						for i := range events {
							events[i] = models.NewEvent{
								Event: models.Event{EventType: "message.sent", Data: &data},
								Deliveries: []models.Delivery{
									{WebhookID: "wh_a", Status: models.DeliverySkipped}, {WebhookID: "wh_b", Status: models.DeliverySkipped},
								},
							}
						}
						return events, nil
					})
					require.NoError(b, err)
				}
				p99 := func() time.Duration {
					const commits = 1500
					took := make([]time.Duration, commits)
					for i := range took {
						started := time.Now()
						add(1)
						took[i] = time.Since(started)
					}
					slices.Sort(took)
					return took[commits*99/100]
				}
				for range 160 {
					add(250)
				}
				alone := p99()
				ctx, cancel := context.WithCancel(b.Context())
				duty := worker.NewRetention(worker.RetentionOptions{
					Store: store, Logger: slog.New(slog.DiscardHandler), Keep: time.Millisecond, Interval: time.Hour,
				})
				ended := make(chan error, 1)
				go func() { ended <- duty.Run(ctx) }()
				beside := p99()
				cancel()
				require.NoError(b, <-ended)
				b.ReportMetric(float64(alone.Microseconds()), "p99-alone-µs")
				b.ReportMetric(float64(beside.Microseconds()), "p99-beside-µs")
				b.ReportMetric(float64(beside)/float64(alone), "ratio")
			}
		})
	}
}
