package worker

import (
	"context"
	"time"

	"github.com/intervengine/webhooks/models"
)

// Reserve makes room for at most n attempts that follow at once, without waiting, and tells for how
// many there is some (0 when tasks wait for room already) and for how long they are to be claimed.
func (w *Worker) Reserve(n int) (places int, leased time.Duration) {
	if w.attempts.Err() != nil {
		return 0, lease
	}
	return w.room.try(n), lease
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
