package worker

import (
	"context"
	"sync"
	"time"

	"github.com/intervengine/webhooks/models"
)

// inFlight knows the claims whose attempts are running, so that those which take longer than a
// lease keep it.
type inFlight struct {
	mu     sync.Mutex
	claims map[models.ClaimKey]time.Time // by when it was claimed
}

func newInFlight() *inFlight { return &inFlight{claims: map[models.ClaimKey]time.Time{}} }

func (f *inFlight) add(key models.ClaimKey, since time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claims[key] = since
}

func (f *inFlight) remove(key models.ClaimKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.claims, key)
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
