package worker_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/worker"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// A webhook with a rate is resumed: what it held comes oldest first, as far as it is claimed together. Only
// those that start at the same moment may overtake each other, which are as many as the rate at most.
func TestW6_OldestFirst(t *testing.T) {
	t.Parallel()
	const rate, held = 6, 32
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t)
		w, _ := s.webhook(t, receiver.URL(), func(w *models.Webhook) { w.RateLimitPerSecond = new(rate) })
		become := func(status models.WebhookStatus) {
			_, err := s.store.SetWebhookStatus(t.Context(), models.Reach{All: true}, w.ID, status, models.ReasonByUser, s.remind)
			require.NoError(t, err)
		}
		become(models.WebhookPaused)
		s.start(t, func(o *worker.Options) { o.WebhookShare = 1 })
		deliveries := s.emit(t, held, w)
		s.eventually(t, func() (bool, string) { // their tasks, which find nothing to do, are gone
			sizes, err := s.queue.Sizes(t.Context())
			require.NoError(t, err)
			return sizes.Pending+sizes.Active == 0, fmt.Sprintf("%+v", sizes)
		})
		become(models.WebhookActive)
		place := map[string]int{}
		for n, d := range deliveries {
			place[d.EventID] = n
		}
		requests := receiver.Wait(t, held)
		order, off := make([]int, held), 0
		for n, r := range requests {
			order[n] = place[r.ID()]
			off += max(order[n]-n, n-order[n])
		}
		require.LessOrEqual(t, off, held*held/9, "places off, of which chance gives three times as many; the order of arrival: %v", order)
	})
}

// With one slot the deliveries of a task are sent one after the other, in their order.
func TestW6_ATaskTakesItsSlotsInOrder(t *testing.T) {
	t.Parallel()
	const rounds, each = 6, 3
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t)
		w, _ := s.webhook(t, receiver.URL())
		p := s.bare(t, nil, func(o *worker.Options) { o.Concurrency, o.WebhookShare = 8, 1./8 })
		first := s.emit(t, 1, w)[0] // now the webhook is known
		require.NoError(t, p.Handle(t.Context(), []string{first.ID}))
		want := []string{first.EventID}
		for range rounds {
			ids := make([]string, 0, each)
			for _, d := range s.emit(t, each, w) {
				ids, want = append(ids, d.ID), append(want, d.EventID)
			}
			require.NoError(t, p.Handle(t.Context(), ids))
		}
		var got []string
		for _, r := range receiver.Requests() {
			got = append(got, r.ID())
		}
		require.Equal(t, want, got)
	})
}
