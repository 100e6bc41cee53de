package queue

import (
	"time"

	"github.com/intervengine/webhooks/models"
)

// maxSent bounds what the Reconciler remembers, and with it what it has in the queue at a time:
// what is beyond gets its turn when some of that was picked up.
const maxSent = 100_000

// sentBook remembers what the Reconciler enqueued and the workers may not have picked up yet, so
// that a backlog gets one task more for each delivery, not one in every pass.
type sentBook struct {
	entries map[string]sentEntry // by delivery id
}

type sentEntry struct {
	attempt int
	at      time.Time
}

func (b *sentBook) add(due []models.Due, now time.Time) {
	if b.entries == nil {
		b.entries = make(map[string]sentEntry)
	}
	for _, d := range due {
		b.entries[d.DeliveryID] = sentEntry{attempt: d.AttemptCount, at: now}
	}
}

// prune forgets what the queue no longer holds: what was enqueued before the task that is now at
// its head. What was picked up a moment ago is kept a little longer, because its claim is on
// its way. Where nothing waits head is now.
func (b *sentBook) prune(now, head time.Time) {
	for id, e := range b.entries {
		if e.at.Before(head.Add(-time.Second)) && e.at.Before(now.Add(-grace)) {
			delete(b.entries, id)
		}
	}
}

// missing is the part of due that is not in the book.
func (b *sentBook) missing(due []models.Due) []models.Due {
	lost := make([]models.Due, 0, len(due))
	for _, d := range due {
		if e, ok := b.entries[d.DeliveryID]; !ok || e.attempt != d.AttemptCount {
			lost = append(lost, d)
		}
	}
	return lost
}

func (b *sentBook) full() bool { return len(b.entries) >= maxSent }
