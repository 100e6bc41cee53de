package worker

import (
	"context"
	"time"

	"github.com/intervengine/webhooks/models"
)

// Reserve makes room for an attempt to each of webhooks that may follow at once, without waiting, the
// first ones first. Of each it tells whether there is room (there is none where tasks wait for some) or,
// where the webhook has no slot, for how long to park it; and for how long they are to be claimed.
func (w *Worker) Reserve(webhooks []string) (reserved []models.Reserved, leased time.Duration) {
	reserved = make([]models.Reserved, len(webhooks))
	if w.attempts.Err() != nil {
		return reserved, lease
	}
	wanted := 0
	for n, id := range webhooks {
		if reserved[n].Park = w.share.full(id); reserved[n].Park == 0 {
			wanted++
		}
	}
	places := w.room.try(wanted)
	for n := range reserved {
		if reserved[n].Park == 0 && places > 0 {
			reserved[n].Held = true
			places--
		}
	}
	return reserved, lease
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
	for _, c := range all {
		r := w.running.add(c)
		go w.deliver(c, r)
	}
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
