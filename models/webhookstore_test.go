package models_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// lastChange is the newest entry of the change log.
func lastChange(t testing.TB, store *models.Store) models.Change {
	t.Helper()
	head, err := store.ConfigEpoch(t.Context())
	require.NoError(t, err)
	changes, err := store.ChangesSince(t.Context(), head-1)
	require.NoError(t, err)
	require.Len(t, changes, 1)
	return changes[0]
}

func TestCreateWebhook(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		w := models.Webhook{
			Tenant: "acme", ExternalID: new("crm"), Name: "CRM Sync", TargetURL: "https://crm.example/hook",
			EventTypes: models.StringList{"a", "b.*"}, Filter: new("true"), PayloadQuery: new("subscription { event { id } }"),
			SealedHeaders: "headers", Timeout: new(models.Millis(1500 * time.Millisecond)),
			RetrySchedule: &models.Schedule{time.Second, time.Hour}, RateLimitPerSecond: new(5), Signing: models.SigningEd25519,
			SealedKey: "key", PublicKey: new("whpk_"),
		}
		require.NoError(t, store.CreateWebhook(ctx, &w))
		require.Equal(t, models.WebhookActive, w.Status)
		require.Equal(t, 1, w.Version)
		require.EqualValues(t, 1, w.Revision)
		read, err := store.Tenant(all).Webhook(ctx, w.ID)
		require.NoError(t, err)
		require.Equal(t, w, read)
		change := lastChange(t, store)
		require.Equal(t, models.Change{Epoch: w.Epoch, Tenant: "acme", Kind: models.ChangedWebhook, ObjectID: w.ID, CreatedAt: w.CreatedAt}, change)

		again := models.Webhook{Tenant: "acme", ExternalID: new("crm"), Name: "again", EventTypes: models.StringList{"a"}}
		var conflict *models.ConflictError
		require.ErrorAs(t, store.CreateWebhook(ctx, &again), &conflict)
		require.Equal(t, w.ID, conflict.ID)
		require.Equal(t, change, lastChange(t, store), "a refused change leaves no trace")
		n, err := store.Count(ctx, "SELECT COUNT(*) FROM webhook_revisions")
		require.NoError(t, err)
		require.Equal(t, 1, n)

		newWebhook(t, store, "rival", func(w *models.Webhook) { w.ExternalID = new("crm") })
		require.NoError(t, store.DeleteWebhook(ctx, all, w.ID))
		newWebhook(t, store, "acme", func(w *models.Webhook) { w.ExternalID = new("crm") })
	})
}

func TestCreateWebhook_RacingCallsMakeOne(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		const callers = 8
		made := make([]models.Webhook, callers)
		errs := make([]error, callers)
		var calls sync.WaitGroup
		for i := range callers {
			calls.Go(func() {
				made[i] = models.Webhook{Tenant: "acme", ExternalID: new("crm"), Name: "n", EventTypes: models.StringList{"a"}}
				errs[i] = store.CreateWebhook(t.Context(), &made[i])
			})
		}
		calls.Wait()
		winner := slices.Index(errs, nil)
		require.GreaterOrEqual(t, winner, 0)
		for i, err := range errs {
			if i == winner {
				continue
			}
			var conflict *models.ConflictError
			require.ErrorAs(t, err, &conflict)
			require.Equal(t, made[winner].ID, conflict.ID)
		}
	})
}

