package worker

import (
	"context"
	"time"

	"github.com/intervengine/webhooks/models"
)

// Reserve makes room for an attempt of each of deliveries, which may follow at once, without waiting, the
// first ones first. Of each it tells whether there is room or, where it would only be told to wait, for how
// long and why; and for how long they are to be claimed. No webhook gets more room in this way than
// twice its share of the slots, since others of its deliveries may be waiting for something else.
func (w *Worker) Reserve(deliveries []*models.Delivery) (reserved []models.Reserved, leased time.Duration) {
	reserved = make([]models.Reserved, len(deliveries))
	if w.attempts.Err() != nil {
		return reserved, lease
	}
	taken := make(map[string]int, len(deliveries))
	var wanted []int
	for n, d := range deliveries {
		if reserved[n] = w.wait(d); reserved[n].Wait > 0 {
			continue
		}
		id := d.WebhookID
		if _, known := taken[id]; !known {
			taken[id] = w.running.of(id)
		}
		if taken[id] < 2*w.share.limit {
			taken[id]++
			wanted = append(wanted, n)
		}
	}
	for _, n := range wanted[:w.room.try(len(wanted))] {
		reserved[n].Held = true
	}
	return reserved, lease
}

// wait is what a new delivery would be told if it were claimed, as far as that is known here.
func (w *Worker) wait(d *models.Delivery) models.Reserved {
	if wait := w.circuits.park(d.WebhookID); wait > 0 {
		return models.Reserved{Wait: coarse(wait), Reason: models.ReasonCircuitOpen, Detail: detailCircuit}
	}
	if wait := w.limiter.park(d.WebhookID, d.Revision); wait > 0 {
		return models.Reserved{Wait: wait, Reason: models.ReasonRateLimited, Detail: detailRate}
	}
	if wait := w.share.full(d.WebhookID, forPerson(d.Trigger)); wait > 0 {
		return models.Reserved{Wait: coarse(wait), Reason: models.ReasonRateLimited, Detail: models.DetailShare}
	}
	return models.Reserved{}
}

// Release gives back places that were reserved and are not needed.
func (w *Worker) Release(places int) { w.room.leave(places) }

// Attempt makes the attempts of claims, for each of which a place was reserved, and returns at once.
// since is a time from before they were claimed, by this process's own clock.
func (w *Worker) Attempt(claims []models.Claim, since time.Time) {
	all := make([]claim, len(claims))
	for n := range claims {
		all[n] = claim{Claim: &claims[n], at: since}
	}
	together(all)
	w.takeSlots(all)
	for _, c := range all {
		r := w.running.add(c)
		go w.deliver(c, r)
	}
	spawned()
}

// Finish waits until the attempts that came without a task have ended, or ctx has. Nothing may be
// reserved any more.
func (w *Worker) Finish(ctx context.Context) {
	for _, r := range w.running.all() {
		select {
		case <-r.ended:
		case <-ctx.Done():
			return
		}
	}
}
