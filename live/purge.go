package live

import (
	"context"
	"time"
)

const (
	purgeLease = "feed-retention"
	purgeRows  = 1000
	// purgePause is between two batches, so that traffic passes.
	purgePause = 20 * time.Millisecond
)

// purge removes what is older than the retention, in one process at a time, in bounded batches.
func (f *Feed) purge(ctx context.Context) {
	tick := time.NewTicker(f.opt.PurgeInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := f.purgeAll(ctx); err != nil && ctx.Err() == nil {
			f.opt.Logger.WarnContext(ctx, "old entries of the live feed not removed, trying again", "error", err)
		}
	}
}

func (f *Feed) purgeAll(ctx context.Context) error {
	for {
		// Renewed with each batch: a process that hangs loses it.
		held, err := f.opt.Store.AcquireLease(ctx, purgeLease, f.holder, max(f.opt.PurgeInterval/2, time.Second))
		if err != nil || !held {
			return err
		}
		n, err := f.opt.Store.PurgeFeed(ctx, f.opt.Retention, purgeRows)
		if err != nil || n < purgeRows {
			return err
		}
		if !wait(ctx, purgePause) {
			return nil
		}
	}
}
