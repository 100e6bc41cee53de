package intake

import (
	"context"
	"time"

	"github.com/intervengine/webhooks/batch"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
)

// flush writes what many callers brought in one transaction and answers each of them.
func (i *Intake) flush(ctx context.Context, items []*item) ([]batch.Result[Output], error) {
	results := make([]batch.Result[Output], len(items))
	ctx, cancel := context.WithTimeout(ctx, i.opt.CommitTimeout)
	defer cancel()

	hand := handover{since: time.Now()}
	if i.took < slowCommit {
		hand.to = i.worker
	}
	defer hand.release()
	var written []int // the items that go into the transaction, by their place
	committed, err := i.opt.Store.CommitEvents(ctx, func(ctx context.Context, tx *models.EventTx) ([]models.NewEvent, error) {
		// Called again where the transaction is retried: starts from nothing each time.
		written = written[:0]
		clear(results)
		rows, err := i.rows(ctx, tx, items, func(n int, err error) {
			if err != nil {
				results[n].Value.Err = err
				return
			}
			written = append(written, n)
		})
		hand.claim(rows, tx.Now())
		return rows, err
	})
	i.took = time.Since(hand.since)
	if err != nil {
		for n := range results {
			if results[n].Value.Err == nil {
				results[n].Value = Output{Err: err}
			}
		}
		return results, nil
	}

	hand.start(committed)
	var due []queue.Item
	var accepted, duplicates uint64
	for k, n := range written {
		res := committed[k]
		switch {
		case res.Err != nil:
			results[n].Value.Err = keyProblem(res.Err)
			continue
		case res.Duplicate:
			duplicates++
		default:
			accepted++
			due = appendDue(due, items[n].deliveries)
		}
		event := res.Event
		results[n].Value = Output{Event: &event, Duplicate: res.Duplicate, Matched: event.Matched}
	}
	i.stats.mu.Lock()
	i.stats.accepted += accepted
	i.stats.duplicates += duplicates
	i.stats.mu.Unlock()
	i.opt.Queue.EnqueueAsync(due)
	return results, nil
}

// rows makes the rows of each item under the transaction's own view of the configuration. put is
// called once an item, in order, with nil where its row is in the answer.
func (i *Intake) rows(ctx context.Context, tx *models.EventTx, items []*item, put func(n int, err error)) ([]models.NewEvent, error) {
	r := txReader{tx}
	snap, err := i.snapshots.update(ctx, r)
	if err != nil {
		return nil, err
	}
	rows := make([]models.NewEvent, 0, len(items))
	ids := tx.IDs()
	for n, it := range items {
		if id := ids.Fit(it.event.ID); id != it.event.ID {
			it.event.ID, it.index = id, nil // a filter may look at it
		}
		if it.catalogue != snap.catalogue {
			if err := checkType(snap.catalogue, it.event.EventType, *it.event.Data).Err(); err != nil {
				put(n, err)
				continue
			}
			it.catalogue, it.index = snap.catalogue, nil
		}
		if it.only != nil {
			if err := it.shape(snap.catalogue); err != nil {
				put(n, err)
				continue
			}
		} else {
			ix, err := i.snapshots.index(ctx, r, snap, it.event.Tenant)
			if err != nil {
				return nil, err
			}
			if it.index != ix {
				it.match(ix)
			}
		}
		it.build(tx, ids)
		rows = append(rows, models.NewEvent{
			Event: it.event, Deliveries: it.deliveries,
			IdempotencyHash: it.hash, IdempotencyTTL: i.opt.IdempotencyWindow,
		})
		put(n, nil)
	}
	return rows, nil
}

// shape makes the body of a test as production would.
func (it *item) shape(known *catalogue.Catalogue) error {
	body, err := known.Shaped(it.only, catalogue.NewSubject(it.matchable()))
	if err != nil {
		return models.Problems{{Code: models.CodeNotAllowedNow, Path: []string{"id"}, Message: err.Error()}}
	}
	it.body = body
	return nil
}

// build fills in what the database's clock and the verdicts decide.
func (it *item) build(tx *models.EventTx, ids models.IDClock) {
	now := tx.Now()
	it.event.CreatedAt, it.event.Epoch, it.event.Matched = now, tx.Epoch(), 0
	it.deliveries = it.deliveries[:0]
	if it.only != nil {
		d := it.delivery(now, ids, it.only, models.TriggerTest)
		d.Body = it.body
		it.event.Matched = 1
		it.deliveries = append(it.deliveries, d)
		return
	}
	for _, m := range it.matches {
		if m.Webhook.ID == it.except {
			continue
		}
		d := it.delivery(now, ids, m.Webhook, models.TriggerAutomatic)
		d.Body = m.Body
		switch m.Verdict {
		case catalogue.Matched:
			it.event.Matched++
		case catalogue.Paused:
			it.event.Matched++
			d.Status, d.StatusReason = models.DeliveryHeld, new(models.ReasonWebhookPaused)
		case catalogue.Disabled:
			it.event.Matched++
			skip(&d, now, models.ReasonWebhookDisabled, "The webhook was disabled when the event came.")
		case catalogue.FilterError:
			skip(&d, now, models.ReasonFilterError, m.Detail)
		default:
			continue
		}
		it.deliveries = append(it.deliveries, d)
	}
}

func (it *item) delivery(now time.Time, ids models.IDClock, w *models.Webhook, trigger models.Trigger) models.Delivery {
	d := models.Delivery{
		ID: ids.Fit(models.NewID(models.PrefixDelivery)), Tenant: it.event.Tenant, EventID: it.event.ID, WebhookID: w.ID,
		EventType: it.event.EventType, Revision: w.Revision, Status: models.DeliveryPending, Trigger: trigger,
		AttemptTrigger: models.TriggerAutomatic, NextAttemptAt: &now, CreatedAt: now,
	}
	if trigger == models.TriggerTest {
		d.AttemptTrigger = models.TriggerTest
	}
	if at := it.event.DeliverAt; at != nil && at.After(now) {
		d.NextAttemptAt, d.StatusReason = at, new(models.ReasonScheduled)
	}
	return d
}

func skip(d *models.Delivery, now time.Time, why models.DeliveryStatusReason, detail string) {
	d.Status, d.StatusReason, d.StatusDetail = models.DeliverySkipped, &why, &detail
	d.NextAttemptAt, d.CompletedAt = nil, &now
}

func appendDue(due []queue.Item, deliveries []models.Delivery) []queue.Item {
	for _, d := range deliveries {
		if d.Status != models.DeliveryPending {
			continue
		}
		item := queue.Item{DeliveryID: d.ID, Attempt: 1}
		if d.NextAttemptAt.After(d.CreatedAt) {
			item.At = *d.NextAttemptAt
		}
		due = append(due, item)
	}
	return due
}
