package app

import (
	"context"
	"time"

	"github.com/intervengine/webhooks/models"
)

// watchInterval is how soon a process learns that another one changed a key: half of the second
// that a revocation may take.
const watchInterval = 500 * time.Millisecond

// watch follows the log of configuration changes for those caches that are not checked where
// they are used. One read of one row a round.
func (a *App) watch(ctx context.Context) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	known := int64(-1)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		head, err := a.store.ConfigEpoch(ctx)
		if err != nil || head == known {
			continue // an unreachable database is the statements' own matter; the next round asks again
		}
		keys := known < 0
		if !keys {
			changed, err := a.store.ChangesSince(ctx, known)
			if err != nil {
				continue
			}
			for _, c := range changed {
				keys = keys || c.Kind == models.ChangedAPIKey
			}
		}
		known = head
		if keys {
			a.auth.Invalidate()
		}
	}
}
