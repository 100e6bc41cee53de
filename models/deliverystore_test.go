package models_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

func TestCancelDelivery(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		acme := models.Reach{Tenant: "acme"}
		w := newWebhook(t, store, "acme", nil)
		for id, name := range everyState(t, store, w) {
			before, err := store.Tenant(all).Delivery(ctx, id)
			require.NoError(t, err)
			_, err = store.CancelDelivery(ctx, models.Reach{Tenant: "rival"}, id)
			require.ErrorIs(t, err, models.ErrNotFound, name)
			got, err := store.CancelDelivery(ctx, acme, id)
			if !before.Status.Open() {
				var not *models.NotAllowedError
				require.ErrorAs(t, err, &not, name)
				require.Equal(t, "The delivery has ended already: it is "+string(before.Status)+".", not.Message)
				after, err := store.Tenant(all).Delivery(ctx, id)
				require.NoError(t, err)
				require.Equal(t, before, after, name)
				continue
			}
			require.NoError(t, err, name)
			require.Equal(t, models.DeliveryCancelled, got.Status, name)
			require.Equal(t, new(models.ReasonCancelledByUser), got.StatusReason, name)
			require.NotNil(t, got.CompletedAt, name)
			require.Nil(t, got.NextAttemptAt, name)
		}
		for _, id := range []string{"", "nonsense", "dlv_\x00", models.NewID(models.PrefixDelivery)} {
			_, err := store.CancelDelivery(ctx, all, id)
			require.ErrorIs(t, err, models.ErrNotFound)
		}
	})
}

// An attempt that runs may yet succeed: cancelling leaves its claim alone.
func TestCancelDelivery_KeepsTheClaim(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		d := newDelivery(t, store, newEvent(t, store, "acme", nil), w, func(d *models.Delivery) {
			now := models.Instant(time.Now())
			d.ClaimToken, d.ClaimedAt, d.ClaimedUntil = new("token"), &now, new(now.Add(time.Minute))
		})
		got, err := store.CancelDelivery(t.Context(), all, d.ID)
		require.NoError(t, err)
		require.Equal(t, d.ClaimToken, got.ClaimToken)
		require.Equal(t, d.ClaimedUntil, got.ClaimedUntil)
	})
}

func TestCancelEvent(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		w := newWebhook(t, store, "acme", nil)
		e := newEvent(t, store, "acme", nil)
		open := newDelivery(t, store, e, w, nil)
		held := newDelivery(t, store, e, w, func(d *models.Delivery) { d.Status = models.DeliveryHeld })
		done := newDelivery(t, store, e, w, func(d *models.Delivery) { d.Status = models.DeliverySucceeded })
		other := newDelivery(t, store, newEvent(t, store, "acme", nil), w, nil)

		_, _, err := store.CancelEvent(ctx, models.Reach{Tenant: "rival"}, e.ID)
		require.ErrorIs(t, err, models.ErrNotFound)
		got, n, err := store.CancelEvent(ctx, models.Reach{Tenant: "acme"}, e.ID)
		require.NoError(t, err)
		require.Equal(t, e, got)
		require.Equal(t, 2, n)
		for id, want := range map[string]models.DeliveryStatus{
			open.ID: models.DeliveryCancelled, held.ID: models.DeliveryCancelled,
			done.ID: models.DeliverySucceeded, other.ID: models.DeliveryPending,
		} {
			d, err := store.Tenant(all).Delivery(ctx, id)
			require.NoError(t, err)
			require.Equal(t, want, d.Status)
		}
		_, n, err = store.CancelEvent(ctx, all, e.ID)
		require.NoError(t, err)
		require.Zero(t, n, "again")
	})
}

