package models

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// movePage is how many deliveries one transaction of a bulk move takes. On SQLite an emit waits for as long.
const movePage = 250

// openStatuses in the order in which a delivery passes through them, so that a walk over one after
// the other misses none that moves on meanwhile.
var openStatuses = []DeliveryStatus{DeliveryPending, DeliveryRetrying, DeliveryHeld}

// movable is what a bulk move needs to know of a delivery.
type movable struct {
	ID           string
	AttemptCount int
	DeliverAt    *time.Time // of its event
}

// holdOpen holds what a paused webhook still had to attempt.
func (s *Store) holdOpen(ctx context.Context, w Webhook, after func(context.Context, []Due) error) error {
	return s.moveEach(ctx, w, openStatuses[:2], func(tx *gorm.DB, _ []movable, ids []string, _ time.Time) error {
		err := tx.Model(&Delivery{}).Where("id IN ?", ids).UpdateColumns(map[string]any{
			"status": DeliveryHeld, "status_reason": ReasonWebhookPaused, "status_detail": nil, "next_attempt_at": nil,
		}).Error
		if err != nil {
			return err
		}
		return feedChanged(tx, ids)
	}, after)
}

// cancelOpen cancels what a disabled or deleted webhook still had open.
func (s *Store) cancelOpen(ctx context.Context, w Webhook, reason DeliveryStatusReason,
	after func(context.Context, []Due) error,
) error {
	return s.moveEach(ctx, w, openStatuses, func(tx *gorm.DB, _ []movable, ids []string, now time.Time) error {
		return cancel(tx, ids, reason, now)
	}, after)
}

// cancel ends deliveries unsent. Their claims stay: an attempt that runs may yet succeed, and a
// success is never denied.
func cancel(tx *gorm.DB, ids []string, reason DeliveryStatusReason, now time.Time) error {
	err := tx.Model(&Delivery{}).Where("id IN ?", ids).UpdateColumns(map[string]any{
		"status": DeliveryCancelled, "status_reason": reason, "status_detail": nil,
		"next_attempt_at": nil, "completed_at": now,
	}).Error
	if err != nil {
		return err
	}
	return feedChanged(tx, ids)
}

// resumeHeld makes what a resumed webhook had held due now, oldest first; what is scheduled for
// later waits for that.
func (s *Store) resumeHeld(ctx context.Context, w Webhook, each func(context.Context, []Due) error) error {
	held := []DeliveryStatus{DeliveryHeld}
	return s.moveEach(ctx, w, held, func(tx *gorm.DB, rows []movable, ids []string, now time.Time) error {
		var due, scheduled []string
		for _, d := range rows {
			if dueAt(d.DeliverAt, now).After(now) {
				scheduled = append(scheduled, d.ID)
			} else {
				due = append(due, d.ID)
			}
		}
		status := gorm.Expr("CASE WHEN attempt_count > 0 OR last_outcome IS NOT NULL THEN ? ELSE ? END", string(DeliveryRetrying), string(DeliveryPending))
		if len(due) > 0 {
			err := tx.Model(&Delivery{}).Where("id IN ?", due).UpdateColumns(map[string]any{
				"status": status, "status_reason": nil, "status_detail": nil, "next_attempt_at": now,
			}).Error
			if err != nil {
				return err
			}
		}
		if len(scheduled) > 0 {
			err := tx.Model(&Delivery{}).Where("id IN ?", scheduled).UpdateColumns(map[string]any{
				"status": status, "status_reason": ReasonScheduled, "status_detail": nil,
				"next_attempt_at": gorm.Expr("(SELECT deliver_at FROM events WHERE events.id = deliveries.event_id)"),
			}).Error
			if err != nil {
				return err
			}
		}
		return feedChanged(tx, ids)
	}, each)
}

// dueAt is when a delivery of an event with this deliverAt may first be attempted, from now on.
func dueAt(deliverAt *time.Time, now time.Time) time.Time {
	if deliverAt != nil && deliverAt.After(now) {
		return *deliverAt
	}
	return now
}

// HastenLimited makes due at once what waits for the rate of webhook w, in bounded pages: it was told its
// time at another rate. It keeps its turn before what comes for the first time. each gets every page, oldest
// first; its error ends the walk. What an error leaves comes at the time that it was told.
func (s *Store) HastenLimited(ctx context.Context, w Webhook, each func(ctx context.Context, page []Due) error) error {
	return s.moveSome(ctx, w, openStatuses[:2],
		func(tx *gorm.DB, now time.Time) *gorm.DB {
			return tx.Where("deliveries.status_reason = ? AND deliveries.status_detail <> ?", ReasonRateLimited, DetailShare).
				Where("deliveries.claim_token IS NULL AND deliveries.next_attempt_at > ?", now)
		},
		func(tx *gorm.DB, _ []movable, ids []string, now time.Time) error {
			if err := tx.Model(&Delivery{}).Where("id IN ?", ids).UpdateColumn("next_attempt_at", now).Error; err != nil {
				return err
			}
			return feedChanged(tx, ids)
		}, each)
}

