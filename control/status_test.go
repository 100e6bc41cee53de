package control_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/models"
)

// emit commits one event with n deliveries to w, as intake would.
func (f *fixture) emit(t *testing.T, w models.Webhook, n int, change func(*models.NewEvent)) models.EventResult {
	t.Helper()
	event := models.NewEvent{Event: models.Event{
		Tenant: w.Tenant, EventType: "participant.created", Data: new(`{"participant":{"id":"p1"}}`),
		Timestamp: models.Instant(time.Now()), Matched: n,
	}}
	for range n {
		event.Deliveries = append(event.Deliveries, models.Delivery{
			WebhookID: w.ID, Revision: w.Revision, Trigger: models.TriggerAutomatic, AttemptTrigger: models.TriggerAutomatic,
		})
	}
	if change != nil {
		change(&event)
	}
	results, err := f.store.CommitEvents(t.Context(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
		return []models.NewEvent{event}, nil
	})
	require.NoError(t, err)
	require.NoError(t, results[0].Err)
	return results[0]
}

func (f *fixture) delivery(t *testing.T, id string) models.Delivery {
	t.Helper()
	d, err := f.store.Tenant(models.Reach{All: true}).Delivery(t.Context(), id)
	require.NoError(t, err)
	return d
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, nil)
		first, second := f.emit(t, w, 1, nil).Deliveries[0], f.emit(t, w, 1, nil).Deliveries[0]
		for range 2 {
			paused, err := f.PauseWebhook(t.Context(), f.acme, w.ID)
			require.NoError(t, err, "pausing twice is no fault")
			require.Equal(t, models.WebhookPaused, paused.Status)
			require.Equal(t, models.ReasonByUser, *paused.StatusReason)
			require.Equal(t, 1, paused.Version, "version guards edits, not the status")
		}
		require.Equal(t, models.DeliveryHeld, f.delivery(t, first.ID).Status)
		_, err := f.TestWebhook(t.Context(), f.acme, w.ID, nil, nil)
		requireProblems(t, err, found{"NOT_ALLOWED_NOW", "id"})

		f.queue.err = errors.New("redis away")
		resumed, err := f.ResumeWebhook(t.Context(), f.acme, w.ID)
		require.NoError(t, err, "a queue that is away delays, and never fails")
		require.Equal(t, models.WebhookActive, resumed.Status)
		require.Nil(t, resumed.StatusReason)
		require.Equal(t, models.DeliveryPending, f.delivery(t, first.ID).Status)
		require.Len(t, f.queue.items, 2)
		require.Equal(t, first.ID, f.queue.items[0].DeliveryID, "oldest first")
		require.Equal(t, second.ID, f.queue.items[1].DeliveryID)
		require.False(t, f.queue.items[0].At.After(time.Now()))
		_, err = f.ResumeWebhook(t.Context(), f.acme, w.ID)
		require.NoError(t, err)
		require.Len(t, f.queue.items, 2)
	})
}

// What waits for a rate goes on at a higher one; what waits for something else stays as it is.
func TestARaisedRateHastensWhatWaitsForIt(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, func(in *control.WebhookInput) { in.RateLimitPerSecond = new(2) })
		limited, open, parked, claimed := f.emit(t, w, 1, nil).Deliveries[0].ID, f.emit(t, w, 1, nil).Deliveries[0].ID,
			f.emit(t, w, 1, nil).Deliveries[0].ID, f.emit(t, w, 1, nil).Deliveries[0].ID
		hold := func() {
			for id, why := range map[string]models.Release{
				limited: {Reason: new(models.ReasonRateLimited), Detail: "for its rate"},
				open:    {Reason: new(models.ReasonCircuitOpen), Detail: "for its circuit"},
				parked:  {Reason: new(models.ReasonRateLimited), Detail: models.DetailShare},
			} {
				claims, err := f.store.Claim(t.Context(), []string{id}, "a worker's", time.Minute)
				require.NoError(t, err)
				if len(claims.Claimed) > 0 {
					why.DeliveryID, why.Token, why.After = id, "a worker's", time.Hour
					_, err = f.store.Release(t.Context(), []models.Release{why})
					require.NoError(t, err)
				}
			}
		}
		hold()
		_, err := f.store.Claim(t.Context(), []string{claimed}, "a worker's", time.Minute)
		require.NoError(t, err)
		for _, step := range []struct {
			rate    control.Field[int]
			hastens bool
		}{
			{set(2), false}, {set(1), false}, {set(9), true}, {set(8), false}, {null[int](), true}, {set(5), false},
		} {
			f.queue.items = nil
			before := f.delivery(t, limited)
			_, err := f.UpdateWebhook(t.Context(), f.acme, w.ID, control.WebhookChange{RateLimitPerSecond: step.rate}, nil)
			require.NoError(t, err)
			for _, id := range []string{open, parked} {
				require.True(t, f.delivery(t, id).NextAttemptAt.After(time.Now()))
			}
			if !step.hastens {
				require.Empty(t, f.queue.items)
				require.Equal(t, before.NextAttemptAt, f.delivery(t, limited).NextAttemptAt)
				continue
			}
			require.Len(t, f.queue.items, 1)
			require.Equal(t, limited, f.queue.items[0].DeliveryID)
			require.False(t, f.delivery(t, limited).NextAttemptAt.After(time.Now()))
			hold()
		}
	})
}

