package models_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// A delivery that is committed claimed is like one that was claimed afterwards.
func TestCommitEvents_Claimed(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		token := uuid.NewString()
		events := []models.NewEvent{eventTo(w), eventTo(w)}
		results, err := store.CommitEvents(t.Context(), func(_ context.Context, tx *models.EventTx) ([]models.NewEvent, error) {
			d := &events[0].Deliveries[0]
			d.ClaimToken, d.ClaimedUntil = &token, new(tx.Now().Add(lease))
			return events, nil
		})
		require.NoError(t, err)
		claimed, free := results[0].Deliveries[0].ID, results[1].Deliveries[0].ID

		stored := delivery(t, store, claimed)
		require.NotNil(t, stored.ClaimToken)
		assert.Equal(t, token, *stored.ClaimToken)
		assert.Equal(t, stored.CreatedAt, *stored.ClaimedAt)
		assert.Equal(t, stored.CreatedAt.Add(lease), *stored.ClaimedUntil)
		assert.Nil(t, delivery(t, store, free).ClaimedAt)

		claims, err := store.Claim(t.Context(), []string{claimed, free}, uuid.NewString(), lease)
		require.NoError(t, err)
		require.Len(t, claims.Claimed, 1)
		assert.Equal(t, free, claims.Claimed[0].DeliveryID)

		// It is recorded as such.
		c := models.Claim{DeliveryID: claimed, Number: 1, Tenant: "acme", Token: token, WebhookID: w.ID, EventType: events[0].EventType}
		recorded := record(t, store, attempt(c, models.OutcomeSuccess, models.Succeeded()))[0]
		assert.True(t, recorded.Applied)
		assert.Equal(t, models.DeliverySucceeded, delivery(t, store, claimed).Status)
	})
}

// One whose worker dies before it starts runs out like any other.
func TestCommitEvents_ClaimedByOneThatDies(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		event := eventTo(w)
		results, err := store.CommitEvents(t.Context(), func(_ context.Context, tx *models.EventTx) ([]models.NewEvent, error) {
			event.Deliveries[0].ClaimToken, event.Deliveries[0].ClaimedUntil = new("gone"), new(tx.Now())
			return []models.NewEvent{event}, nil
		})
		require.NoError(t, err)
		id := results[0].Deliveries[0].ID
		due, _, err := store.ExpireClaims(t.Context(), models.DueCursor{}, 10)
		require.NoError(t, err)
		require.Len(t, due, 1)
		assert.Equal(t, id, due[0].DeliveryID)
		c := claimOne(t, store, id, "t2")
		assert.Equal(t, 1, c.Number, "it is made again")
	})
}
