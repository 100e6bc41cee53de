package models

import (
	"context"
	"errors"
	"slices"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// ErrReplayMoved says that a replay is no longer where its caller saw it: another process goes on
// with it, or it has ended.
var ErrReplayMoved = errors.New("replay has moved on")

// ErrRevision says that a webhook changed since it was read.
var ErrRevision = errors.New("webhook has changed")

// Candidate is an event that a replay may send. Cursor is its place in the walk.
type Candidate struct {
	Event
	Cursor string
}

// CreateReplay stores r and fills in its id, its status and its stage. CreatedAt is as of when its
// events were counted, by the database's clock; zero: now. Where its idempotency key is known, it stores nothing and gives the replay that has the key.
func (s *Store) CreateReplay(ctx context.Context, r *Replay) (existing *Replay, err error) {
	r.ID, r.Stage, r.Cursor = NewID(PrefixReplay), ReplayMatched, ""
	r.Since, r.Until = ceiling(r.Since), ceiling(r.Until)
	err = s.writing(ctx, func(tx *gorm.DB) error {
		existing = nil
		now, err := s.clock(tx)
		if err != nil {
			return err
		}
		if r.CreatedAt.IsZero() {
			r.CreatedAt = now
		}
		if r.Total == 0 {
			r.Status, r.Stage, r.FinishedAt = ReplayCompleted, ReplayWalked, &now
		} else {
			r.Status, r.FinishedAt = ReplayRunning, nil
		}
		created := tx.Clauses(clause.OnConflict{DoNothing: true}).Create(r)
		if created.Error != nil || created.RowsAffected == 1 {
			return created.Error
		}
		var found Replay
		if err := tx.Where("tenant = ? AND idempotency_key = ?", r.Tenant, r.IdempotencyKey).Take(&found).Error; err != nil {
			return err
		}
		existing = &found
		return nil
	})
	return existing, err
}

// ReplayByKey gives a tenant's replay with this idempotency key, or ErrNotFound.
func (t *Tenant) ReplayByKey(ctx context.Context, tenant, key string) (Replay, error) {
	r, err := take[Replay](ctx, t.store, func(db *gorm.DB) *gorm.DB {
		return equal(t.of(db, &Replay{}, &tenant), "idempotency_key", &key)
	})
	if err != nil {
		return r, err
	}
	list := []Replay{r}
	err = t.store.progress(ctx, list)
	return list[0], err
}

// RunningReplays lists the replays that are not finished, oldest first.
func (s *Store) RunningReplays(ctx context.Context) ([]Replay, error) {
	var replays []Replay
	err := s.retry(ctx, s.work, func(ctx context.Context) error {
		replays = nil
		return s.reads.WithContext(ctx).Where("status = 'RUNNING'").Order("id").Find(&replays).Error
	})
	return replays, err
}

// candidates selects the events of a stage of a replay that lie in its window and are of one of
// these types (nil: all), test events and erased ones aside. What was made after the replay itself
// is left out, so that two replays cannot feed each other. Their order is that of place.
func candidates(db *gorm.DB, r *Replay, stage string, types []string, asOf time.Time) (q *gorm.DB, place string) {
	if stage == ReplayUnmatched {
		place = "e.id"
		q = db.Table("events AS e").
			Where("e.tenant = ? AND e.id >= ?", r.Tenant, firstID(PrefixEvent, r.Since.Add(-clockSkew))).
			Where("e.id < ?", firstID(PrefixEvent, r.Until.Add(clockSkew))).
			Where("NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = e.id AND d.webhook_id = ?)", r.WebhookID)
	} else {
		place = "d.id"
		q = db.Table("deliveries AS d").Joins("JOIN events e ON e.id = d.event_id").
			Where("d.webhook_id = ? AND d.id >= ? AND d.created_at <= ?", r.WebhookID, firstID(PrefixDelivery, r.Since.Add(-clockSkew)), asOf).
			// Of several deliveries of an event the newest says how it stands.
			Where(`NOT EXISTS (SELECT 1 FROM deliveries n WHERE n.event_id = d.event_id AND n.webhook_id = d.webhook_id
				AND n.id > d.id AND n.created_at <= ?)`, asOf)
		statuses := []string(r.Statuses)
		if len(statuses) == 0 {
			statuses = []string{string(DeliverySucceeded), string(DeliveryFailed), string(DeliveryCancelled), string(DeliverySkipped)}
		}
		// What is open is sent by itself.
		statuses = slices.DeleteFunc(slices.Clone(statuses), func(s string) bool { return DeliveryStatus(s).Open() })
		if len(statuses) == 0 {
			return nothing(q), place
		}
		q = among(q, "d.status", string(DeliverySucceeded), statuses)
	}
	q = q.Where("NOT e.test AND e.erased_at IS NULL AND e.created_at >= ? AND e.created_at < ? AND e.created_at <= ?", r.Since, r.Until, asOf)
	if types != nil {
		q = q.Where("e.event_type IN ?", types)
	}
	return q, place
}

// CountCandidates counts the events of a stage of a replay that is not stored yet, as of now.
func (s *Store) CountCandidates(ctx context.Context, r *Replay, stage string, types []string) (int, error) {
	var n int64
	err := s.retry(ctx, s.work, func(ctx context.Context) error {
		q, _ := candidates(s.reads.WithContext(ctx), r, stage, types, r.CreatedAt)
		return q.Count(&n).Error
	})
	return int(n), err
}

// Candidates lists the events of a stage of a replay after a place in its walk, oldest first.
func (s *Store) Candidates(ctx context.Context, r *Replay, stage, after string, types []string, limit int) ([]Candidate, error) {
	var found []Candidate
	err := s.retry(ctx, s.work, func(ctx context.Context) error {
		found = nil
		q, place := candidates(s.reads.WithContext(ctx), r, stage, types, r.CreatedAt)
		return q.Select("e.*, "+place+` AS "cursor"`).Where(place+" > ?", after).Order(place).Limit(limit).Find(&found).Error
	})
	return found, err
}

// ReplayInFlight counts the deliveries of a replay that wait for their first attempt, up to most.
func (s *Store) ReplayInFlight(ctx context.Context, id string, most int) (int, error) {
	var n int
	err := s.retry(ctx, s.work, func(ctx context.Context) error {
		return s.reads.WithContext(ctx).Raw(`SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE replay_id = ? AND status = 'PENDING'
			AND coalesce(status_reason, '') <> 'SCHEDULED' LIMIT ?) AS waiting`, id, most).Row().Scan(&n)
	})
	return n, err
}

// ReplayStep is what MakeReplayDeliveries does: the deliveries to make, and where the walk stands
// after them.
type ReplayStep struct {
	// Revision is the webhook's that decided about the events.
	Revision int64
	// Deliveries need EventID, EventType, Body, and where they are SKIPPED status, reason and detail.
	Deliveries    []Delivery
	Stage, Cursor string
}

// MakeReplayDeliveries makes deliveries of a replay and moves its walk on, in one transaction that
// config changes wait for. Events that were erased or removed meanwhile are left out. It gives the
// deliveries that it made: held where the webhook is paused.
//
// ErrReplayMoved where the replay is not at r's stage and cursor any more; ErrRevision where the
// webhook has another revision than the one that decided; *NotAllowedError where it was deleted or
// disabled.
func (s *Store) MakeReplayDeliveries(ctx context.Context, r *Replay, step ReplayStep) ([]Delivery, error) {
	var made []Delivery
	err := s.working(ctx, func(tx *gorm.DB) error {
		made = nil
		if err := s.shareConfig(tx); err != nil {
			return err
		}
		var w Webhook
		if err := tx.Select("status", "revision", "deleted_at").Where("id = ?", r.WebhookID).Take(&w).Error; err != nil {
			return err
		}
		switch {
		case w.DeletedAt != nil || w.Status == WebhookDisabled:
			return &NotAllowedError{Message: "The webhook was deleted or disabled."}
		case w.Revision != step.Revision:
			return ErrRevision
		}
		moved := tx.Model(&Replay{}).Where("id = ? AND status = 'RUNNING' AND stage = ? AND cursor = ?", r.ID, r.Stage, r.Cursor).
			UpdateColumns(map[string]any{"stage": step.Stage, "cursor": step.Cursor})
		if moved.Error != nil {
			return moved.Error
		}
		if moved.RowsAffected == 0 {
			return ErrReplayMoved
		}
		now, err := s.clock(tx)
		if err != nil {
			return err
		}
		if made, err = s.replayed(tx, r, &w, step, now); err != nil {
			return err
		}
		set := map[string]any{"made": gorm.Expr("made + ?", len(made))}
		if step.Stage == ReplayWalked {
			set["total"] = gorm.Expr("made + ?", len(made))
		}
		return tx.Model(&Replay{}).Where("id = ?", r.ID).UpdateColumns(set).Error
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// replayed inserts the deliveries of a step.
func (s *Store) replayed(tx *gorm.DB, r *Replay, w *Webhook, step ReplayStep, now time.Time) ([]Delivery, error) {
	if len(step.Deliveries) == 0 {
		return nil, nil
	}
	ids := make([]string, len(step.Deliveries))
	for i, d := range step.Deliveries {
		ids[i] = d.EventID
	}
	var events []Event
	// In: ids. Out: those that can be sent, locked: whoever erases or removes one waits, and finds
	// the delivery that is made here.
	err := tx.Select("id", "deliver_at").Where("id IN ? AND erased_at IS NULL", ids).Order("id").
		Clauses(clause.Locking{Strength: clause.LockingStrengthShare}).Find(&events).Error
	if err != nil {
		return nil, err
	}
	byID := make(map[string]Event, len(events))
	for _, e := range events {
		byID[e.ID] = e
	}
	counts := minutes{}
	made := make([]Delivery, 0, len(step.Deliveries))
	clock := NewIDClock(now)
	for _, d := range step.Deliveries {
		e, ok := byID[d.EventID]
		if !ok {
			continue
		}
		d.ID, d.Tenant, d.WebhookID, d.Revision = clock.Fit(NewID(PrefixDelivery)), r.Tenant, r.WebhookID, step.Revision
		d.Trigger, d.AttemptTrigger, d.ReplayID, d.CreatedAt = TriggerReplay, TriggerReplay, &r.ID, now
		at := dueAt(e.DeliverAt, now)
		switch {
		case d.Status == DeliverySkipped:
			d.CompletedAt = &now
		case w.Status == WebhookPaused:
			reason := ReasonWebhookPaused
			d.Status, d.StatusReason = DeliveryHeld, &reason
		default:
			d.Status, d.NextAttemptAt = DeliveryPending, &at
			if at.After(now) {
				reason := ReasonScheduled
				d.StatusReason = &reason
			}
		}
		counts.add(&d, MeasureTotal)
		made = append(made, d)
	}
	if len(made) == 0 {
		return nil, nil
	}
	if err := tx.CreateInBatches(made, 100).Error; err != nil {
		return nil, err
	}
	if err := s.addMinutes(tx, counts, now); err != nil {
		return nil, err
	}
	changed := make([]string, 0, len(made))
	for _, d := range made {
		changed = append(changed, d.ID)
	}
	return made, feedChanged(tx, changed)
}

// FinishReplay completes a replay whose deliveries have all ended, or, with cancelled, ends it as it
// stands; its figures are stored then. False where it is not finished yet, or was before.
func (s *Store) FinishReplay(ctx context.Context, id string, cancelled bool) (bool, error) {
	finished := false
	err := s.working(ctx, func(tx *gorm.DB) error {
		finished = false
		now, err := s.clock(tx)
		if err != nil {
			return err
		}
		var r Replay
		err = tx.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}).Where("id = ? AND status = 'RUNNING'", id).Take(&r).Error
		if errors.Is(err, gorm.ErrRecordNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if !cancelled {
			var open int
			err := tx.Raw(`SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE replay_id = ?
				AND status IN ('PENDING', 'RETRYING', 'HELD') LIMIT 1) AS open`, id).Row().Scan(&open)
			if err != nil || open > 0 || r.Stage != ReplayWalked {
				return err
			}
		}
		r.Status = ReplayCompleted
		if cancelled {
			r.Status = ReplayCancelled
		}
		if err := tx.Model(&Replay{}).Where("id = ?", id).UpdateColumns(map[string]any{"status": r.Status, "finished_at": now}).Error; err != nil {
			return err
		}
		finished = true
		return storeCounts(tx, id)
	})
	return finished, err
}

// storeCounts keeps the figures of a replay that runs no more.
func storeCounts(tx *gorm.DB, id string) error {
	var counts []replayCount
	if err := replayCounts(tx, []string{id}).Find(&counts).Error; err != nil {
		return err
	}
	r := Replay{ID: id}
	r.count(counts)
	return tx.Model(&Replay{}).Where("id = ?", id).
		UpdateColumns(map[string]any{"done": r.Done, "succeeded": r.Succeeded, "failed": r.Failed}).Error
}

// CancelReplay ends a replay that runs: it makes no further deliveries, and those that are open are
// cancelled, in bounded pages. One that was cancelled before is gone through once more. ErrNotFound, or
// *NotAllowedError where it is completed.
func (s *Store) CancelReplay(ctx context.Context, reach Reach, id string) (Replay, error) {
	r, err := s.Tenant(reach).Replay(ctx, id)
	if err != nil {
		return r, err
	}
	cancelled, err := s.FinishReplay(ctx, id, true)
	if err != nil {
		return r, err
	}
	if !cancelled && r.Status != ReplayCancelled {
		return r, &NotAllowedError{Message: "The replay is completed already."}
	}
	if err := s.cancelReplayed(ctx, id); err != nil {
		return r, err
	}
	return s.Tenant(reach).Replay(ctx, id)
}

// cancelReplayed cancels what is open of a replay that ended, and counts anew.
func (s *Store) cancelReplayed(ctx context.Context, id string) error {
	for last := ""; ; {
		var ids []string
		err := s.working(ctx, func(tx *gorm.DB) error {
			ids = nil
			err := tx.Model(&Delivery{}).Where("replay_id = ? AND status IN ? AND id > ?", id, openStatuses, last).
				Order("id").Limit(movePage).Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}).Pluck("id", &ids).Error
			if err != nil {
				return err
			}
			if len(ids) == 0 {
				return storeCounts(tx, id)
			}
			now, err := s.clock(tx)
			if err != nil {
				return err
			}
			return cancel(tx, ids, ReasonCancelledByUser, now)
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		last = ids[len(ids)-1]
	}
}

// AwaitReplayQuiet is AwaitQuiet for the deliveries of a replay that was just cancelled.
func (s *Store) AwaitReplayQuiet(ctx context.Context, replayID string) error {
	return s.awaitQuiet(ctx, "replay_id = ?", replayID)
}
