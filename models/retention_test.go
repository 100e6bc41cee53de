package models_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// age makes everything that is stored so far older by d. Ids keep their time, as after a clock was
// set: the times decide.
func age(t testing.TB, store *models.Store, d time.Duration) {
	t.Helper()
	at := models.Instant(time.Now().Add(-d))
	for _, column := range []string{
		"events SET created_at", "deliveries SET created_at", "webhook_revisions SET created_at", "changes SET created_at",
		"replays SET finished_at",
	} {
		require.NoError(t, store.Exec(t.Context(), "UPDATE "+column+" = ?", at))
	}
	// Minutes are in the key of their rows: what was counted in two stays in two.
	n, err := store.Count(t.Context(), "SELECT count(DISTINCT minute) FROM delivery_minutes")
	require.NoError(t, err)
	for range n {
		at = at.Add(-time.Minute)
		require.NoError(t, store.Exec(t.Context(), "UPDATE delivery_minutes SET minute = ? WHERE minute = (SELECT max(minute) FROM delivery_minutes)",
			models.Instant(at.Truncate(time.Minute))))
	}
}

func rows(t testing.TB, store *models.Store, table string) int {
	t.Helper()
	n, err := store.Count(t.Context(), "SELECT count(*) FROM "+table)
	require.NoError(t, err)
	return n
}

// purgeAll removes all events that it may, in batches of limit.
func purgeAll(t testing.TB, store *models.Store, before time.Time, limit int) (events, deliveries int) {
	t.Helper()
	for after := ""; ; {
		purged, err := store.PurgeEvents(context.Background(), before, after, limit)
		require.NoError(t, err)
		events, deliveries = events+purged.Events, deliveries+purged.Deliveries
		if !purged.More {
			return events, deliveries
		}
		after = purged.Last
	}
}

func TestPurgeEvents(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		with := func(status models.DeliveryStatus) models.EventResult {
			e := eventTo(w, w)
			e.Deliveries[0].Status, e.Deliveries[1].Status = models.DeliverySucceeded, status
			return commit(t, store, e)[0]
		}
		ended := with(models.DeliveryFailed)
		open := with(models.DeliveryPending)
		held := with(models.DeliveryHeld)
		bare := commit(t, store, eventTo())[0]
		claim := claimOne(t, store, open.Deliveries[1].ID, "a")
		record(t, store, attempt(claim, models.OutcomeHTTPError, models.RetryAfter(time.Hour)))
		again := with(models.DeliveryFailed)
		attempted := with(models.DeliveryPending)
		record(t, store, attempt(claimOne(t, store, attempted.Deliveries[1].ID, "b"), models.OutcomeSuccess, models.Succeeded()))
		age(t, store, 48*time.Hour)
		// Sent once more a moment ago: its history is young.
		newDelivery(t, store, again.Event, w, func(d *models.Delivery) {
			d.Status, d.CreatedAt = models.DeliverySucceeded, models.Instant(time.Now())
		})
		young := with(models.DeliverySucceeded)

		before := time.Now().Add(-24 * time.Hour)
		events, deliveries := purgeAll(t, store, before, 2)
		require.Equal(t, 3, events)
		require.Equal(t, 4, deliveries)
		found, err := store.Tenant(all).EventsByIDs(t.Context(), []string{
			ended.Event.ID, open.Event.ID, held.Event.ID, bare.Event.ID, again.Event.ID, attempted.Event.ID, young.Event.ID,
		})
		require.NoError(t, err)
		require.Len(t, found, 4)
		for _, kept := range []models.EventResult{open, held, again, young} {
			require.Contains(t, found, kept.Event.ID)
		}
		require.Equal(t, 9, rows(t, store, "deliveries"))
		require.Equal(t, 1, rows(t, store, "attempts"), "what is still open keeps its attempts")
		events, _ = purgeAll(t, store, before, 100)
		require.Zero(t, events)
	})
}

// An event with more deliveries than a batch takes goes in several.
func TestPurgeEvents_Wide(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		wide := func(open bool) {
			webhooks := make([]models.Webhook, 2300)
			for i := range webhooks {
				webhooks[i] = w
			}
			e := eventTo(webhooks...)
			for i := range e.Deliveries {
				e.Deliveries[i].Status = models.DeliverySucceeded
			}
			if open {
				e.Deliveries[2200].Status = models.DeliveryHeld
			}
			commit(t, store, e)
		}
		commit(t, store, eventTo())
		wide(false)
		age(t, store, time.Hour)
		commit(t, store, eventTo())
		wide(true)
		commit(t, store, eventTo())
		age(t, store, 48*time.Hour)
		before := time.Now().Add(-24 * time.Hour)
		purgeAll(t, store, before, 50)
		purgeAll(t, store, before, 50)
		require.Equal(t, 1, rows(t, store, "events"))
		require.Equal(t, 2300, rows(t, store, "deliveries"), "all or nothing of an event that is still open")
	})
}

