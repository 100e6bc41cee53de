package queue

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/intervengine/webhooks/models"
)

const (
	// maxHeld bounds the tasks that the in-process queue takes from callers, and with them its memory: one task
	// costs between 0.6 and 1.6 KB.
	maxHeld = 4096
	// refillBelow is the number of pending tasks below which more is fetched: they keep the workers busy
	// meanwhile, and few enough are enqueued twice by it.
	refillBelow = 64
	// refillSize is how many deliveries are fetched at a time.
	refillSize = 128 * maxBundle
	// refillLook is how often a queue from which something was left out is looked at, and refillRest while
	// nothing is due.
	refillLook = 50 * time.Millisecond
	refillRest = 250 * time.Millisecond
	// lookAgain is how often the sender looks at a queue that may be full.
	lookAgain = 10 * time.Millisecond
)

// window is what the in-process queue holds of all that is open: it lies in this process's memory, and a
// receiver that is away for an hour must not fill that. What finds no room is left where it is in any
// case, in the database. While anything due was left out, the newcomers are, too: it is fetched in the order in
// which it became due, and nothing overtakes it.
type window struct {
	most   int64     // tasks that may be held: maxHeld
	held   int64     // tasks at most: those of the last look and what came since. The sender's.
	looked time.Time // when that was. The sender's.

	behind atomic.Bool   // something due was left out
	until  atomic.Int64  // when the last is due that was left out, Unix ns
	left   chan struct{} // cap 1: something was
	read   int64         // up to when everything that was left out has been fetched, Unix ns. The refill's.
}

// fit returns the part of items that the in-process queue has room for. There is one sender, which calls it.
//
// Half of the room may be taken by what is for later: retries that wait for their hour must not send what is due
// now the long way.
func (c *Conn) fit(ctx context.Context, items []Item) []Item {
	w := &c.window
	if w.held+int64(len(items)) > w.most/2 && time.Since(w.looked) > lookAgain {
		if sizes, err := c.Sizes(ctx); err == nil {
			w.held = sizes.Pending + sizes.Active + sizes.Scheduled + sizes.Retry
			w.looked = time.Now()
		}
	}
	now := c.now()
	kept, due := items[:0], 0
	for _, it := range items {
		switch later := it.At.After(now); {
		case later && w.held >= w.most/2:
			w.leaveOut(it.At)
		case !later && (w.held >= w.most || w.behind.Load()):
			if w.fallBehind(now) && c.noise.allow(time.Minute) {
				c.log.InfoContext(ctx, "more is due than the in-process queue holds; the rest is fetched from the database in its order", slog.Int64("tasks", w.held))
			}
		case later:
			kept = append(kept, it)
			w.held++ // or less, where several are due at the same moment
		default:
			kept = append(kept, it)
			if due%maxBundle == 0 {
				w.held++
			}
			due++
		}
	}
	return kept
}

// fallBehind notes that something which is due now was left out, and reports whether it is the first.
func (w *window) fallBehind(now time.Time) bool {
	first := !w.behind.Swap(true)
	w.leaveOut(now)
	return first
}

// refuse notes that all of items were left out.
func (w *window) refuse(items []Item, now time.Time) {
	for _, it := range items {
		if it.At.After(now) {
			w.leaveOut(it.At)
		} else {
			w.fallBehind(now)
		}
	}
}

// leaveOut notes that something which is due at the given time was left out.
func (w *window) leaveOut(at time.Time) {
	for ns := at.UnixNano(); ; {
		until := w.until.Load()
		if ns <= until || w.until.CompareAndSwap(until, ns) {
			break
		}
	}
	select {
	case w.left <- struct{}{}:
	default:
	}
}

// refill fetches what was left out of the in-process queue, oldest first, whenever the workers are about to run
// out of tasks, until ctx ends.
func (r *Reconciler) refill(ctx context.Context) {
	w := &r.conn.window
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.left:
		}
		for more := true; more; {
			timer.Reset(r.refillSome(ctx))
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			more = w.behind.Load() || w.until.Load() > w.read
		}
	}
}

// refillSome fetches what is due if the queue is short of it, and says when to look again.
func (r *Reconciler) refillSome(ctx context.Context) time.Duration {
	w := &r.conn.window
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	sizes, err := r.conn.Sizes(ctx)
	if err != nil || sizes.Paused || sizes.Pending >= refillBelow {
		return refillLook
	}
	// What is left out while this reads asks for another look.
	behind, now := w.behind.Swap(false), r.conn.now()
	patience := refillRest // for what is on its way by itself
	if behind {
		patience = 0
	}
	due, err := r.ledger.DueDeliveries(ctx, patience, models.DueCursor{}, refillSize)
	if err == nil {
		err = r.conn.put(ctx, tasksOfDue(due, now))
	}
	if err != nil || len(due) == refillSize {
		w.behind.Store(true)
		return refillLook
	}
	w.read = now.Add(-patience).UnixNano()
	return refillRest
}
