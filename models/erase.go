package models

import (
	"context"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// EraseEvent removes what an event carried and what receivers answered to it: its data, the bodies
// that payload queries made of it, the responses that were kept, and what a filter that failed had
// to say. Its open deliveries are cancelled. That it happened stays on record. It may be repeated:
// an event that was erased before is gone through once more. ErrNotFound where the caller has no
// such event.
//
// The data goes together with the first page of deliveries in one transaction, and the rest of a
// great many follows page by page. An attempt that runs meanwhile is recorded without its response.
func (s *Store) EraseEvent(ctx context.Context, reach Reach, id string) (Event, error) {
	if !ValidID(PrefixEvent, id) {
		return Event{}, ErrNotFound
	}
	if _, err := s.Tenant(reach).Event(ctx, id); err != nil {
		return Event{}, err
	}
	for last := ""; ; {
		var ids []string
		err := s.working(ctx, func(tx *gorm.DB) error {
			now, err := s.clock(tx)
			if err != nil {
				return err
			}
			err = tx.Model(&Event{}).Where("id = ?", id).
				UpdateColumns(map[string]any{"data": nil, "erased_at": gorm.Expr("coalesce(erased_at, ?)", now)}).Error
			if err != nil {
				return err
			}
			var rows []Delivery
			// In: event, the last id. Out: the page, locked. Whoever records an attempt holds the same
			// lock and asks under it whether the event was erased.
			err = tx.Select("id", "status").Where("event_id = ? AND id > ?", id, last).Order("id").Limit(movePage).
				Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}).Find(&rows).Error
			if err != nil {
				return err
			}
			ids = make([]string, len(rows))
			var open []string
			for i, d := range rows {
				ids[i] = d.ID
				if d.Status.Open() {
					open = append(open, d.ID)
				}
			}
			if len(open) > 0 {
				if err := cancel(tx, open, ReasonEventErased, now); err != nil {
					return err
				}
			}
			return eraseBodies(tx, ids)
		})
		if err != nil {
			return Event{}, err
		}
		if len(ids) < movePage {
			return s.Tenant(Reach{All: true}).Event(ctx, id)
		}
		last = ids[len(ids)-1]
	}
}

// eraseBodies removes what deliveries that are locked hold of their event and of the answers to it.
func eraseBodies(tx *gorm.DB, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	err := tx.Model(&Delivery{}).Where("id IN ? AND body IS NOT NULL", ids).UpdateColumn("body", nil).Error
	if err != nil {
		return err
	}
	// A filter that failed may have quoted the data.
	err = tx.Model(&Delivery{}).Where("id IN ? AND status_reason = ?", ids, ReasonFilterError).UpdateColumn("status_detail", nil).Error
	if err != nil {
		return err
	}
	return tx.Model(&Attempt{}).Where("delivery_id IN ? AND (response_body IS NOT NULL OR response_headers IS NOT NULL)", ids).
		UpdateColumns(map[string]any{"response_body": nil, "response_headers": nil}).Error
}