// moveEach is moveSome for all deliveries in these statuses.
func (s *Store) moveEach(ctx context.Context, w Webhook, from []DeliveryStatus,
	move func(tx *gorm.DB, rows []movable, ids []string, now time.Time) error, after func(context.Context, []Due) error,
) error {
	return s.moveSome(ctx, w, from, func(tx *gorm.DB, _ time.Time) *gorm.DB { return tx }, move, after)
}

// moveSome walks over those of a webhook's deliveries in the given statuses that only leaves, oldest
// first in each, and moves a page of them in each transaction, for as long as the webhook stays in the state
// that w says: once another change has taken over, its own walk decides. after, which may be nil, gets
// each page once it is committed.
func (s *Store) moveSome(ctx context.Context, w Webhook, from []DeliveryStatus, only func(tx *gorm.DB, now time.Time) *gorm.DB,
	move func(tx *gorm.DB, rows []movable, ids []string, now time.Time) error, after func(context.Context, []Due) error,
) error {
	for _, status := range from {
		last := ""
		for {
			rows, now, err := s.movePage(ctx, w, status, last, only, move)
			if err != nil {
				return err
			}
			if len(rows) == 0 {
				break
			}
			last = rows[len(rows)-1].ID
			if after == nil {
				continue
			}
			due := make([]Due, len(rows))
			for i, d := range rows {
				due[i] = Due{DeliveryID: d.ID, AttemptCount: d.AttemptCount, NextAttemptAt: dueAt(d.DeliverAt, now)}
			}
			if err := after(ctx, due); err != nil {
				return err
			}
		}
	}
	return nil
}

// movePage moves the first page of deliveries after an id.
func (s *Store) movePage(ctx context.Context, w Webhook, status DeliveryStatus, last string, only func(tx *gorm.DB, now time.Time) *gorm.DB,
	move func(tx *gorm.DB, rows []movable, ids []string, now time.Time) error,
) (rows []movable, now time.Time, err error) {
	err = s.working(ctx, func(tx *gorm.DB) error {
		rows = nil
		// No config change commits while this page is moved, so the state that it is moved for
		// is the state when it commits.
		if err := s.shareConfig(tx); err != nil {
			return err
		}
		var current []Webhook
		if err := tx.Select("status", "deleted_at").Where("id = ?", w.ID).Find(&current).Error; err != nil {
			return err
		}
		if len(current) == 0 || current[0].Status != w.Status || (current[0].DeletedAt == nil) != (w.DeletedAt == nil) {
			return nil
		}
		var err error
		if now, err = s.clock(tx); err != nil {
			return err
		}
		// In: webhook, status, the last id. Out: the page, locked, in the order of the index.
		err = only(tx.Table("deliveries"), now).
			Select("deliveries.id, deliveries.attempt_count, events.deliver_at").
			Joins("LEFT JOIN events ON events.id = deliveries.event_id").
			Where("deliveries.webhook_id = ? AND deliveries.status = ? AND deliveries.status <> 'SUCCEEDED' AND deliveries.id > ?",
				w.ID, status, last).
			Order("deliveries.id").Limit(movePage).
			Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate, Table: clause.Table{Name: "deliveries"}}).
			Find(&rows).Error
		if err != nil || len(rows) == 0 {
			return err
		}
		ids := make([]string, len(rows))
		for i, d := range rows {
			ids[i] = d.ID
		}
		return move(tx, rows, ids, now)
	})
	return rows, now, err
}

// shareConfig keeps config changes from committing until tx ends. On SQLite the one writer does.
func (s *Store) shareConfig(tx *gorm.DB) error {
	if s.dialect != DialectPostgres {
		return nil
	}
	return tx.Exec("SELECT pg_advisory_xact_lock_shared(?)", int64(configLock)).Error
}

// CancelDelivery ends an open delivery. ErrNotFound, or *NotAllowedError where it has ended.
func (s *Store) CancelDelivery(ctx context.Context, reach Reach, id string) (Delivery, error) {
	return s.changeDelivery(ctx, reach, id, func(tx *gorm.DB, d *Delivery, now time.Time) error {
		if !d.Status.Open() {
			return &NotAllowedError{Message: fmt.Sprintf("The delivery has ended already: it is %s.", d.Status)}
		}
		return cancel(tx, []string{id}, ReasonCancelledByUser, now)
	})
}