func TestUpdateWebhook(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		acme := models.Reach{Tenant: "acme"}
		w := newWebhook(t, store, "acme", func(w *models.Webhook) { w.Filter = new("true") })
		other := newWebhook(t, store, "acme", func(w *models.Webhook) { w.ExternalID = new("taken") })
		rename := func(name string) func(*models.Webhook) error {
			return func(w *models.Webhook) error { w.Name = name; return nil }
		}

		got, err := store.UpdateWebhook(ctx, acme, w.ID, new(1), func(w *models.Webhook) error {
			w.Name, w.Filter = "new", nil
			w.ID, w.Tenant, w.Version, w.Revision, w.Status = "x", "x", 99, 99, models.WebhookDisabled
			w.PreviousExpiresAt = new(time.Date(2030, 1, 1, 0, 0, 0, 1, time.FixedZone("x", 3600)))
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 2, got.Version)
		require.EqualValues(t, 2, got.Revision)
		require.Equal(t, "acme", got.Tenant)
		require.Equal(t, models.WebhookActive, got.Status)
		read, err := store.Tenant(acme).Webhook(ctx, w.ID)
		require.NoError(t, err)
		require.Equal(t, got, read)
		require.Nil(t, read.Filter, "null clears")
		require.Equal(t, w.CreatedAt, read.CreatedAt)
		require.Equal(t, got.UpdatedAt, lastChange(t, store).CreatedAt)
		change := lastChange(t, store)
		require.Equal(t, w.ID, change.ObjectID)

		same, err := store.UpdateWebhook(ctx, acme, w.ID, nil, rename("new"))
		require.NoError(t, err)
		require.Equal(t, read, same, "no change, no version")
		_, err = store.UpdateWebhook(ctx, acme, w.ID, new(1), rename("late"))
		require.ErrorIs(t, err, models.ErrVersion)
		refused := errors.New("refused")
		_, err = store.UpdateWebhook(ctx, acme, w.ID, nil, func(w *models.Webhook) error { w.Name = "half"; return refused })
		require.ErrorIs(t, err, refused)
		_, err = store.UpdateWebhook(ctx, acme, w.ID, nil, func(w *models.Webhook) error { w.ExternalID = new("taken"); return nil })
		var conflict *models.ConflictError
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, other.ID, conflict.ID)
		for _, reach := range []models.Reach{{Tenant: "rival"}, {}} {
			_, err = store.UpdateWebhook(ctx, reach, w.ID, nil, rename("stolen"))
			require.ErrorIs(t, err, models.ErrNotFound)
		}
		_, err = store.UpdateWebhook(ctx, all, "nonsense", nil, rename("x"))
		require.ErrorIs(t, err, models.ErrNotFound)
		require.Equal(t, change, lastChange(t, store), "nothing of all that left a trace")
		unchanged, err := store.Tenant(acme).Webhook(ctx, w.ID)
		require.NoError(t, err)
		require.Equal(t, read, unchanged)

		require.NoError(t, store.DeleteWebhook(ctx, acme, w.ID))
		_, err = store.UpdateWebhook(ctx, acme, w.ID, nil, rename("x"))
		require.ErrorIs(t, err, models.ErrNotFound)
	})
}

func TestUpdateWebhook_OneExpectedVersionOneWinner(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		errs := make([]error, 8)
		var calls sync.WaitGroup
		for i := range errs {
			calls.Go(func() {
				_, errs[i] = store.UpdateWebhook(t.Context(), all, w.ID, new(1), func(w *models.Webhook) error {
					w.Name = fmt.Sprint("winner ", i)
					return nil
				})
			})
		}
		calls.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			require.ErrorIs(t, err, models.ErrVersion)
		}
		require.Equal(t, 1, won)
	})
}

