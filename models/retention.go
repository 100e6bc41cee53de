package models

import (
	"context"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// maxPurgedDeliveries bounds the deliveries that one batch removes, beside its events.
const maxPurgedDeliveries = 1000

// keepChanges is how long the log of config changes is kept at least, so that no process misses one
// that it has not read yet.
const keepChanges = time.Hour

// PurgedEvents is what PurgeEvents did.
type PurgedEvents struct {
	Events     int    // removed
	Deliveries int    // removed
	Last       string // the last event that was looked at
	More       bool   // there may be more after Last
	// Held is how long the transaction was open, without the wait for it to begin and its commit.
	Held time.Duration
}

// retentionSkew is how far beyond before ids are looked at: created_at decides, and what is looked at in
// vain costs nobody's page. A day is also for rows that were not written by IDClock.
const retentionSkew = 25 * time.Hour

// PurgeEvents removes events that are older than before, with their deliveries and attempts: about
// limit of them, the oldest first, after an event's id. An event stays while a delivery of it is open
// or younger than before, and so does all that belongs to it. The batch is one transaction that waits
// for nobody; what others hold at the moment is left to the next pass.
func (s *Store) PurgeEvents(ctx context.Context, before time.Time, after string, limit int) (PurgedEvents, error) {
	var purged PurgedEvents
	err := s.working(ctx, func(tx *gorm.DB) error {
		began := time.Now()
		purged = PurgedEvents{Last: after}
		defer func() { purged.Held = time.Since(began) }()
		var ids []string
		// In: the last id, the bounds. Out: the oldest events, locked, in the order of the index.
		err := tx.Model(&Event{}).Where("id > ? AND id < ? AND created_at < ?", after, firstID(PrefixEvent, before.Add(retentionSkew)), before).
			Order("id").Limit(limit).
			Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate, Options: clause.LockingOptionsSkipLocked}).
			Pluck("id", &ids).Error
		if err != nil || len(ids) == 0 {
			return err
		}
		purged.Last, purged.More = ids[len(ids)-1], len(ids) == limit
		var deliveries []Delivery
		err = tx.Select("id", "event_id", "status", "created_at").Where("event_id IN ?", ids).Order("event_id, id").Limit(maxPurgedDeliveries + 1).
			Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}).Find(&deliveries).Error
		if err != nil {
			return err
		}
		kept := map[string]bool{}
		if len(deliveries) > maxPurgedDeliveries {
			// The last event's deliveries may go on. It and those after it wait for the next batch,
			// unless it is the first: one event may have more deliveries than a batch takes.
			cut := deliveries[maxPurgedDeliveries].EventID
			last := after
			for _, id := range ids {
				if id >= cut {
					kept[id] = true
					continue
				}
				last = id
			}
			purged.Last, purged.More = last, true
			if ids[0] == cut {
				return s.purgeWide(tx, cut, before, &purged)
			}
		}
		for _, d := range deliveries {
			if d.Status.Open() || !d.CreatedAt.Before(before) {
				kept[d.EventID] = true
			}
		}
		var events, gone []string
		for _, id := range ids {
			if !kept[id] {
				events = append(events, id)
			}
		}
		for _, d := range deliveries {
			if !kept[d.EventID] {
				gone = append(gone, d.ID)
			}
		}
		purged.Events, purged.Deliveries = len(events), len(gone)
		return purge(tx, events, gone)
	})
	return purged, err
}

// RecentEvents counts the events that came within the time before now, up to most of them.
func (s *Store) RecentEvents(ctx context.Context, within time.Duration, most int) (count int, err error) {
	now, err := s.Now(ctx)
	if err != nil {
		return 0, err
	}
	err = s.reading(ctx, func(db *gorm.DB) error {
		return db.Raw("SELECT count(*) FROM (SELECT 1 FROM events WHERE id > ? LIMIT ?) AS recent",
			firstID(PrefixEvent, now.Add(-within)), most).Row().Scan(&count)
	})
	return count, err
}

