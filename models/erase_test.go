package models_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

func TestEraseEvent(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		w := newWebhook(t, store, "acme", nil)
		e := eventTo(w, w, w)
		e.IdempotencyKey, e.IdempotencyHash = new("once"), "hash"
		e.Deliveries[1].Body = new(`{"shaped":true}`)
		e.Deliveries[2].Status, e.Deliveries[2].StatusReason = models.DeliverySkipped, new(models.ReasonFilterError)
		e.Deliveries[2].StatusDetail = new(`The filter failed: no such key: "secret".`)
		committed := commit(t, store, e)[0]
		other := commit(t, store, eventTo(w))[0]
		done, running := committed.Deliveries[0].ID, committed.Deliveries[1].ID
		record(t, store, attempt(claimOne(t, store, done, "a"), models.OutcomeHTTPError, models.Ended(models.DeliveryFailed, "", "")))
		record(t, store, attempt(claimOne(t, store, other.Deliveries[0].ID, "o"), models.OutcomeHTTPError, models.RetryAfter(0)))
		claim := claimOne(t, store, running, "b")

		_, err := store.EraseEvent(ctx, models.Reach{Tenant: "rival"}, committed.Event.ID)
		require.ErrorIs(t, err, models.ErrNotFound)
		require.NotNil(t, committed.Event.Data)
		erased, err := store.EraseEvent(ctx, models.Reach{Tenant: "acme"}, committed.Event.ID)
		require.NoError(t, err)
		require.Nil(t, erased.Data)
		require.NotNil(t, erased.ErasedAt)

		d := delivery(t, store, running)
		require.Equal(t, models.DeliveryCancelled, d.Status)
		require.Equal(t, models.ReasonEventErased, *d.StatusReason)
		require.Nil(t, d.Body)
		require.Nil(t, delivery(t, store, committed.Deliveries[2].ID).StatusDetail)
		require.Equal(t, models.DeliveryFailed, delivery(t, store, done).Status, "what has ended stays")
		kept := attempts(t, store, done)[0]
		require.Equal(t, 500, *kept.ResponseStatus)
		require.Nil(t, kept.ResponseBody)
		require.Empty(t, kept.ResponseHeaders)

		// The attempt that ran meanwhile is history, without what the receiver said.
		record(t, store, attempt(claim, models.OutcomeSuccess, models.Succeeded()))
		require.Equal(t, models.DeliverySucceeded, delivery(t, store, running).Status)
		late := attempts(t, store, running)[0]
		require.Equal(t, 204, *late.ResponseStatus)
		require.Nil(t, late.ResponseBody)
		require.Empty(t, late.ResponseHeaders)

		_, err = store.Redeliver(ctx, all, done)
		var refused *models.NotAllowedError
		require.ErrorAs(t, err, &refused)
		again, err := store.EraseEvent(ctx, all, committed.Event.ID)
		require.NoError(t, err)
		require.Equal(t, erased, again)

		e.ID = ""
		repeated := commit(t, store, e)[0]
		require.True(t, repeated.Duplicate, "the key still answers")
		require.Equal(t, erased, repeated.Event)

		untouched := attempts(t, store, other.Deliveries[0].ID)[0]
		require.Equal(t, "no", *untouched.ResponseBody)
		kept2, err := store.Tenant(all).Event(ctx, other.Event.ID)
		require.NoError(t, err)
		require.NotNil(t, kept2.Data)
	})
}

// An event to more webhooks than a page takes is erased to the last one.
func TestEraseEvent_ManyPages(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		webhooks := make([]models.Webhook, 2001)
		for i := range webhooks {
			webhooks[i] = w
		}
		e := eventTo(webhooks...)
		for i := range e.Deliveries {
			e.Deliveries[i].Body = new("{}")
		}
		committed := commit(t, store, e)[0]
		_, err := store.EraseEvent(t.Context(), all, committed.Event.ID)
		require.NoError(t, err)
		left, err := store.Count(t.Context(), "SELECT count(*) FROM deliveries WHERE body IS NOT NULL OR status <> 'CANCELLED'")
		require.NoError(t, err)
		require.Zero(t, left)
	})
}