// The table of a webhook's states: where each call leads, and which is refused.
func TestSetWebhookStatus_Transitions(t *testing.T) {
	t.Parallel()
	const (
		active, paused, disabled = models.WebhookActive, models.WebhookPaused, models.WebhookDisabled
		refused                  = ""
	)
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		for _, test := range []struct{ from, to, want models.WebhookStatus }{
			{active, active, active},
			{active, paused, paused},
			{active, disabled, disabled},
			{paused, active, active},
			{paused, paused, paused},
			{paused, disabled, disabled},
			{disabled, active, active},
			{disabled, paused, refused},
			{disabled, disabled, disabled},
		} {
			name := fmt.Sprintf("%s to %s", test.from, test.to)
			w := newWebhook(t, store, "acme", func(w *models.Webhook) { w.Status = test.from })
			_, err := store.SetWebhookStatus(ctx, models.Reach{Tenant: "rival"}, w.ID, test.to, models.ReasonByUser, nil)
			require.ErrorIs(t, err, models.ErrNotFound, name)
			before := lastChange(t, store)
			got, err := store.SetWebhookStatus(ctx, all, w.ID, test.to, models.ReasonByUser, nil)
			if test.want == refused {
				var not *models.NotAllowedError
				require.ErrorAs(t, err, &not, name)
				require.Equal(t, "The webhook is disabled. Resume it first, then pause it.", not.Message)
				require.Equal(t, before, lastChange(t, store), name)
				continue
			}
			require.NoError(t, err, name)
			require.Equal(t, test.want, got.Status, name)
			require.Equal(t, 1, got.Version, "status is not configuration")
			read, err := store.Tenant(all).Webhook(ctx, w.ID)
			require.NoError(t, err, name)
			require.Equal(t, got, read, name)
			if test.from == test.to {
				require.Equal(t, w.Revision, got.Revision, name)
				require.Equal(t, before, lastChange(t, store), name)
				continue
			}
			require.Equal(t, w.Revision+1, got.Revision, name)
			require.Equal(t, got.Epoch, lastChange(t, store).Epoch, name)
			if test.to == active {
				require.Nil(t, got.StatusReason, name)
			} else {
				require.Equal(t, new(models.ReasonByUser), got.StatusReason, name)
			}
			n, err := store.Count(ctx, "SELECT COUNT(*) FROM webhook_revisions WHERE webhook_id = ?", w.ID)
			require.NoError(t, err)
			require.Equal(t, 2, n, name)
		}
	})
}

// deliveries of one webhook in every state, by name.
func everyState(t testing.TB, store *models.Store, w models.Webhook) map[string]string {
	t.Helper()
	e := newEvent(t, store, w.Tenant, nil)
	later := newEvent(t, store, w.Tenant, func(e *models.Event) { e.DeliverAt = new(time.Now().Add(time.Hour)) })
	names := map[string]string{}
	add := func(name string, e models.Event, status models.DeliveryStatus, reason *models.DeliveryStatusReason, attempts int) {
		d := newDelivery(t, store, e, w, func(d *models.Delivery) {
			d.Status, d.StatusReason, d.AttemptCount = status, reason, attempts
			if e.DeliverAt != nil {
				d.NextAttemptAt = new(models.Instant(*e.DeliverAt))
			}
			switch {
			case status == models.DeliveryHeld:
				d.NextAttemptAt = nil
			case !status.Open():
				d.NextAttemptAt, d.CompletedAt = nil, new(models.Instant(time.Now()))
			}
		})
		names[d.ID] = name
	}
	add("pending", e, models.DeliveryPending, nil, 0)
	add("retrying", e, models.DeliveryRetrying, nil, 2)
	add("scheduled", later, models.DeliveryPending, new(models.ReasonScheduled), 0)
	add("held", e, models.DeliveryHeld, new(models.ReasonWebhookPaused), 0)
	add("held retry", e, models.DeliveryHeld, new(models.ReasonWebhookPaused), 3)
	add("succeeded", e, models.DeliverySucceeded, nil, 1)
	add("failed", e, models.DeliveryFailed, new(models.ReasonRetriesExhausted), 9)
	add("cancelled", e, models.DeliveryCancelled, new(models.ReasonCancelledByUser), 0)
	add("skipped", e, models.DeliverySkipped, new(models.ReasonWebhookDisabled), 0)
	return names
}

// states is what the deliveries of names are now: status, reason and when they are due.
func states(t testing.TB, store *models.Store, names map[string]string) map[string]string {
	t.Helper()
	rows, err := store.Tenant(all).DeliveriesByIDs(t.Context(), keys(names))
	require.NoError(t, err)
	found := map[string]string{}
	for id, d := range rows {
		text := string(d.Status)
		if d.StatusReason != nil {
			text += " " + string(*d.StatusReason)
		}
		if d.NextAttemptAt != nil {
			text += " now"
			if time.Until(*d.NextAttemptAt) > time.Minute {
				text += "+1h"
			}
		}
		require.Equal(t, !d.Status.Open(), d.CompletedAt != nil, "%s: %s", names[id], text)
		found[names[id]] = text
	}
	return found
}

