package models

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
)

// NotAllowedError says that an object's state forbids what was asked. Its message is for the caller.
type NotAllowedError struct{ Message string }

func (e *NotAllowedError) Error() string { return e.Message }

// errUnchanged ends a config change that turns out to change nothing, so that it leaves no trace.
var errUnchanged = errors.New("nothing changed")

// CreateWebhook stores w and fills in what the store decides: version, revision, epoch, times, and
// the id and the status ACTIVE where they are empty. A taken external id is a *ConflictError.
func (s *Store) CreateWebhook(ctx context.Context, w *Webhook) error {
	if w.ID == "" {
		w.ID = NewID(PrefixWebhook)
	}
	if w.Status == "" {
		w.Status = WebhookActive
	}
	err := s.changeConfig(ctx, ChangedWebhook, w.Tenant, w.ID, func(tx *gorm.DB, epoch int64, now time.Time) error {
		w.Version, w.Revision, w.Epoch = 1, 1, epoch
		w.CreatedAt, w.UpdatedAt, w.DeletedAt = now, now, nil
		if err := tx.Create(w).Error; err != nil {
			return err
		}
		return tx.Create(revisionOf(w)).Error
	})
	return s.conflicting(ctx, w, err)
}

// revisionOf is the revision that w's current state is.
func revisionOf(w *Webhook) *Revision {
	return &Revision{
		WebhookID: w.ID, Revision: w.Revision, Epoch: w.Epoch, Tenant: w.Tenant, EventTypes: w.EventTypes,
		Filter: w.Filter, PayloadQuery: w.PayloadQuery, Status: w.Status, StatusReason: w.StatusReason,
		Deleted: w.DeletedAt != nil, CreatedAt: w.UpdatedAt,
	}
}

// conflicting turns the refusal of a unique index into the name of the webhook that is in the way.
func (s *Store) conflicting(ctx context.Context, w *Webhook, err error) error {
	if err == nil || !taken(err) || w.ExternalID == nil {
		return err
	}
	owner, lookup := s.Tenant(Reach{Tenant: w.Tenant}).WebhookByExternalID(ctx, w.Tenant, *w.ExternalID)
	if lookup != nil && !errors.Is(lookup, ErrNotFound) {
		return lookup
	}
	// Deleted within this moment: the conflict was true, and there is no id to name.
	return &ConflictError{ID: owner.ID}
}

// UpdateWebhook lets change edit a webhook that is not deleted, and raises its version. Where
// change leaves it as it was, nothing is written. change runs while no event is committed
// anywhere: it must wait for nothing, and it may run more than once. Its error aborts the update.
//
// Errors: ErrNotFound, ErrVersion where expectedVersion is given and not current, *ConflictError
// on a taken external id. Identity, status, versions and times are not change's to edit.
func (s *Store) UpdateWebhook(ctx context.Context, reach Reach, id string, expectedVersion *int, change func(*Webhook) error) (Webhook, error) {
	return s.changeWebhook(ctx, reach, id, func(_ *gorm.DB, w *Webhook, _ time.Time) error {
		if expectedVersion != nil && *expectedVersion != w.Version {
			return ErrVersion
		}
		kept := *w
		before, err := json.Marshal(w)
		if err != nil {
			return fmt.Errorf("compare webhook: %w", err)
		}
		if err := change(w); err != nil {
			return err
		}
		w.ID, w.Tenant, w.Status, w.StatusReason = kept.ID, kept.Tenant, kept.Status, kept.StatusReason
		w.Version, w.Revision, w.Epoch = kept.Version, kept.Revision, kept.Epoch
		w.CreatedAt, w.UpdatedAt, w.DeletedAt = kept.CreatedAt, kept.UpdatedAt, nil
		if w.PreviousExpiresAt != nil {
			at := Instant(*w.PreviousExpiresAt)
			w.PreviousExpiresAt = &at
		}
		after, err := json.Marshal(w)
		if err != nil {
			return fmt.Errorf("compare webhook: %w", err)
		}
		if bytes.Equal(before, after) {
			return errUnchanged
		}
		w.Version++
		return nil
	})
}

// DeleteWebhook marks a webhook as deleted and cancels its open deliveries. ErrNotFound where it is
// deleted already. Where cancelling breaks off, the sweep over inactive webhooks goes on with it.
func (s *Store) DeleteWebhook(ctx context.Context, reach Reach, id string) error {
	w, err := s.changeWebhook(ctx, reach, id, func(_ *gorm.DB, w *Webhook, now time.Time) error {
		w.DeletedAt = &now
		return nil
	})
	if err != nil {
		return err
	}
	return s.cancelOpen(ctx, w, ReasonWebhookDeleted, nil)
}