func TestRedeliver(t *testing.T) {
	t.Parallel()
	hour := time.Now().Add(time.Hour)
	cases := map[string]struct {
		webhook  func(*models.Webhook)
		event    func(*models.Event)
		delivery func(*models.Delivery)
		deleted  bool
		want     string // as states says, or the refusal
	}{
		"failed":                     {delivery: in(models.DeliveryFailed, models.ReasonRetriesExhausted, 3), want: "RETRYING now"},
		"succeeded":                  {delivery: in(models.DeliverySucceeded, "", 1), want: "RETRYING now"},
		"cancelled, never attempted": {delivery: in(models.DeliveryCancelled, models.ReasonCancelledByUser, 0), want: "PENDING now"},
		"skipped while disabled":     {delivery: in(models.DeliverySkipped, models.ReasonWebhookDisabled, 0), want: "PENDING now"},
		"scheduled, cancelled": {
			event:    func(e *models.Event) { e.DeliverAt = &hour },
			delivery: in(models.DeliveryCancelled, models.ReasonCancelledByUser, 0), want: "PENDING SCHEDULED now+1h",
		},
		"paused webhook": {
			webhook:  func(w *models.Webhook) { w.Status = models.WebhookPaused },
			delivery: in(models.DeliveryFailed, models.ReasonRetriesExhausted, 3), want: "HELD WEBHOOK_PAUSED",
		},
		"pending": {
			delivery: in(models.DeliveryPending, "", 0),
			want:     "The delivery is still open (PENDING): it will be attempted by itself.",
		},
		"retrying": {
			delivery: in(models.DeliveryRetrying, "", 1),
			want:     "The delivery is still open (RETRYING): it will be attempted by itself.",
		},
		"held": {
			delivery: in(models.DeliveryHeld, models.ReasonWebhookPaused, 0),
			want:     "The delivery is still open (HELD): it will be attempted by itself.",
		},
		"filter error": {
			delivery: in(models.DeliverySkipped, models.ReasonFilterError, 0),
			want:     "The webhook's filter failed on the event, so the delivery has no body to send again. Replay the event instead.",
		},
		"disabled webhook": {
			webhook:  func(w *models.Webhook) { w.Status = models.WebhookDisabled },
			delivery: in(models.DeliveryFailed, "", 3), want: "The delivery's webhook is disabled. Resume it first.",
		},
		"deleted webhook": {
			deleted: true, delivery: in(models.DeliveryFailed, "", 3), want: "The delivery's webhook was deleted.",
		},
		"erased event": {
			event:    func(e *models.Event) { e.ErasedAt, e.Data = &hour, nil },
			delivery: in(models.DeliverySucceeded, "", 3), want: "The delivery's event was erased: there is nothing left to send.",
		},
	}
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		for name, test := range cases {
			t.Run(name, func(t *testing.T) {
				ctx := t.Context()
				w := newWebhook(t, store, "acme", test.webhook)
				d := newDelivery(t, store, newEvent(t, store, "acme", test.event), w, test.delivery)
				if test.deleted {
					require.NoError(t, store.DeleteWebhook(ctx, all, w.ID))
				}
				before, err := store.Tenant(all).Delivery(ctx, d.ID)
				require.NoError(t, err)
				_, err = store.Redeliver(ctx, models.Reach{Tenant: "rival"}, d.ID)
				require.ErrorIs(t, err, models.ErrNotFound)
				got, err := store.Redeliver(ctx, models.Reach{Tenant: "acme"}, d.ID)
				if err != nil {
					var not *models.NotAllowedError
					require.ErrorAs(t, err, &not)
					require.Equal(t, test.want, not.Message)
					after, err := store.Tenant(all).Delivery(ctx, d.ID)
					require.NoError(t, err)
					require.Equal(t, before, after)
					return
				}
				require.Equal(t, test.want, states(t, store, map[string]string{d.ID: "it"})["it"])
				require.Equal(t, models.TriggerManual, got.AttemptTrigger)
				require.Equal(t, d.Trigger, got.Trigger, "what made the delivery stays")
				require.Equal(t, d.Body, got.Body)
				require.Equal(t, d.AttemptCount, got.AttemptCount)
				require.Equal(t, d.ScheduleStep, got.ScheduleStep)
				require.Equal(t, d.SucceededAt, got.SucceededAt)
			})
		}
	})
}

// in is a delivery in this state.
func in(status models.DeliveryStatus, reason models.DeliveryStatusReason, attempts int) func(*models.Delivery) {
	return func(d *models.Delivery) {
		d.Status, d.AttemptCount, d.ScheduleStep, d.Body = status, attempts, attempts, new(`{"shaped":1}`)
		if reason != "" {
			d.StatusReason = &reason
		}
		if !status.Open() {
			d.NextAttemptAt, d.CompletedAt = nil, new(models.Instant(time.Now()))
		}
		if status == models.DeliverySucceeded {
			d.SucceededAt = d.CompletedAt
		}
	}
}