func TestSetWebhookStatus_MovesDeliveries(t *testing.T) {
	t.Parallel()
	// What has ended stays.
	ended := map[string]string{
		"succeeded": "SUCCEEDED", "failed": "FAILED RETRIES_EXHAUSTED",
		"cancelled": "CANCELLED CANCELLED_BY_USER", "skipped": "SKIPPED WEBHOOK_DISABLED",
	}
	with := func(open map[string]string) map[string]string {
		maps.Copy(open, ended)
		return open
	}
	everyOpen := func(state string) map[string]string {
		return with(map[string]string{"pending": state, "retrying": state, "scheduled": state, "held": state, "held retry": state})
	}
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		w := newWebhook(t, store, "acme", nil)
		untouched := everyState(t, store, newWebhook(t, store, "acme", nil))
		before := states(t, store, untouched)
		names := everyState(t, store, w)

		_, err := store.SetWebhookStatus(ctx, all, w.ID, models.WebhookPaused, models.ReasonByUser, nil)
		require.NoError(t, err)
		require.Equal(t, everyOpen("HELD WEBHOOK_PAUSED"), states(t, store, names))

		var due []models.Due
		_, err = store.SetWebhookStatus(ctx, all, w.ID, models.WebhookActive, "", func(_ context.Context, page []models.Due) error {
			due = append(due, page...)
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, with(map[string]string{
			"pending": "PENDING now", "retrying": "RETRYING now", "scheduled": "PENDING SCHEDULED now+1h",
			"held": "PENDING now", "held retry": "RETRYING now",
		}), states(t, store, names))
		require.Equal(t, []string{"pending", "retrying", "scheduled", "held", "held retry"},
			ids(due, func(d models.Due) string { return names[d.DeliveryID] }), "oldest first")
		for _, d := range due {
			read, err := store.Tenant(all).Delivery(ctx, d.DeliveryID)
			require.NoError(t, err)
			require.Equal(t, models.Due{DeliveryID: read.ID, AttemptCount: read.AttemptCount, NextAttemptAt: *read.NextAttemptAt}, d)
		}

		_, err = store.SetWebhookStatus(ctx, all, w.ID, models.WebhookDisabled, models.ReasonByUser, nil)
		require.NoError(t, err)
		require.Equal(t, everyOpen("CANCELLED WEBHOOK_DISABLED"), states(t, store, names))

		for _, test := range []struct {
			reason models.WebhookStatusReason
			want   string
		}{
			{models.ReasonFailing, "CANCELLED WEBHOOK_DISABLED"},
			{models.ReasonReceiverGone, "CANCELLED RECEIVER_GONE"},
		} {
			w := newWebhook(t, store, "acme", nil)
			names := everyState(t, store, w)
			_, err = store.SetWebhookStatus(ctx, all, w.ID, models.WebhookDisabled, test.reason, nil)
			require.NoError(t, err)
			require.Equal(t, everyOpen(test.want), states(t, store, names))
		}

		w = newWebhook(t, store, "acme", nil)
		names = everyState(t, store, w)
		require.ErrorIs(t, store.DeleteWebhook(ctx, models.Reach{Tenant: "rival"}, w.ID), models.ErrNotFound)
		require.NoError(t, store.DeleteWebhook(ctx, models.Reach{Tenant: "acme"}, w.ID))
		require.Equal(t, everyOpen("CANCELLED WEBHOOK_DELETED"), states(t, store, names))
		require.ErrorIs(t, store.DeleteWebhook(ctx, models.Reach{Tenant: "acme"}, w.ID), models.ErrNotFound)
		_, err = store.SetWebhookStatus(ctx, all, w.ID, models.WebhookPaused, models.ReasonByUser, nil)
		require.ErrorIs(t, err, models.ErrNotFound)

		require.Equal(t, before, states(t, store, untouched), "another webhook's")
	})
}

