package e2e

import (
	"fmt"
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