// purgeWide removes a part of the deliveries of an event that has more than a batch takes. The event
// goes with the last of them.
func (s *Store) purgeWide(tx *gorm.DB, eventID string, before time.Time, purged *PurgedEvents) error {
	var stays int
	// In: event, bound. Out: whether anything keeps it.
	err := tx.Raw(`SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE event_id = ?
		AND (status IN ('PENDING', 'RETRYING', 'HELD') OR created_at >= ?) LIMIT 1) AS stays`, eventID, before).Row().Scan(&stays)
	if err != nil {
		return err
	}
	if stays > 0 {
		purged.Last = eventID
		return nil
	}
	var gone []string
	if err := tx.Model(&Delivery{}).Where("event_id = ?", eventID).Order("id").Limit(maxPurgedDeliveries).Pluck("id", &gone).Error; err != nil {
		return err
	}
	purged.Deliveries = len(gone)
	return purge(tx, nil, gone)
}

// purge removes events and deliveries, which are locked, and the attempts of these.
func purge(tx *gorm.DB, events, deliveries []string) error {
	if len(deliveries) > 0 {
		if err := tx.Where("delivery_id IN ?", deliveries).Delete(&Attempt{}).Error; err != nil {
			return err
		}
		if err := tx.Where("id IN ?", deliveries).Delete(&Delivery{}).Error; err != nil {
			return err
		}
	}
	if len(events) == 0 {
		return nil
	}
	return tx.Where("id IN ?", events).Delete(&Event{}).Error
}

// PurgeKind names what Purge removes.
type PurgeKind string

// What Purge removes.
const (
	PurgeKeys      PurgeKind = "idempotency keys" // those that have expired, whatever before is
	PurgeReplays   PurgeKind = "replays"          // that finished before
	PurgeMinutes   PurgeKind = "statistics"       // of minutes before
	PurgeRevisions PurgeKind = "revisions"        // that no event which is kept was matched under
	PurgeWebhooks  PurgeKind = "webhooks"         // that were deleted before and have no history left
	PurgeChanges   PurgeKind = "config changes"   // from before, and more than an hour ago
)

// PurgeKinds are all kinds, in an order in which each may follow from the ones before.
var PurgeKinds = [...]PurgeKind{PurgeKeys, PurgeReplays, PurgeMinutes, PurgeRevisions, PurgeWebhooks, PurgeChanges}

// In: what the comment says, then the limit; each removes about limit rows.
const (
	// In: now.
	purgeKeys = `DELETE FROM idempotency_keys WHERE (tenant, key) IN (
		SELECT tenant, key FROM idempotency_keys WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)`
	// In: before.
	purgeReplays = `DELETE FROM replays WHERE id IN (
		SELECT id FROM replays WHERE status <> 'RUNNING' AND finished_at < ? ORDER BY id LIMIT ?)`
	// In: tenant, before.
	purgeMinutes = `DELETE FROM delivery_minutes WHERE (webhook_id, minute, event_type, shard, measure) IN (
		SELECT webhook_id, minute, event_type, shard, measure FROM delivery_minutes WHERE tenant = ? AND minute < ? ORDER BY minute LIMIT ?)`
	// In: the oldest epoch that an event was matched under, before.
	purgeRevisions = `DELETE FROM webhook_revisions WHERE (webhook_id, revision) IN (
		SELECT r.webhook_id, r.revision FROM webhook_revisions r JOIN webhook_revisions n ON n.webhook_id = r.webhook_id AND n.revision = r.revision + 1
		WHERE n.epoch <= ? AND n.created_at < ? LIMIT ?)`
	// In: before.
	pickWebhooks = `SELECT id FROM webhooks w WHERE (status <> 'ACTIVE' OR deleted_at IS NOT NULL) AND deleted_at < ?
		AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.webhook_id = w.id)
		AND NOT EXISTS (SELECT 1 FROM replays r WHERE r.webhook_id = w.id) ORDER BY id LIMIT ?`
	// In: before, the head of the log.
	purgeChanges = `DELETE FROM changes WHERE epoch IN (
		SELECT epoch FROM changes WHERE created_at < ? AND epoch < (SELECT head FROM config_epoch) ORDER BY epoch LIMIT ?)`
)