// hold stores n held deliveries, and gives their ids, oldest first.
func hold(t testing.TB, store *models.Store, e models.Event, w models.Webhook, n int) []string {
	t.Helper()
	var made []string
	for page := range slices.Chunk(make([]models.Delivery, n), 100) {
		for i := range page {
			page[i] = models.Delivery{
				ID: models.NewID(models.PrefixDelivery), Tenant: w.Tenant, EventID: e.ID, WebhookID: w.ID, EventType: e.EventType,
				Status: models.DeliveryHeld, Trigger: models.TriggerAutomatic, AttemptTrigger: models.TriggerAutomatic, CreatedAt: e.CreatedAt,
			}
			made = append(made, page[i].ID)
		}
		require.NoError(t, store.Insert(t.Context(), page))
	}
	return made
}

// Bulk moves go by pages; each page is handed on once, none is missed.
func TestSetWebhookStatus_ManyPages(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		w := newWebhook(t, store, "acme", func(w *models.Webhook) { w.Status = models.WebhookPaused })
		e := newEvent(t, store, "acme", nil)
		const n = 575
		want := hold(t, store, e, w, n)
		var got []string
		var sizes []int
		stop := errors.New("stop")
		resume := func(_ context.Context, page []models.Due) error {
			sizes = append(sizes, len(page))
			got = append(got, ids(page, func(d models.Due) string { return d.DeliveryID })...)
			if len(sizes) == 1 {
				return stop // as a queue that is away
			}
			return nil
		}
		_, err := store.SetWebhookStatus(ctx, all, w.ID, models.WebhookActive, "", resume)
		require.ErrorIs(t, err, stop)
		_, err = store.SetWebhookStatus(ctx, all, w.ID, models.WebhookActive, "", resume)
		require.NoError(t, err, "repeating finishes it")
		require.Equal(t, want, got)
		require.Equal(t, []int{250, 250, 75}, sizes)
		held, err := store.Count(ctx, "SELECT COUNT(*) FROM deliveries WHERE status = 'HELD'")
		require.NoError(t, err)
		require.Zero(t, held)

		_, cancelled, err := store.CancelEvent(ctx, all, e.ID)
		require.NoError(t, err)
		require.Equal(t, n, cancelled)
	})
}

// A walk that another change has overtaken moves nothing more.
func TestSetWebhookStatus_OvertakenWalkStops(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		w := newWebhook(t, store, "acme", func(w *models.Webhook) { w.Status = models.WebhookPaused })
		e := newEvent(t, store, "acme", nil)
		hold(t, store, e, w, 1001)
		pages := 0
		_, err := store.SetWebhookStatus(ctx, all, w.ID, models.WebhookActive, "", func(ctx context.Context, _ []models.Due) error {
			pages++
			_, err := store.SetWebhookStatus(ctx, all, w.ID, models.WebhookPaused, models.ReasonByUser, nil)
			return err
		})
		require.NoError(t, err)
		require.Equal(t, 1, pages)
		held, err := store.Count(ctx, "SELECT COUNT(*) FROM deliveries WHERE status = 'HELD'")
		require.NoError(t, err)
		require.Equal(t, 1001, held, "paused last, so all is held")
	})
}

func TestSetWebhookStatus_ResumingClearsTheRunOfFailures(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		for _, test := range []struct {
			from models.WebhookStatus
			want int
		}{{models.WebhookDisabled, 0}, {models.WebhookPaused, 7}} {
			w := newWebhook(t, store, "acme", func(w *models.Webhook) { w.Status = test.from })
			since := new(models.Instant(time.Now()))
			require.NoError(t, store.Insert(ctx, &models.WebhookHealth{
				WebhookID: w.ID, ConsecutiveFailures: 7, FailingSince: since, LastFailureAt: since, NotifiedAt: since,
			}))
			_, err := store.SetWebhookStatus(ctx, all, w.ID, models.WebhookActive, "", nil)
			require.NoError(t, err)
			health, err := store.Tenant(all).Health(ctx, []string{w.ID})
			require.NoError(t, err)
			require.Equal(t, test.want, health[w.ID].ConsecutiveFailures, test.from)
			require.Equal(t, test.want == 0, health[w.ID].FailingSince == nil, test.from)
			require.Equal(t, test.want == 0, health[w.ID].NotifiedAt == nil, test.from)
			require.Equal(t, since, health[w.ID].LastFailureAt, "history stays")
		}
	})
}
