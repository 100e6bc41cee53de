package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/intervengine/webhooks/batch"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
)

type batchResult = batch.Result[models.Recorded]

const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 2 * time.Second
	// maxRefusals is how often a record may be refused as it is before its texts are left out, and
	// again before it is given up.
	maxRefusals = 3
)

// errPanicked is how a panic below a flush comes out.
var errPanicked = errors.New("panicked")

// transient reports whether err is the database's or the process's own passing trouble, so that
// trying again later may help.
func transient(err error) bool {
	var away *models.UnavailableError
	return errors.As(err, &away) || errors.Is(err, batch.ErrBusy) || errors.Is(err, batch.ErrStopped) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// write records an attempt. It does not give up while the process lives: an attempt that was
// made must not be forgotten because the database was away for a while. It reports whether the
// attempt is recorded.
func (w *Worker) write(ctx context.Context, record models.AttemptRecord) (written bool) {
	refused := 0
	w.insist(ctx, "attempt not recorded yet", record.Attempt.DeliveryID, func() (bool, error) {
		recorded, err := w.recorder.Do(ctx, record)
		switch {
		case err == nil:
			if record.Effect == models.EffectGone && recorded.Applied {
				w.health.kick()
			}
			written = true
			return true, nil
		case transient(err):
			return false, err
		}
		if refused++; refused == maxRefusals {
			// What the receiver sent cannot be stored, whatever it is: the outcome must be.
			record.Attempt.ResponseBody, record.Attempt.ResponseHeaders, record.Attempt.Error = nil, nil, nil
		}
		return refused == 2*maxRefusals, err
	})
	return written
}

// giveBack returns a claim whose attempt was not started. It insists too: a claim that runs out
// would be taken for an attempt.
func (w *Worker) giveBack(ctx context.Context, release models.Release) {
	refused := 0
	w.insist(ctx, "claim not given back yet", release.DeliveryID, func() (bool, error) {
		_, err := w.releaser.Do(ctx, release)
		switch {
		case err == nil:
			return true, nil
		case transient(err):
			return false, err
		}
		refused++
		return refused == maxRefusals, err
	})
}

// insist repeats do until it is done or the worker has stopped. An error with the last try is final.
// The claim is extended meanwhile; in the end it runs out, and the reconciler shows it as abandoned.
func (w *Worker) insist(ctx context.Context, message, deliveryID string, do func() (done bool, err error)) {
	backoff := firstBackoff
	for {
		done, err := do()
		switch {
		case done && err != nil:
			w.opt.Logger.ErrorContext(ctx, "claim left to run out", "delivery", deliveryID, "error", err)
			return
		case done:
			return
		}
		w.opt.Logger.WarnContext(ctx, message, "delivery", deliveryID, "error", err)
		select {
		case <-w.stopping:
			return
		case <-time.After(backoff):
			backoff = min(2*backoff, lastBackoff)
		}
	}
}

// record is the recorder's flush: one transaction for the outcomes of many attempts.
func (w *Worker) record(ctx context.Context, records []models.AttemptRecord) ([]batchResult, error) {
	return w.enqueued(oneBad(records, func(some []models.AttemptRecord) ([]models.Recorded, error) { return w.opt.Store.Record(ctx, some) }))
}

// release is the releaser's flush.
func (w *Worker) release(ctx context.Context, releases []models.Release) ([]batchResult, error) {
	return w.enqueued(oneBad(releases, func(some []models.Release) ([]models.Recorded, error) { return w.opt.Store.Release(ctx, some) }))
}

// enqueued puts the next attempts of a flush on the queue, together: those that are due at the same
// moment share a task.
func (w *Worker) enqueued(results []batchResult, err error) ([]batchResult, error) {
	var items []queue.Item
	for _, result := range results {
		r := result.Value
		if r.Applied && r.NextAttemptAt != nil && (r.Status == models.DeliveryPending || r.Status == models.DeliveryRetrying) {
			items = append(items, queue.Item{DeliveryID: r.DeliveryID, Attempt: r.AttemptCount, At: *r.NextAttemptAt})
		}
	}
	w.opt.Queue.EnqueueAsync(items)
	return results, err
}

// oneBad writes all at once, and each by itself where the database refuses them together: one that
// it will not take must not hold up the others for ever.
func oneBad[T any](items []T, write func([]T) ([]models.Recorded, error)) ([]batchResult, error) {
	safely := func(some []T) (recorded []models.Recorded, err error) {
		defer func() {
			if value := recover(); value != nil {
				err = fmt.Errorf("%w: %T", errPanicked, value)
			}
		}()
		return write(some)
	}
	results := make([]batchResult, len(items))
	recorded, err := safely(items)
	switch {
	case err == nil:
		for n := range recorded {
			results[n].Value = recorded[n]
		}
		return results, nil
	case len(items) == 1 || transient(err):
		return nil, err
	}
	for n := range items {
		if recorded, err = safely(items[n : n+1]); err != nil {
			results[n].Err = err
			continue
		}
		results[n].Value = recorded[0]
	}
	return results, nil
}