// Redeliver makes a delivery that has ended due again, as a manual attempt with the bytes of its
// earlier ones: now, held while its webhook is paused, or when its event is scheduled. The retry
// schedule goes on where it was.
//
// ErrNotFound, or *NotAllowedError where the delivery is open, its webhook deleted or disabled, its
// event erased, or there is nothing to send: where the filter failed, no body was ever made.
func (s *Store) Redeliver(ctx context.Context, reach Reach, id string) (Delivery, error) {
	return s.changeDelivery(ctx, reach, id, func(tx *gorm.DB, d *Delivery, now time.Time) error {
		var w Webhook
		if err := tx.Where("id = ?", d.WebhookID).Take(&w).Error; err != nil {
			return err
		}
		var e Event
		err := tx.Select("id", "deliver_at", "erased_at").Where("id = ?", d.EventID).Take(&e).Error
		if err != nil && !errors.Is(err, gorm.ErrRecordNotFound) {
			return err
		}
		if refusal := refuseRedelivery(d, &w, &e); refusal != "" {
			return &NotAllowedError{Message: refusal}
		}
		set := map[string]any{
			"status": DeliveryPending, "status_reason": nil, "status_detail": nil, "completed_at": nil,
			"attempt_trigger": TriggerManual, "next_attempt_at": dueAt(e.DeliverAt, now),
		}
		switch {
		case w.Status == WebhookPaused:
			set["status"], set["status_reason"], set["next_attempt_at"] = DeliveryHeld, ReasonWebhookPaused, nil
		case d.AttemptCount > 0 || d.LastOutcome != nil:
			set["status"] = DeliveryRetrying
		case dueAt(e.DeliverAt, now).After(now):
			set["status_reason"] = ReasonScheduled
		}
		if err := tx.Model(&Delivery{}).Where("id = ?", id).UpdateColumns(set).Error; err != nil {
			return err
		}
		return feedChanged(tx, []string{id})
	})
}

// refuseRedelivery says why a delivery cannot be sent again, "" where it can.
func refuseRedelivery(d *Delivery, w *Webhook, e *Event) string {
	switch {
	case d.Status.Open():
		return fmt.Sprintf("The delivery is still open (%s): it will be attempted by itself.", d.Status)
	case w.DeletedAt != nil:
		return "The delivery's webhook was deleted."
	case w.Status == WebhookDisabled:
		return "The delivery's webhook is disabled. Resume it first."
	case e.ID == "" || e.ErasedAt != nil:
		return "The delivery's event was erased: there is nothing left to send."
	case d.Status == DeliverySkipped && d.StatusReason != nil && *d.StatusReason == ReasonFilterError:
		return "The webhook's filter failed on the event, so the delivery has no body to send again. Replay the event instead."
	}
	return ""
}

// changeDelivery runs change on a delivery that the caller may see, with the configuration held
// still, and gives what became of it.
func (s *Store) changeDelivery(ctx context.Context, reach Reach, id string,
	change func(tx *gorm.DB, d *Delivery, now time.Time) error,
) (Delivery, error) {
	var d Delivery
	if !ValidID(PrefixDelivery, id) {
		return d, ErrNotFound
	}
	err := s.writing(ctx, func(tx *gorm.DB) error {
		d = Delivery{}
		if err := s.shareConfig(tx); err != nil {
			return err
		}
		q := reach.within(tx.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}))
		if err := q.Where("id = ?", id).Take(&d).Error; err != nil {
			return err
		}
		now, err := s.clock(tx)
		if err != nil {
			return err
		}
		if err := change(tx, &d, now); err != nil {
			return err
		}
		d = Delivery{}
		return tx.Where("id = ?", id).Take(&d).Error
	})
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return Delivery{}, ErrNotFound
	}
	return d, err
}

// CancelEvent cancels the open deliveries of an event, in bounded pages, and counts them.
// ErrNotFound where the caller has no such event. It may be repeated.
func (s *Store) CancelEvent(ctx context.Context, reach Reach, id string) (Event, int, error) {
	event, err := s.Tenant(reach).Event(ctx, id)
	if err != nil {
		return Event{}, 0, err
	}
	cancelled, last := 0, ""
	for {
		var ids []string
		err := s.working(ctx, func(tx *gorm.DB) error {
			ids = nil
			err := tx.Model(&Delivery{}).
				Where("event_id = ? AND status IN ? AND id > ?", id, openStatuses, last).
				Order("id").Limit(movePage).
				Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}).Pluck("id", &ids).Error
			if err != nil || len(ids) == 0 {
				return err
			}
			now, err := s.clock(tx)
			if err != nil {
				return err
			}
			return cancel(tx, ids, ReasonCancelledByUser, now)
		})
		if err != nil || len(ids) == 0 {
			return event, cancelled, err
		}
		cancelled += len(ids)
		last = ids[len(ids)-1]
	}
}