func TestDisable(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, nil)
		open := f.emit(t, w, 1, nil).Deliveries[0]
		disabled, err := f.DisableWebhook(t.Context(), f.acme, w.ID)
		require.NoError(t, err)
		require.Equal(t, models.WebhookDisabled, disabled.Status)
		d := f.delivery(t, open.ID)
		require.Equal(t, models.DeliveryCancelled, d.Status)
		require.Equal(t, models.ReasonWebhookDisabled, *d.StatusReason)
		_, err = f.PauseWebhook(t.Context(), f.acme, w.ID)
		requireProblems(t, err, found{"NOT_ALLOWED_NOW", "id"})
		_, err = f.Redeliver(t.Context(), f.acme, d.ID)
		requireProblems(t, err, found{"NOT_ALLOWED_NOW", "deliveryId"})
		_, err = f.ResumeWebhook(t.Context(), f.acme, w.ID)
		require.NoError(t, err)
		require.Equal(t, models.DeliveryCancelled, f.delivery(t, open.ID).Status, "what has ended stays ended")
	})
}

func TestDelete(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, nil)
		open := f.emit(t, w, 1, nil).Deliveries[0]
		require.NoError(t, f.DeleteWebhook(t.Context(), f.acme, w.ID))
		d := f.delivery(t, open.ID)
		require.Equal(t, models.DeliveryCancelled, d.Status)
		require.Equal(t, models.ReasonWebhookDeleted, *d.StatusReason)
		stored, err := f.store.Tenant(f.acme.Reach()).Webhook(t.Context(), w.ID)
		require.NoError(t, err, "history stays readable")
		require.NotNil(t, stored.DeletedAt)
	})
}

// A claim younger than a second may still start its attempt, so nothing that promises an end of
// attempts answers before it is given back, or that second is over.
func TestChangesWaitForYoungClaims(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		calls := map[string]func(ctx context.Context, w models.Webhook, d models.Delivery) error{
			"pause": func(ctx context.Context, w models.Webhook, _ models.Delivery) error {
				_, err := f.PauseWebhook(ctx, f.acme, w.ID)
				return err
			},
			"disable": func(ctx context.Context, w models.Webhook, _ models.Delivery) error {
				_, err := f.DisableWebhook(ctx, f.acme, w.ID)
				return err
			},
			"delete": func(ctx context.Context, w models.Webhook, _ models.Delivery) error {
				return f.DeleteWebhook(ctx, f.acme, w.ID)
			},
			"new URL": func(ctx context.Context, w models.Webhook, _ models.Delivery) error {
				_, err := f.UpdateWebhook(ctx, f.acme, w.ID, control.WebhookChange{TargetURL: set("https://new.example/")}, nil)
				return err
			},
			"cancel delivery": func(ctx context.Context, _ models.Webhook, d models.Delivery) error {
				_, err := f.CancelDelivery(ctx, f.acme, d.ID)
				return err
			},
			"cancel event": func(ctx context.Context, _ models.Webhook, d models.Delivery) error {
				_, _, err := f.CancelEvent(ctx, f.acme, d.EventID)
				return err
			},
		}
		for name, call := range calls {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := f.create(t, nil)
				d := f.emit(t, w, 1, nil).Deliveries[0]
				claims, err := f.store.Claim(t.Context(), []string{d.ID}, "token", time.Minute)
				require.NoError(t, err)
				require.Len(t, claims.Claimed, 1)
				claimed := time.Now()
				require.NoError(t, call(t.Context(), w, d))
				require.GreaterOrEqual(t, time.Since(claimed), 900*time.Millisecond)
				require.Less(t, time.Since(claimed), 30*time.Second, "the lease of a minute is not waited for")
			})
		}
		least := time.Hour // of several: a busy machine may hold any one up
		for range 5 {
			w := f.create(t, nil)
			d := f.emit(t, w, 1, nil).Deliveries[0]
			_, err := f.store.Claim(t.Context(), []string{d.ID}, "token", time.Minute)
			require.NoError(t, err)
			claimed := time.Now()
			_, err = f.UpdateWebhook(t.Context(), f.acme, w.ID, control.WebhookChange{Name: set("renamed")}, nil)
			require.NoError(t, err)
			least = min(least, time.Since(claimed))
		}
		require.Less(t, least, 900*time.Millisecond, "a change of the name waits for nothing")
	})
}

