package worker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/intervengine/webhooks/models"
)

// inFlight knows the claims whose attempts are running: those that take longer than a lease keep it,
// and a task that names one waits for it.
type inFlight struct {
	mu     sync.Mutex
	claims map[models.ClaimKey]time.Time // by when it was claimed
	latest map[string]*running           // by delivery
	counts map[string]int                // by webhook
}

// running is an attempt that is under way.
type running struct {
	ended     chan struct{} // closed when it is recorded or given back
	succeeded bool          // and recorded: set before ended is closed
}

func newInFlight() *inFlight {
	return &inFlight{claims: map[models.ClaimKey]time.Time{}, latest: map[string]*running{}, counts: map[string]int{}}
}

// add takes a claim in. end must follow.
func (f *inFlight) add(c claim) *running {
	r := &running{ended: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claims[c.key()] = c.at
	f.latest[c.DeliveryID] = r
	f.counts[c.WebhookID]++
	return r
}

// end takes a claim out.
func (f *inFlight) end(c claim, r *running) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(r.ended)
	delete(f.claims, c.key())
	if f.counts[c.WebhookID]--; f.counts[c.WebhookID] == 0 {
		delete(f.counts, c.WebhookID)
	}
	// A worker that overslept its lease may have claimed the delivery anew.
	if f.latest[c.DeliveryID] == r {
		delete(f.latest, c.DeliveryID)
	}
}

// split parts ids into those that are under way and the others.
func (f *inFlight) split(ids []string) (others []string, underWay map[string]*running) {
	f.mu.Lock()
	defer f.mu.Unlock()
	others = make([]string, 0, len(ids))
	underWay = make(map[string]*running)
	for _, id := range ids {
		if r := f.latest[id]; r != nil {
			underWay[id] = r
		} else {
			others = append(others, id)
		}
	}
	return others, underWay
}

// of is how many deliveries of a webhook are under way.
func (f *inFlight) of(webhookID string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[webhookID]
}

// all is what is under way now.
func (f *inFlight) all() []*running {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.latest))
}

// olderThan gives the claims that were made before t.
func (f *inFlight) olderThan(t time.Time) []models.ClaimKey {
	f.mu.Lock()
	defer f.mu.Unlock()
	var keys []models.ClaimKey
	for key, since := range f.claims {
		if since.Before(t) {
			keys = append(keys, key)
		}
	}
	return keys
}

// extend keeps the claims of long attempts until the worker stops.
func (w *Worker) extend() {
	tick := time.NewTicker(extendEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.stopping:
			return
		case <-tick.C:
		}
		keys := w.running.olderThan(time.Now().Add(-extendEvery / 2))
		if len(keys) == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), extendEvery)
		if err := w.opt.Store.ExtendClaims(ctx, keys, lease); err != nil {
			// Losing the lease is safe: another worker attempts it, and the fence keeps us from its row.
			w.opt.Logger.WarnContext(ctx, "claims not extended", "claims", len(keys), "error", err)
		}
		cancel()
	}
}
