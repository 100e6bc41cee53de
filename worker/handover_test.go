package worker_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/worker"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// newTo is a new delivery to each of webhooks.
func newTo(webhooks ...string) []*models.Delivery {
	deliveries := make([]*models.Delivery, len(webhooks))
	for n, id := range webhooks {
		deliveries[n] = &models.Delivery{WebhookID: id, Revision: 1}
	}
	return deliveries
}

// handOver commits an event to w that p attempts without a task.
func (s *stack) handOver(t testing.TB, p *process, w models.Webhook) models.Delivery {
	t.Helper()
	since := time.Now()
	reserved, lease := p.Reserve(newTo(w.ID))
	require.Equal(t, []models.Reserved{{Held: true}}, reserved)
	data, token := eventData, uuid.NewString()
	results, err := s.store.CommitEvents(t.Context(), func(_ context.Context, tx *models.EventTx) ([]models.NewEvent, error) {
		return []models.NewEvent{{
			Event: models.Event{Tenant: tenant, EventType: eventType, Data: &data, Matched: 1},
			Deliveries: []models.Delivery{{
				WebhookID: w.ID, Revision: w.Revision, ClaimToken: &token, ClaimedUntil: new(tx.Now().Add(lease)),
			}},
		}}, nil
	})
	require.NoError(t, err)
	event, d := results[0].Event, results[0].Deliveries[0]
	p.Attempt([]models.Claim{{
		DeliveryID: d.ID, Tenant: d.Tenant, EventID: event.ID, WebhookID: w.ID, WebhookRevision: w.Revision,
		EventType: event.EventType, EventTimestamp: event.Timestamp, Data: data, Number: 1, Trigger: d.AttemptTrigger,
		Token: token, ClaimedAt: *d.ClaimedAt, CreatedAt: d.CreatedAt,
	}}, since)
	return d
}

// The task of a delivery that is under way already waits for it, and nothing is sent twice.
func TestHandover_TheTaskWaits(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t, receivertest.Default(receivertest.Hang()))
		w, _ := s.webhook(t, receiver.URL())
		p := s.bare(t, nil)
		d := s.handOver(t, p, w)
		receiver.Wait(t, 1)
		handled := make(chan error, 1)
		go func() { handled <- p.Handle(t.Context(), []string{d.ID}) }()
		// Another worker does not wait: the claim in the database keeps it away.
		require.NoError(t, s.bare(t, nil).Handle(t.Context(), []string{d.ID}))
		select {
		case err := <-handled:
			t.Fatalf("the task ended before the attempt: %v", err)
		default:
		}
		receiver.Release()
		require.NoError(t, <-handled)
		assert.Equal(t, models.DeliverySucceeded, s.delivery(t, d.ID).Status)
		assert.Len(t, receiver.Requests(), 1)
		assert.Len(t, s.attempts(t, d.ID), 1)
	})
}

// A retry's task may come before the attempt that caused it has ended here.
func TestHandover_ARetryIsNotTakenForTheAttemptBeforeIt(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t)
		w, _ := s.webhook(t, receiver.URL(), func(w *models.Webhook) {
			w.RetrySchedule = &models.Schedule{0}
		})
		p := s.bare(t, nil)
		handled := make(chan error, 1)
		var id string
		ready := make(chan struct{})
		receiver.Script(func(x *receivertest.Exchange) {
			<-ready
			go func() { handled <- p.Handle(context.WithoutCancel(t.Context()), []string{id}) }()
			receivertest.Status(500)(x)
		}, receivertest.Status(200))
		id = s.handOver(t, p, w).ID
		close(ready)
		require.NoError(t, <-handled)
		assert.Equal(t, models.DeliverySucceeded, s.delivery(t, id).Status)
		assert.Len(t, receiver.Requests(), 2)
	})
}

// What there is no room for is left to the queue, and nothing is reserved past those that wait.
func TestHandover_OnlyAsFarAsThereIsRoom(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	receiver := receivertest.New(t, receivertest.Default(receivertest.Hang()))
	w, _ := s.webhook(t, receiver.URL())
	p := s.bare(t, nil, func(o *worker.Options) { o.Concurrency, o.WebhookShare = 4, 1 })
	reserve := func(n int) (held int) {
		reserved, _ := p.Reserve(newTo(slices.Repeat([]string{w.ID}, n)...))
		require.Len(t, reserved, n)
		for _, r := range reserved {
			if r.Held {
				held++
			}
		}
		return held
	}
	assert.Equal(t, 4, reserve(100))
	assert.Zero(t, reserve(1))
	p.Release(4)

	s.handOver(t, p, w)
	receiver.Wait(t, 1)
	assert.Equal(t, 3, reserve(4)) // what is free
	p.Release(3)

	receiver.Release()
	p.stop()
	assert.Zero(t, reserve(1), "a worker that has stopped takes nothing over")
}

// One webhook gets no more room without tasks than twice its share of the slots, and the others get the rest.
func TestHandover_NoMoreThanAShareForOne(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	p := s.bare(t, nil, func(o *worker.Options) { o.Concurrency, o.WebhookShare = 4, 0.25 })
	reserved, _ := p.Reserve(newTo("a", "a", "a", "b", "a", "b", "c"))
	held, none := models.Reserved{Held: true}, models.Reserved{}
	assert.Equal(t, []models.Reserved{held, held, none, held, none, held, none}, reserved)
	p.Release(4)
}

// A stop lets what was handed over finish as far as its grace goes.
func TestHandover_FinishWaits(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	receiver := receivertest.New(t, receivertest.Default(receivertest.Hang()))
	w, _ := s.webhook(t, receiver.URL())
	p := s.bare(t, nil)
	d := s.handOver(t, p, w)
	receiver.Wait(t, 1)

	over, cancel := context.WithCancel(t.Context())
	cancel()
	p.Finish(over)
	assert.NotNil(t, s.delivery(t, d.ID).ClaimToken)

	finished := make(chan struct{})
	go func() { p.Finish(context.WithoutCancel(t.Context())); close(finished) }()
	receiver.Release()
	<-finished
	assert.Equal(t, models.DeliverySucceeded, s.delivery(t, d.ID).Status)
}