// changeWebhook runs change on the current state of a webhook that is not deleted, alone among
// config changes, and writes the result as a new revision. errUnchanged from change writes nothing
// and is no error.
func (s *Store) changeWebhook(ctx context.Context, reach Reach, id string,
	change func(tx *gorm.DB, w *Webhook, now time.Time) error,
) (Webhook, error) {
	// The change log wants the tenant, which a reach over all does not tell. It never changes.
	w, err := s.Tenant(reach).Webhook(ctx, id)
	if err != nil {
		return Webhook{}, err
	}
	tenant := w.Tenant
	err = s.changeConfig(ctx, ChangedWebhook, tenant, id, func(tx *gorm.DB, epoch int64, now time.Time) error {
		w = Webhook{}
		if err := tx.Where("id = ? AND deleted_at IS NULL", id).Take(&w).Error; err != nil {
			return err
		}
		if err := change(tx, &w, now); err != nil {
			return err
		}
		w.Revision++
		w.Epoch, w.UpdatedAt = epoch, now
		// UpdateColumns leaves updated_at to us; the database's clock is what stands everywhere.
		if err := tx.Model(&Webhook{}).Where("id = ?", id).Select("*").UpdateColumns(&w).Error; err != nil {
			return err
		}
		return tx.Create(revisionOf(&w)).Error
	})
	switch {
	case errors.Is(err, errUnchanged):
		return w, nil
	case errors.Is(err, gorm.ErrRecordNotFound):
		return Webhook{}, ErrNotFound
	case err != nil:
		return Webhook{}, s.conflicting(ctx, &w, err)
	}
	return w, nil
}

// may reports whether a webhook may go from one status to another: nil, or why not. Staying where it is
// is always allowed.
func (from WebhookStatus) may(to WebhookStatus) error {
	if from == WebhookDisabled && to == WebhookPaused {
		return &NotAllowedError{Message: "The webhook is disabled. Resume it first, then pause it."}
	}
	return nil
}

// SetWebhookStatus pauses, resumes or disables a webhook, and then moves its open deliveries, in
// bounded pages after the change itself is committed:
//
//	PAUSED    PENDING, RETRYING → HELD
//	ACTIVE    HELD → RETRYING, or PENDING before the first attempt; due now, or when scheduled
//	DISABLED  PENDING, RETRYING, HELD → CANCELLED
//
// Resuming clears the run of failures of a disabled webhook. each, which may be nil, is given every
// page that resuming made due, oldest first; its error ends the walk. A status that the webhook has
// already changes nothing, but finishes moving what an earlier call left. reason is stored with
// PAUSED and DISABLED.
//
// Errors: ErrNotFound, *NotAllowedError. With any other error the status may be set and the
// deliveries not all moved; the sweep over inactive webhooks goes on with it.
func (s *Store) SetWebhookStatus(ctx context.Context, reach Reach, id string, status WebhookStatus, reason WebhookStatusReason,
	each func(ctx context.Context, page []Due) error,
) (Webhook, error) {
	w, err := s.changeWebhook(ctx, reach, id, func(tx *gorm.DB, w *Webhook, _ time.Time) error {
		if w.Status == status {
			return errUnchanged
		}
		if err := w.Status.may(status); err != nil {
			return err
		}
		if w.Status == WebhookDisabled {
			// What made it fail is taken to be mended: the clock starts anew.
			err := tx.Model(&WebhookHealth{}).Where("webhook_id = ?", id).
				UpdateColumns(map[string]any{"consecutive_failures": 0, "failing_since": nil, "notified_at": nil}).Error
			if err != nil {
				return err
			}
		}
		w.Status, w.StatusReason = status, nil
		if status != WebhookActive {
			w.StatusReason = &reason
		}
		return nil
	})
	if err != nil {
		return Webhook{}, err
	}
	switch status {
	case WebhookActive:
		err = s.resumeHeld(ctx, w, each)
	case WebhookPaused:
		err = s.holdOpen(ctx, w, nil)
	case WebhookDisabled:
		why := ReasonWebhookDisabled
		if w.StatusReason != nil && *w.StatusReason == ReasonReceiverGone {
			why = ReasonGone
		}
		err = s.cancelOpen(ctx, w, why, nil)
	}
	return w, err
}