func TestCancelAndRedeliver(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, nil)
		result := f.emit(t, w, 3, func(e *models.NewEvent) { e.DeliverAt = new(models.Instant(time.Now().Add(time.Hour))) })
		one := result.Deliveries[0].ID
		_, err := f.Redeliver(t.Context(), f.acme, one)
		requireProblems(t, err, found{"NOT_ALLOWED_NOW", "deliveryId"})
		cancelled, err := f.CancelDelivery(t.Context(), f.acme, one)
		require.NoError(t, err)
		require.Equal(t, models.DeliveryCancelled, cancelled.Status)
		require.Equal(t, models.ReasonCancelledByUser, *cancelled.StatusReason)
		_, err = f.CancelDelivery(t.Context(), f.acme, one)
		requireProblems(t, err, found{"NOT_ALLOWED_NOW", "deliveryId"})

		event, n, err := f.CancelEvent(t.Context(), f.acme, result.Event.ID)
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.Equal(t, result.Event.ID, event.ID)
		_, n, err = f.CancelEvent(t.Context(), f.acme, result.Event.ID)
		require.NoError(t, err)
		require.Zero(t, n)

		due := f.emit(t, w, 1, nil).Deliveries[0].ID
		_, err = f.CancelDelivery(t.Context(), f.acme, due)
		require.NoError(t, err)
		again, err := f.Redeliver(t.Context(), f.acme, due)
		require.NoError(t, err)
		require.Equal(t, models.DeliveryPending, again.Status)
		require.Equal(t, models.TriggerManual, again.AttemptTrigger)
		require.Len(t, f.queue.items, 1)
		require.Equal(t, due, f.queue.items[0].DeliveryID)

		for name, call := range map[string]func(id string) error{
			"redeliver": func(id string) error { _, err := f.Redeliver(t.Context(), f.other, id); return err },
			"cancel":    func(id string) error { _, err := f.CancelDelivery(t.Context(), f.other, id); return err },
		} {
			t.Log(name)
			want := requireProblems(t, call(models.NewID(models.PrefixDelivery)), found{"NOT_FOUND", "deliveryId"})
			require.Equal(t, want, requireProblems(t, call(due), found{"NOT_FOUND", "deliveryId"}))
			require.Equal(t, want, requireProblems(t, call("nonsense"), found{"NOT_FOUND", "deliveryId"}))
		}
		_, _, err = f.CancelEvent(t.Context(), f.other, result.Event.ID)
		requireProblems(t, err, found{"NOT_FOUND", "id"})
	})
}

func TestTestWebhook(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, func(in *control.WebhookInput) { in.EventTypes = []string{"message.*", "participant.created"} })
		d, err := f.TestWebhook(t.Context(), f.acme, w.ID, nil, nil)
		require.NoError(t, err)
		require.Equal(t, w.ID, d.WebhookID)
		require.Equal(t, "message.sent", f.tester.eventType, "the first that it is subscribed to")
		require.Contains(t, f.tester.data, `"message"`)

		_, err = f.TestWebhook(t.Context(), f.acme, w.ID, new("participant.tags_added"), []byte(`{"x":1.10}`))
		require.NoError(t, err)
		require.Equal(t, "participant.tags_added", f.tester.eventType)
		require.Equal(t, `{"x":1.10}`, f.tester.data)

		_, err = f.TestWebhook(t.Context(), f.acme, w.ID, new("nope"), nil)
		requireProblems(t, err, found{"UNKNOWN_EVENT_TYPE", "eventType"})
		_, err = f.TestWebhook(t.Context(), f.acme, w.ID, new(""), nil)
		requireProblems(t, err, found{"REQUIRED", "eventType"})
		_, err = f.store.UpsertEventType(t.Context(), "bare.type", func(*models.EventType) error { return nil })
		require.NoError(t, err)
		_, err = f.TestWebhook(t.Context(), f.acme, w.ID, new("bare.type"), nil)
		requireProblems(t, err, found{"REQUIRED", "data"})

		later := f.create(t, func(in *control.WebhookInput) { in.EventTypes = []string{"later.*"} })
		_, err = f.TestWebhook(t.Context(), f.acme, later.ID, nil, nil)
		requireProblems(t, err, found{"REQUIRED", "eventType"})
	})
}
