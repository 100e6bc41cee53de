package models

import (
	"context"
	"encoding/binary"
	"time"

	"gorm.io/gorm"
)

// Delivery gives a delivery by id.
func (t *Tenant) Delivery(ctx context.Context, id string) (Delivery, error) {
	return one[Delivery](ctx, t, PrefixDelivery, id)
}

// DeliveriesByIDs gives deliveries by id. Unknown ids are absent.
func (t *Tenant) DeliveriesByIDs(ctx context.Context, ids []string) (map[string]Delivery, error) {
	return byIDs(ctx, t, PrefixDelivery, ids, deliveryID)
}

// Deliveries lists deliveries, newest first.
func (t *Tenant) Deliveries(ctx context.Context, f DeliveryFilter, p Page) (Result[Delivery], error) {
	return page(ctx, t.store, deliveriesOf(""), p, func(db *gorm.DB) []*gorm.DB { return t.deliveries(db, f, true) })
}

// DeliveriesOfWebhooks gives the same page of each webhook's deliveries, newest first, by webhook,
// in one statement. A page with a cursor belongs to one webhook.
func (t *Tenant) DeliveriesOfWebhooks(ctx context.Context, ids []string, f DeliveryFilter, p Page) (map[string]Result[Delivery], error) {
	return t.deliveriesOfEach(ctx, "webhook_id", valid(PrefixWebhook, ids), func(d *Delivery) string { return d.WebhookID }, f, p)
}

// DeliveriesOfEvents gives the same page of each event's deliveries, newest first, by event, in one
// statement. A page with a cursor belongs to one event.
func (t *Tenant) DeliveriesOfEvents(ctx context.Context, ids []string, f DeliveryFilter, p Page) (map[string]Result[Delivery], error) {
	return t.deliveriesOfEach(ctx, "event_id", valid(PrefixEvent, ids), func(d *Delivery) string { return d.EventID }, f, p)
}

// DeliveriesTo gives an event's own delivery (no replay's) to each of the webhooks, by webhook.
// Webhooks that got none are absent.
func (t *Tenant) DeliveriesTo(ctx context.Context, eventID string, webhookIDs []string) (map[string]Delivery, error) {
	found := make(map[string]Delivery, len(webhookIDs))
	webhookIDs = valid(PrefixWebhook, webhookIDs)
	if !ValidID(PrefixEvent, eventID) || len(webhookIDs) == 0 {
		return found, nil
	}
	rows, err := find[Delivery](ctx, t.store, func(db *gorm.DB) *gorm.DB {
		return t.of(db, &Delivery{}, nil).
			Where(`event_id = ? AND webhook_id IN ? AND "trigger" <> ?`, eventID, webhookIDs, TriggerReplay)
	})
	for _, d := range rows {
		found[d.WebhookID] = d
	}
	return found, err
}

// deliveriesOf is the list of deliveries of a webhook or event, or of all where parent is "".
func deliveriesOf(parent string) list[Delivery] {
	return byID("deliveries", parent, PrefixDelivery, deliveryID)
}

func deliveryID(d *Delivery) string { return d.ID }

func (t *Tenant) deliveriesOfEach(ctx context.Context, column string, parents []string, of func(*Delivery) string, f DeliveryFilter, p Page) (map[string]Result[Delivery], error) {
	lists := make([]list[Delivery], len(parents))
	for i, parent := range parents {
		lists[i] = deliveriesOf(parent)
	}
	var results map[string]Result[Delivery]
	err := t.store.reading(ctx, func(db *gorm.DB) error {
		var err error
		// One walk a parent is enough of a merge.
		results, err = readEach(p, lists, column, of, t.deliveries(db, f, len(parents) == 1)...)
		return err
	})
	return results, err
}

// deliveries are the selections that hold what f leaves: several where merging is set and f names
// several values of what has an index of its own.
func (t *Tenant) deliveries(db *gorm.DB, f DeliveryFilter, merging bool) []*gorm.DB {
	q := t.of(db, &Delivery{}, f.Tenant)
	q = equal(q, "webhook_id", f.WebhookID)
	q = equal(q, "event_id", f.EventID)
	switch {
	case f.ResponseMin != nil && f.ResponseMax != nil && *f.ResponseMin == *f.ResponseMax:
		q = q.Where("last_status = ?", *f.ResponseMin) // in the order of ids along the index
	default:
		if f.ResponseMin != nil {
			q = q.Where("last_status >= ?", *f.ResponseMin)
		}
		if f.ResponseMax != nil {
			q = q.Where("last_status <= ?", *f.ResponseMax)
		}
	}
	if lo, hi := f.ResponseMin, f.ResponseMax; lo != nil && *lo > 200 || hi != nil && *hi < 200 {
		q = q.Where("last_status <> 200") // names the partial index
	}
	q = created(q, PrefixDelivery, f.Since, f.Until)

	arms := []*gorm.DB{q}
	arms, merging = narrow(arms, merging, "status", string(DeliverySucceeded), f.Statuses)
	arms, merging = narrow(arms, merging, "last_outcome", string(OutcomeSuccess), f.Outcomes)
	arms, merging = narrow(arms, merging, "event_type", "", f.EventTypes)
	arms, _ = narrow(arms, merging, `"trigger"`, string(TriggerAutomatic), f.Triggers)
	return arms
}

// narrow narrows every arm to rows whose column is one of values, splitting the arms into one a
// value where merging still allows; only the first filter of several values is split.
func narrow[S ~string](arms []*gorm.DB, merging bool, column, common string, values []S) ([]*gorm.DB, bool) {
	if merging && len(values) > 1 {
		return split(arms[0], column, common, values), false
	}
	for i, q := range arms {
		arms[i] = among(q, column, common, values)
	}
	return arms, merging
}

// clockSkew is how far an id's time and created_at may be apart: IDClock sees to it, and the rest is
// for a transaction that takes long.
const clockSkew = 2 * maxIDDrift

// created narrows q to rows created from since on and before until; nil does not narrow.
//
// The index of every list goes by id, so the bounds are given as ids too: an id begins with about the
// time of its creation. The ids' bounds are a little wider and only save walking; created_at decides.
func created(q *gorm.DB, prefix string, since, until *time.Time) *gorm.DB {
	if since != nil {
		q = q.Where("created_at >= ? AND id >= ?", ceiling(*since), firstID(prefix, since.Add(-clockSkew)))
	}
	if until != nil {
		q = q.Where("created_at < ? AND id < ?", ceiling(*until), firstID(prefix, until.Add(clockSkew)))
	}
	return q
}

// firstID is what ids made at t or later sort after.
func firstID(prefix string, t time.Time) string {
	ms := min(max(t.UnixMilli(), 0), 1<<48-1)
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(ms)<<16)
	return prefix + idEncoding.EncodeToString(b[:])
}

// ceiling brings t to the stored precision, up: stored times are whole microseconds, and cutting
// a bound down would move rows to its other side.
func ceiling(t time.Time) time.Time {
	at := Instant(t)
	if at.Before(t) {
		at = at.Add(Precision)
	}
	return at
}
