package models_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

func TestUnpark(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w, other := newWebhook(t, store, "acme", nil), newWebhook(t, store, "acme", nil)
		release := func(w models.Webhook, after time.Duration, reason models.DeliveryStatusReason, detail string) string {
			id := due(t, store, w, 1)[0]
			claimOne(t, store, id, id)
			_, err := store.Release(t.Context(), []models.Release{{DeliveryID: id, Token: id, After: after, Reason: &reason, Detail: detail}})
			require.NoError(t, err)
			return id
		}
		last := release(w, time.Hour, models.ReasonRateLimited, models.DetailShare)
		release(w, time.Hour, models.ReasonRateLimited, "Ten a second.")
		held := release(w, time.Hour, models.ReasonCircuitOpen, "Too many failed.")
		release(other, time.Hour, models.ReasonRateLimited, models.DetailShare)
		second := release(w, time.Minute, models.ReasonRateLimited, models.DetailShare)
		third := release(w, time.Second, models.ReasonRateLimited, models.DetailShare)
		retrying := due(t, store, w, 1)[0]
		record(t, store, attempt(claimOne(t, store, retrying, "a"), models.OutcomeHTTPError, models.RetryAfter(0)))
		claimOne(t, store, retrying, "b")
		_, err := store.Release(t.Context(), []models.Release{{
			DeliveryID: retrying, Token: "b", After: time.Minute, Reason: new(models.ReasonRateLimited), Detail: models.DetailShare,
		}})
		require.NoError(t, err)
		due(t, store, w, 1)

		ids := func(limit int) (ids []string) {
			before := time.Now().Add(-time.Minute)
			due, err := store.Unpark(t.Context(), w.ID, limit)
			require.NoError(t, err)
			for _, d := range due {
				ids = append(ids, d.DeliveryID)
				row := delivery(t, store, d.DeliveryID)
				assert.Equal(t, row.AttemptCount, d.AttemptCount)
				assert.True(t, row.NextAttemptAt.Equal(d.NextAttemptAt))
				assert.WithinRange(t, d.NextAttemptAt, before, time.Now().Add(time.Minute/2))
			}
			return ids
		}
		assert.Equal(t, []string{last, held, second}, ids(3), "the oldest first, whenever they were to come")
		assert.Equal(t, []string{third, retrying}, ids(3))
		assert.Empty(t, ids(3), "what is due is not parked any more")
		claim := claimOne(t, store, last, "c")
		assert.True(t, claim.Parked)
		assert.Equal(t, models.ReasonRateLimited, claim.Waited)
		claim = claimOne(t, store, held, "d")
		assert.True(t, claim.Parked)
		assert.Equal(t, models.ReasonCircuitOpen, claim.Waited)
	})
}

// What is looked for is a page of one webhook's index, however much the webhook has: SQLite once walked all of it.
func TestUnpark_GoesAlongItsIndex(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		seen := store.Observe()
		_, err := store.Unpark(t.Context(), w.ID, 10)
		require.NoError(t, err)
		searches := 0
		for _, statement := range seen.Take() {
			if !strings.Contains(statement, "UNION ALL") {
				continue
			}
			plan, err := store.Explain(t.Context(), statement)
			require.NoError(t, err)
			searches = strings.Count(plan, "deliveries_webhook_status")
			assert.Equal(t, 4, searches, "the two halves and where each ends:\n%s", plan)
		}
		require.NotZero(t, searches)
	})
}
