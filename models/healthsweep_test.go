package models_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// failOnce records a failed attempt of w, and gives the beginning of the run of failures.
func failOnce(t *testing.T, store *models.Store, w models.Webhook) time.Time {
	t.Helper()
	id := due(t, store, w, 1)[0]
	c := claimOne(t, store, id, models.NewID("tok_"))
	outcome, now := models.OutcomeHTTPError, models.Instant(time.Now())
	_, err := store.Record(t.Context(), []models.AttemptRecord{{
		Attempt: models.Attempt{
			DeliveryID: id, Number: c.Number, Tenant: w.Tenant, Token: c.Token, Trigger: c.Trigger,
			StartedAt: now, EndedAt: &now, Outcome: &outcome, RequestHeaders: models.Headers{},
		},
		WebhookID: w.ID, EventType: c.EventType, Disposition: models.RetryAfter(time.Hour),
	}})
	require.NoError(t, err)
	health, err := store.Tenant(models.Reach{All: true}).Health(t.Context(), []string{w.ID})
	require.NoError(t, err)
	return *health[w.ID].FailingSince
}

func TestDisableFailing(t *testing.T) {
	t.Parallel()
	reach := models.Reach{All: true}
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		since := failOnce(t, store, w)

		disabled, err := store.DisableFailing(t.Context(), w.ID, since.Add(-time.Second))
		require.NoError(t, err)
		assert.False(t, disabled, "that run is over")

		open := due(t, store, w, 1)[0]
		disabled, err = store.DisableFailing(t.Context(), w.ID, since)
		require.NoError(t, err)
		assert.True(t, disabled)
		got, err := store.WebhookByID(t.Context(), w.ID)
		require.NoError(t, err)
		assert.Equal(t, models.WebhookDisabled, got.Status)
		assert.Equal(t, models.ReasonFailing, *got.StatusReason)
		assert.Equal(t, models.DeliveryCancelled, delivery(t, store, open).Status)

		disabled, err = store.DisableFailing(t.Context(), w.ID, since)
		require.NoError(t, err)
		assert.False(t, disabled, "only once")

		paused := newWebhook(t, store, "acme", nil)
		since = failOnce(t, store, paused)
		_, err = store.SetWebhookStatus(t.Context(), reach, paused.ID, models.WebhookPaused, models.ReasonByUser, nil)
		require.NoError(t, err)
		disabled, err = store.DisableFailing(t.Context(), paused.ID, since)
		require.NoError(t, err)
		assert.False(t, disabled, "it is not active")

		_, err = store.DisableFailing(t.Context(), models.NewID(models.PrefixWebhook), since)
		assert.ErrorIs(t, err, models.ErrNotFound)
	})
}

func TestAutoDisabled(t *testing.T) {
	t.Parallel()
	reach := models.Reach{All: true}
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		byUser, gone, failing := newWebhook(t, store, "acme", nil), newWebhook(t, store, "acme", nil), newWebhook(t, store, "other", nil)
		for w, reason := range map[string]models.WebhookStatusReason{byUser.ID: models.ReasonByUser, gone.ID: models.ReasonReceiverGone} {
			_, err := store.SetWebhookStatus(t.Context(), reach, w, models.WebhookDisabled, reason, nil)
			require.NoError(t, err)
		}
		since := failOnce(t, store, failing)
		disabled, err := store.DisableFailing(t.Context(), failing.ID, since)
		require.NoError(t, err)
		require.True(t, disabled)
		before, err := store.AutoDisabled(t.Context(), time.Hour, 10)
		require.NoError(t, err)
		// An edit changes neither when nor by which revision it was disabled.
		_, err = store.UpdateWebhook(t.Context(), reach, failing.ID, nil, func(w *models.Webhook) error { w.Name = "Other"; return nil })
		require.NoError(t, err)
		after, err := store.AutoDisabled(t.Context(), time.Hour, 10)
		require.NoError(t, err)
		require.Len(t, after, 2)
		assert.Equal(t, failing.ID, after[0].ID, "the latest first")
		assert.Equal(t, "Other", after[0].Name)
		assert.Equal(t, before[0].DisabledBy, after[0].DisabledBy)
		assert.Equal(t, before[0].DisabledAt, after[0].DisabledAt)
		assert.True(t, since.Equal(*after[0].FailingSince))
		assert.Equal(t, gone.ID, after[1].ID)
		assert.Nil(t, after[1].FailingSince)

		none, err := store.AutoDisabled(t.Context(), 0, 10)
		require.NoError(t, err)
		assert.Empty(t, none)
		one, err := store.AutoDisabled(t.Context(), time.Hour, 1)
		require.NoError(t, err)
		assert.Len(t, one, 1)

		_, err = store.SetWebhookStatus(t.Context(), reach, gone.ID, models.WebhookActive, "", nil)
		require.NoError(t, err)
		require.NoError(t, store.DeleteWebhook(t.Context(), reach, failing.ID))
		none, err = store.AutoDisabled(t.Context(), time.Hour, 10)
		require.NoError(t, err)
		assert.Empty(t, none)
	})
}