// PurgedRows is what Purge did.
type PurgedRows struct {
	Rows int  // removed
	More bool // there may be more
	// Held is how long the transaction was open, without the wait for it to begin and its commit.
	Held time.Duration
}

// Purge removes about limit rows of one kind, the oldest first.
func (s *Store) Purge(ctx context.Context, kind PurgeKind, before time.Time, limit int) (purged PurgedRows, err error) {
	gone := 0
	err = s.working(ctx, func(tx *gorm.DB) error {
		began := time.Now()
		defer func() { purged = PurgedRows{Rows: gone, More: gone >= limit, Held: time.Since(began)} }()
		now, err := s.clock(tx)
		if err != nil {
			return err
		}
		run := func(text string, args ...any) error {
			result := tx.Exec(text, args...)
			gone = int(result.RowsAffected)
			return result.Error
		}
		switch kind {
		case PurgeKeys:
			return run(purgeKeys, now, limit)
		case PurgeReplays:
			return run(purgeReplays, before, limit)
		case PurgeMinutes:
			gone, err = purgeMinutesOf(tx, before, limit)
			return err
		case PurgeRevisions:
			oldest, err := oldestEpoch(tx)
			if err != nil {
				return err
			}
			return run(purgeRevisions, oldest, before, limit)
		case PurgeWebhooks:
			gone, err = purgeWebhooks(tx, before, limit)
			return err
		case PurgeChanges:
			if latest := Instant(now.Add(-keepChanges)); latest.Before(before) {
				before = latest
			}
			return run(purgeChanges, before, limit)
		}
		return nil
	})
	return purged, err
}

// purgeMinutesOf goes from tenant to tenant: their minutes are indexed by tenant alone.
func purgeMinutesOf(tx *gorm.DB, before time.Time, limit int) (int, error) {
	gone := 0
	for tenant := ""; gone < limit; {
		var next []string
		if err := tx.Raw("SELECT tenant FROM delivery_minutes WHERE tenant > ? ORDER BY tenant LIMIT 1", tenant).Scan(&next).Error; err != nil {
			return gone, err
		}
		if len(next) == 0 {
			break
		}
		tenant = next[0]
		result := tx.Exec(purgeMinutes, tenant, before.Truncate(time.Minute), limit-gone)
		if result.Error != nil {
			return gone, result.Error
		}
		gone += int(result.RowsAffected)
	}
	return gone, nil
}

// oldestEpoch is an epoch that no event which is kept was matched before. Events of about the same
// moment may have committed in another order than their ids say, hence the thousand.
func oldestEpoch(tx *gorm.DB) (int64, error) {
	var epoch int64
	err := tx.Raw(`SELECT coalesce((SELECT min(epoch) FROM (SELECT epoch FROM events ORDER BY id LIMIT 1000) AS oldest),
		(SELECT head FROM config_epoch))`).Row().Scan(&epoch)
	return epoch, err
}

func purgeWebhooks(tx *gorm.DB, before time.Time, limit int) (int, error) {
	var ids []string
	if err := tx.Raw(pickWebhooks, before, limit).Scan(&ids).Error; err != nil || len(ids) == 0 {
		return 0, err
	}
	for _, text := range []string{
		"DELETE FROM webhook_health WHERE webhook_id IN ?", "DELETE FROM webhook_revisions WHERE webhook_id IN ?", "DELETE FROM webhooks WHERE id IN ?",
	} {
		if err := tx.Exec(text, ids).Error; err != nil {
			return 0, err
		}
	}
	return len(ids), nil
}