func TestPurge(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		w := newWebhook(t, store, "acme", nil)
		edit := func(name string) {
			_, err := store.UpdateWebhook(ctx, all, w.ID, nil, func(w *models.Webhook) error { w.Name = name; return nil })
			require.NoError(t, err)
		}
		edit("second")
		keyed := eventTo(w)
		keyed.IdempotencyKey, keyed.IdempotencyHash, keyed.IdempotencyTTL = new("short"), "h", time.Millisecond
		kept := commit(t, store, keyed)[0]
		long := eventTo()
		long.IdempotencyKey, long.IdempotencyHash = new("long"), "h"
		commit(t, store, long)
		edit("third")
		gone := newWebhook(t, store, "acme", nil)
		require.NoError(t, store.DeleteWebhook(ctx, all, gone.ID))
		busy := newWebhook(t, store, "acme", nil)
		due(t, store, busy, 1)
		require.NoError(t, store.DeleteWebhook(ctx, all, busy.ID))
		r := newReplay(t, store, w)
		r.Total = 0
		_, err := store.CreateReplay(ctx, r)
		require.NoError(t, err)
		running := newReplay(t, store, w)
		_, err = store.CreateReplay(ctx, running)
		require.NoError(t, err)
		require.NoError(t, store.Exec(ctx, "UPDATE webhooks SET deleted_at = ? WHERE deleted_at IS NOT NULL", models.Instant(time.Now().Add(-48*time.Hour))))
		age(t, store, 48*time.Hour)
		epoch, err := store.ConfigEpoch(ctx)
		require.NoError(t, err)

		before := time.Now().Add(-24 * time.Hour)
		removed := map[models.PurgeKind]int{}
		for _, kind := range models.PurgeKinds {
			for {
				purged, err := store.Purge(ctx, kind, before, 2)
				require.NoError(t, err)
				removed[kind] += purged.Rows
				if !purged.More {
					break
				}
			}
		}
		require.Equal(t, 1, removed[models.PurgeKeys])
		require.Equal(t, 1, rows(t, store, "idempotency_keys"), "one still answers")
		require.Equal(t, 1, removed[models.PurgeReplays])
		require.Positive(t, removed[models.PurgeMinutes])
		require.Zero(t, rows(t, store, "delivery_minutes"))
		require.Equal(t, 1, removed[models.PurgeWebhooks], "one has no history left")
		_, err = store.WebhookByID(ctx, gone.ID)
		require.ErrorIs(t, err, models.ErrNotFound)
		_, err = store.WebhookByID(ctx, busy.ID)
		require.NoError(t, err)
		require.Equal(t, int(epoch)-1, removed[models.PurgeChanges])
		require.Equal(t, 1, rows(t, store, "changes"))

		// The event that is kept is still explained by the revision that was in force.
		inForce, err := store.Tenant(all).RevisionsInForce(ctx, "acme", kept.Event.ID, kept.Event.Epoch, models.Page{})
		require.NoError(t, err)
		for _, row := range inForce.Items {
			if row.Webhook.ID == w.ID {
				require.Equal(t, int64(2), row.Revision.Revision)
			}
		}
		require.Equal(t, 1, removed[models.PurgeRevisions], "the first revision of the webhook; those of the deleted one go with it")
	})
}

func TestRecentEvents(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		now := time.Now()
		old := models.Event{
			ID: models.FirstID(models.PrefixEvent, now.Add(-time.Hour)), Tenant: "acme", EventType: "message.sent",
			Timestamp: now, CreatedAt: models.Instant(now),
		}
		require.NoError(t, store.Insert(t.Context(), []models.Event{old}))
		commit(t, store, eventTo(), eventTo(), eventTo())
		for within, want := range map[time.Duration]int{30 * time.Minute: 3, 2 * time.Hour: 4} {
			count, err := store.RecentEvents(t.Context(), within, 100)
			require.NoError(t, err)
			require.Equal(t, want, count)
		}
		count, err := store.RecentEvents(t.Context(), 2*time.Hour, 2)
		require.NoError(t, err)
		require.Equal(t, 2, count)
	})
}
