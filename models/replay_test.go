package models_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// newReplay is a replay of the last hour to w, not stored yet.
func newReplay(t testing.TB, store *models.Store, w models.Webhook) *models.Replay {
	t.Helper()
	now, err := store.Now(t.Context())
	require.NoError(t, err)
	return &models.Replay{
		Tenant: w.Tenant, WebhookID: w.ID, Since: now.Add(-time.Hour), Until: now, CreatedAt: now,
		Statuses: models.StringList{}, EventTypes: models.StringList{}, Hash: "hash", Total: 1,
	}
}

// walked are the events of a stage, read in pages of 2.
func walked(t testing.TB, store *models.Store, r *models.Replay, stage string, types []string) []string {
	t.Helper()
	ids := []string{}
	for cursor := ""; ; {
		page, err := store.Candidates(t.Context(), r, stage, cursor, types, 2)
		require.NoError(t, err)
		for _, e := range page {
			ids = append(ids, e.ID)
			cursor = e.Cursor
		}
		if len(page) < 2 {
			n, err := store.CountCandidates(t.Context(), r, stage, types)
			require.NoError(t, err)
			require.Len(t, ids, n)
			return ids
		}
	}
}

func TestReplay_Candidates(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		other := newWebhook(t, store, "acme", nil)
		with := func(status models.DeliveryStatus, change func(*models.NewEvent)) string {
			e := eventTo(w)
			e.Deliveries[0].Status = status
			if change != nil {
				change(&e)
			}
			return commit(t, store, e)[0].Event.ID
		}
		succeeded, failed := with(models.DeliverySucceeded, nil), with(models.DeliveryFailed, nil)
		with(models.DeliveryPending, nil)
		with(models.DeliveryHeld, nil)
		mended := with(models.DeliveryFailed, nil)
		newDelivery(t, store, models.Event{ID: mended, Tenant: "acme"}, w, func(d *models.Delivery) {
			d.Status, d.CreatedAt = models.DeliverySucceeded, models.Instant(time.Now())
		})
		message := with(models.DeliverySkipped, func(e *models.NewEvent) { e.EventType = "message.sent" })
		with(models.DeliveryFailed, func(e *models.NewEvent) { e.Test = true })
		erased := with(models.DeliveryFailed, nil)
		_, err := store.EraseEvent(t.Context(), all, erased)
		require.NoError(t, err)
		unmatched := commit(t, store, eventTo(other))[0].Event.ID
		foreign := eventTo()
		foreign.Tenant = "rival"
		commit(t, store, foreign)

		r := newReplay(t, store, w)
		require.Equal(t, []string{succeeded, failed, mended, message}, walked(t, store, r, models.ReplayMatched, nil))
		require.Equal(t, []string{message}, walked(t, store, r, models.ReplayMatched, []string{"message.sent"}))
		require.Equal(t, []string{unmatched}, walked(t, store, r, models.ReplayUnmatched, nil))
		r.Statuses = models.StringList{"FAILED", "SKIPPED", "PENDING"}
		require.Equal(t, []string{failed, message}, walked(t, store, r, models.ReplayMatched, nil))
		r.Statuses = models.StringList{"HELD"}
		require.Empty(t, walked(t, store, r, models.ReplayMatched, nil))
		r.Statuses, r.Until = nil, r.Since.Add(time.Minute)
		require.Empty(t, walked(t, store, r, models.ReplayMatched, nil))
	})
}

// Two processes that believe to go on with the same replay make each delivery once.
func TestReplay_StepsAreFenced(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		w := newWebhook(t, store, "acme", nil)
		own := eventTo()
		own.Tenant = "acme"
		event := commit(t, store, own)[0].Event
		r := newReplay(t, store, w)
		r.IdempotencyKey = new("once")
		existing, err := store.CreateReplay(ctx, r)
		require.NoError(t, err)
		require.Nil(t, existing)
		twin := newReplay(t, store, w)
		twin.IdempotencyKey = new("once")
		existing, err = store.CreateReplay(ctx, twin)
		require.NoError(t, err)
		require.Equal(t, r.ID, existing.ID)

		step := models.ReplayStep{
			Revision: w.Revision, Stage: models.ReplayWalked,
			Deliveries: []models.Delivery{{EventID: event.ID, EventType: event.EventType, Body: new(`{"a":1}`)}, {EventID: "evt_gone", EventType: "x"}},
		}
		stale := step
		stale.Revision++
		_, err = store.MakeReplayDeliveries(ctx, r, stale)
		require.ErrorIs(t, err, models.ErrRevision)
		made, err := store.MakeReplayDeliveries(ctx, r, step)
		require.NoError(t, err)
		require.Len(t, made, 1)
		_, err = store.MakeReplayDeliveries(ctx, r, step)
		require.ErrorIs(t, err, models.ErrReplayMoved)
		d := delivery(t, store, made[0].ID)
		require.Equal(t, models.TriggerReplay, d.Trigger)
		require.Equal(t, models.TriggerReplay, d.AttemptTrigger)
		require.Equal(t, `{"a":1}`, *d.Body)

		done, err := store.FinishReplay(ctx, r.ID, false)
		require.NoError(t, err)
		require.False(t, done, "a delivery is open")
		_, err = store.CancelReplay(ctx, models.Reach{Tenant: "rival"}, r.ID)
		require.ErrorIs(t, err, models.ErrNotFound)
		claim := claimOne(t, store, d.ID, "a")
		require.Equal(t, models.TriggerReplay, claim.Trigger)
		record(t, store, attempt(claim, models.OutcomeSuccess, models.Succeeded()))
		running, err := store.Tenant(all).Replay(ctx, r.ID)
		require.NoError(t, err)
		require.Equal(t, []int{1, 1, 1, 0}, []int{running.Total, running.Done, running.Succeeded, running.Failed})
		done, err = store.FinishReplay(ctx, r.ID, false)
		require.NoError(t, err)
		require.True(t, done)
		_, err = store.CancelReplay(ctx, all, r.ID)
		var refused *models.NotAllowedError
		require.ErrorAs(t, err, &refused)

		require.NoError(t, store.DeleteWebhook(ctx, all, w.ID))
		late := newReplay(t, store, w)
		_, err = store.CreateReplay(ctx, late)
		require.NoError(t, err)
		_, err = store.MakeReplayDeliveries(ctx, late, step)
		require.ErrorAs(t, err, &refused)
	})
}

// Both walks go along an index, whatever there is beside them.
func TestReplay_WalksUseIndexes(t *testing.T) {
	t.Parallel()
	store := modelstest.Postgres(t)
	w := newWebhook(t, store, "acme", nil)
	r := newReplay(t, store, w)
	seen := store.Observe()
	for _, statuses := range []models.StringList{nil, {"FAILED"}} {
		for _, stage := range []string{models.ReplayMatched, models.ReplayUnmatched} {
			r.Statuses = statuses
			_, err := store.Candidates(t.Context(), r, stage, "", nil, 10)
			require.NoError(t, err)
			for _, statement := range seen.Take() {
				if !strings.HasPrefix(statement, "SELECT e.*") {
					continue
				}
				plan, err := store.Explain(t.Context(), statement)
				require.NoError(t, err)
				require.NotContains(t, plan, "Sort", "%s\n%s", statement, plan)
				require.NotContains(t, plan, "Seq Scan", "%s\n%s", statement, plan)
			}
		}
	}
}
