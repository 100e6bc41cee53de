package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
)

const (
	replayLease    = "replay"
	replayLeaseFor = 10 * time.Second
	// replayInFlight is how many deliveries of a replay may wait for their first attempt. It bounds
	// what a replay takes from live traffic: that much of the queue, and of its webhook's share.
	replayInFlight = 64
	// replayBusy and replayIdle are the pauses of a Replayer while there is something to do and while
	// there is not.
	replayBusy = 50 * time.Millisecond
	replayIdle = time.Second
)

// ReplayerOptions are what NewReplayer needs; all fields are required.
type ReplayerOptions struct {
	Store     *models.Store
	Catalogue func(ctx context.Context) (*catalogue.Catalogue, error)
	Queue     Enqueuer
	Logger    *slog.Logger
}

// Replayer makes the deliveries of the replays that run, a few at a time, so that live traffic keeps
// its latency. One process at a time does it, under a lease; where each replay stands is in the
// database, so any process goes on where another one was killed.
type Replayer struct {
	ReplayerOptions
	holder string
	leased time.Time // until when the lease is surely ours
}

// NewReplayer prepares a Replayer; Run runs it.
func NewReplayer(o ReplayerOptions) *Replayer {
	if o.Store == nil || o.Catalogue == nil || o.Queue == nil || o.Logger == nil {
		panic("control: a required option of the replayer is missing")
	}
	return &Replayer{ReplayerOptions: o, holder: rand.Text()}
}

// Run goes on with replays until ctx ends, and returns nil then. A fault is logged and the work tried
// again.
func (r *Replayer) Run(ctx context.Context) error {
	defer r.release(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		busy, err := r.pass(ctx)
		if err != nil && ctx.Err() == nil {
			r.Logger.WarnContext(ctx, "replays wait", "error", err)
		}
		pause := replayIdle
		if busy && err == nil {
			pause = replayBusy
		}
		timer.Reset(pause)
	}
}

// release lets another process go on at once.
func (r *Replayer) release(ctx context.Context) {
	if r.leased.IsZero() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = r.Store.ReleaseLease(ctx, replayLease, r.holder) // it runs out by itself
}

// pass goes on with each replay by a step; busy says that there will soon be more to do.
func (r *Replayer) pass(ctx context.Context) (busy bool, err error) {
	running, err := r.Store.RunningReplays(ctx)
	if err != nil || len(running) == 0 {
		return false, err
	}
	if time.Until(r.leased) < replayLeaseFor/2 {
		asked := time.Now()
		held, err := r.Store.AcquireLease(ctx, replayLease, r.holder, replayLeaseFor)
		if err != nil || !held {
			return false, err
		}
		r.leased = asked.Add(replayLeaseFor)
	}
	var errs []error
	for i := range running {
		more, err := r.step(ctx, &running[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("replay %s: %w", running[i].ID, err))
		}
		busy = busy || more
	}
	return busy, errors.Join(errs...)
}

// step makes the next deliveries of a replay, or completes it.
func (r *Replayer) step(ctx context.Context, replay *models.Replay) (busy bool, err error) {
	if replay.Stage == models.ReplayWalked {
		done, err := r.Store.FinishReplay(ctx, replay.ID, false)
		if done {
			r.Logger.InfoContext(ctx, "replay completed", "replay_id", replay.ID)
		}
		return false, err
	}
	waiting, err := r.Store.ReplayInFlight(ctx, replay.ID, replayInFlight)
	if err != nil {
		return false, err
	}
	if waiting > replayInFlight/2 {
		return true, nil
	}
	made, err := r.advance(ctx, replay, replayInFlight-waiting)
	var refused *models.NotAllowedError
	switch {
	case errors.Is(err, models.ErrReplayMoved), errors.Is(err, models.ErrRevision):
		return true, nil // the next pass sees what is new
	case errors.As(err, &refused):
		_, err := r.Store.FinishReplay(ctx, replay.ID, true)
		r.Logger.InfoContext(ctx, "replay ended with its webhook", "replay_id", replay.ID, "webhook_id", replay.WebhookID)
		return false, err
	case err != nil:
		return false, err
	}
	var due []queue.Item
	for _, d := range made {
		if d.Status == models.DeliveryPending {
			due = append(due, queue.Item{DeliveryID: d.ID, Attempt: 1, At: *d.NextAttemptAt})
		}
	}
	if len(due) > 0 {
		if err := r.Queue.Enqueue(ctx, due); err != nil {
			r.Logger.WarnContext(ctx, "queue away, the reconciler will make deliveries due", "deliveries", len(due), "error", err)
		}
	}
	return true, nil
}

// advance reads the next events, decides about them under the webhook's current configuration, and
// makes the deliveries.
func (r *Replayer) advance(ctx context.Context, replay *models.Replay, limit int) ([]models.Delivery, error) {
	w, err := r.Store.WebhookByID(ctx, replay.WebhookID)
	if err != nil {
		return nil, err
	}
	known, err := r.Catalogue(ctx)
	if err != nil {
		return nil, err
	}
	walk := replayWalk{store: r.Store, replay: replay, types: replayTypes(known, replay.EventTypes, w.EventTypes), index: known.Index([]models.Webhook{w})}
	next := models.ReplayStep{Revision: w.Revision, Stage: replay.Stage, Cursor: replay.Cursor}
	read := limit
	if w.Filter != nil {
		read = replayPage // most may be filtered out
	}
	var page []models.Candidate
	if walk.types == nil || len(walk.types) > 0 {
		if page, err = r.Store.Candidates(ctx, replay, replay.Stage, replay.Cursor, walk.types, read); err != nil {
			return nil, err
		}
	}
	next.Deliveries = walk.decide(page)
	ended := len(page) < read
	if len(next.Deliveries) > limit {
		// The rest is decided again: it waits until there is room for it.
		next.Deliveries, ended = next.Deliveries[:limit], false
		last := next.Deliveries[limit-1].EventID
		page = page[:slices.IndexFunc(page, func(c models.Candidate) bool { return c.ID == last })+1]
	}
	if len(page) > 0 {
		next.Cursor = page[len(page)-1].Cursor
	}
	if ended {
		next.Stage, next.Cursor = models.ReplayWalked, ""
		if i := slices.Index(walk.stages(), replay.Stage); i+1 < len(walk.stages()) {
			next.Stage = walk.stages()[i+1]
		}
	}
	return r.Store.MakeReplayDeliveries(ctx, replay, next)
}
