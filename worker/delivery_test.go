package worker_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/signing"
	"github.com/intervengine/webhooks/worker"
	"github.com/intervengine/webhooks/worker/receivertest"
)

func TestD5_RetryAfter(t *testing.T) {
	t.Parallel()
	text := func(s string) func() string { return func() string { return s } }
	date := func(d time.Duration) func() string {
		return func() string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	}
	for name, test := range map[string]struct {
		status       int
		header       func() string
		least, atAll time.Duration
	}{
		"seconds":                     {429, text("120"), 120 * time.Second, 121 * time.Second},
		"seconds of a 503":            {503, text(" 7 "), 7 * time.Second, 8 * time.Second},
		"a date":                      {429, date(time.Hour), 59 * time.Minute, time.Hour},
		"more than the cap":           {429, text("604800"), 2 * time.Hour, 2*time.Hour + time.Second},
		"more than a number can hold": {503, text("99999999999999999999999"), 2 * time.Hour, 2*time.Hour + time.Second},
		"a date beyond the cap":       {503, date(240 * time.Hour), 2 * time.Hour, 2*time.Hour + time.Second},
		"a date in the past":          {429, date(-time.Hour), 27 * time.Minute, 34 * time.Minute},
		"zero":                        {429, text("0"), 27 * time.Minute, 34 * time.Minute},
		"malformed":                   {429, text("soon"), 27 * time.Minute, 34 * time.Minute},
		"negative":                    {429, text("-5"), 27 * time.Minute, 34 * time.Minute},
		"of a 500":                    {500, text("1"), 27 * time.Minute, 34 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, func(t *testing.T, s *stack) {
				receiver := receivertest.New(t, receivertest.Default(receivertest.Status(test.status, "Retry-After", test.header())))
				w, _ := s.webhook(t, receiver.URL(), func(w *models.Webhook) { w.RetrySchedule = &models.Schedule{30 * time.Minute} })
				p := s.bare(t, nil, func(o *worker.Options) { o.RetryAfterMax = 2 * time.Hour })
				id := s.emit(t, 1, w)[0].ID
				before, err := s.store.Now(t.Context())
				require.NoError(t, err)
				require.NoError(t, p.Handle(t.Context(), []string{id}))
				after, err := s.store.Now(t.Context())
				require.NoError(t, err)
				d := s.delivery(t, id)
				require.Equal(t, models.DeliveryRetrying, d.Status)
				assert.GreaterOrEqual(t, d.NextAttemptAt.Sub(before), test.least)
				assert.LessOrEqual(t, d.NextAttemptAt.Sub(after), test.atAll)
			})
		})
	}
}

func TestD4_JitterAndTheEndOfTheSchedule(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t, receivertest.Default(receivertest.Status(500)))
		w, _ := s.webhook(t, receiver.URL(), func(w *models.Webhook) { w.RetrySchedule = &models.Schedule{time.Hour} })
		p := s.bare(t, nil, func(o *worker.Options) { o.Breaker.MinAttempts = 1000 })
		deliveries := s.emit(t, 40, w)
		seen := map[time.Duration]bool{}
		for _, d := range deliveries {
			require.NoError(t, p.Handle(t.Context(), []string{d.ID}))
			d = s.delivery(t, d.ID)
			a := s.attempts(t, d.ID)[0]
			wait := d.NextAttemptAt.Sub(*a.EndedAt)
			assert.GreaterOrEqual(t, wait, 54*time.Minute)
			assert.LessOrEqual(t, wait, 66*time.Minute+time.Second)
			seen[wait.Round(time.Minute)] = true
		}
		assert.Greater(t, len(seen), 4, "spread over the whole tenth")

		none, _ := s.webhook(t, receiver.URL(), func(w *models.Webhook) { w.RetrySchedule = &models.Schedule{} })
		d := p.drive(t, s.emit(t, 1, none)[0].ID)
		assert.Equal(t, 1, d.AttemptCount)
		assert.Equal(t, "The only attempt failed; the webhook has no retries.", *d.StatusDetail)
	})
}

func TestW8_ATestIsAttemptedOnce(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t, receivertest.Default(receivertest.Status(503, "Retry-After", "1")))
		w, _ := s.webhook(t, receiver.URL())
		d := s.bare(t, nil).drive(t, s.emitAs(t, 1, models.TriggerTest, w)[0].ID)
		assert.Equal(t, models.DeliveryFailed, d.Status)
		a := s.attempts(t, d.ID)
		require.Len(t, a, 1)
		assert.Equal(t, models.TriggerTest, a[0].Trigger)
	})
}

func TestD13_RedeliveringGoesOnInTheSchedule(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t, receivertest.Default(receivertest.Status(500)))
		w, secret := s.webhook(t, receiver.URL(), func(w *models.Webhook) { w.RetrySchedule = &models.Schedule{time.Millisecond} })
		receiver.Secret(secret)
		p := s.bare(t, nil)
		id := p.drive(t, s.emit(t, 1, w)[0].ID).ID
		again := func() models.Delivery {
			_, err := s.store.Redeliver(t.Context(), models.Reach{All: true}, id)
			require.NoError(t, err)
			return p.drive(t, id)
		}
		failed := again()
		assert.Equal(t, models.DeliveryFailed, failed.Status)
		assert.Equal(t, 3, failed.AttemptCount, "one more, and no new schedule")
		receiver.Answer(receivertest.Status(200))
		assert.Equal(t, models.DeliverySucceeded, again().Status)
		// A redelivery that fails does not take the success back.
		receiver.Answer(receivertest.Status(500))
		assert.Equal(t, models.DeliverySucceeded, again().Status)

		attempts := s.attempts(t, id)
		require.Len(t, attempts, 5)
		for n, a := range attempts {
			want := models.TriggerManual
			if n < 2 {
				want = models.TriggerAutomatic
			}
			assert.Equal(t, want, a.Trigger)
		}
		requests := receiver.Requests()
		for _, r := range requests {
			assert.Equal(t, requests[0].ID(), r.ID())
			assert.Equal(t, requests[0].Body, r.Body)
			assert.NoError(t, r.SignatureErr)
		}
	})
}

// A fault of ours never counts as an attempt, and nothing is sent unsigned.
func TestUnreadableWebhook_Waits(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t)
		other, err := signing.ParseKeyring(signing.GenerateMasterKey())
		require.NoError(t, err)
		w, _ := s.webhook(t, receiver.URL())
		wrong := s.bare(t, nil, func(o *worker.Options) { o.Keyring = other })
		id := s.emit(t, 1, w)[0].ID
		require.NoError(t, wrong.Handle(t.Context(), []string{id}))
		d := s.delivery(t, id)
		assert.Equal(t, models.DeliveryPending, d.Status)
		assert.Zero(t, d.AttemptCount)
		assert.Nil(t, d.ClaimToken)
		assert.Greater(t, time.Until(*d.NextAttemptAt), 20*time.Second)
		assert.Contains(t, *d.StatusDetail, "fault of this server")
		assert.Empty(t, receiver.Requests())
		assert.InDelta(t, 1, heldFor(t, wrong, "fault"), 0)
	})
}

func heldFor(t *testing.T, p *process, reason string) float64 {
	t.Helper()
	families, err := p.metrics.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != "webhooks_held_back_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// Row 12 of the faults: it ends with a reason, the worker lives, and the others are not harmed.
func TestPanic_EndsThatDeliveryAlone(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t)
		broken, _ := s.webhook(t, receiver.URL())
		p := s.bare(t, nil)
		id := s.emit(t, 1, broken)[0].ID
		// Without a keyring opening the webhook panics.
		mad := s.bare(t, nil, func(o *worker.Options) {
			o.Keyring = nil
			o.Schedule = []time.Duration{10 * time.Millisecond, 10 * time.Millisecond}
		})
		d := mad.drive(t, id)
		assert.Equal(t, models.DeliveryFailed, d.Status)
		assert.Equal(t, models.ReasonRetriesExhausted, *d.StatusReason)
		assert.Contains(t, *d.StatusDetail, "internal fault")
		attempts := s.attempts(t, id)
		require.Len(t, attempts, 3)
		for _, a := range attempts {
			assert.Equal(t, models.OutcomeAbandoned, *a.Outcome)
		}
		assert.Empty(t, receiver.Requests())
		assert.NotContains(t, s.log.String(), eventData)

		healthy, _ := s.webhook(t, receiver.URL())
		assert.Equal(t, models.DeliverySucceeded, p.drive(t, s.emit(t, 1, healthy)[0].ID).Status)
	})
}

func TestW7_TheNewURLIsUsedByRetries(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		old := receivertest.New(t, receivertest.Default(receivertest.Status(500)))
		current := receivertest.New(t)
		w, secret := s.webhook(t, old.URL(), func(w *models.Webhook) { w.RetrySchedule = &models.Schedule{time.Millisecond} })
		current.Secret(secret)
		p := s.bare(t, nil)
		id := s.emit(t, 1, w)[0].ID
		require.NoError(t, p.Handle(t.Context(), []string{id}))
		_, err := s.store.UpdateWebhook(t.Context(), models.Reach{All: true}, w.ID, nil, func(w *models.Webhook) error {
			w.TargetURL = current.URL()
			return nil
		})
		require.NoError(t, err)
		require.NoError(t, s.store.AwaitQuiet(t.Context(), w.ID))
		assert.Equal(t, models.DeliverySucceeded, p.drive(t, id).Status)
		assert.Len(t, old.Requests(), 1)
		require.Len(t, current.Requests(), 1)
		assert.NoError(t, current.Requests()[0].SignatureErr)
	})
}

// Pausing, disabling and deleting beside a stream of attempts: once it is quiet, nothing comes.
func TestW7_NothingStartsAfterTheAnswer(t *testing.T) {
	t.Parallel()
	reach := models.Reach{All: true}
	for name, change := range map[string]func(ctx context.Context, s *stack, id string) error{
		"pause": func(ctx context.Context, s *stack, id string) error {
			_, err := s.store.SetWebhookStatus(ctx, reach, id, models.WebhookPaused, models.ReasonByUser, nil)
			return err
		},
		"disable": func(ctx context.Context, s *stack, id string) error {
			_, err := s.store.SetWebhookStatus(ctx, reach, id, models.WebhookDisabled, models.ReasonByUser, nil)
			return err
		},
		"delete": func(ctx context.Context, s *stack, id string) error { return s.store.DeleteWebhook(ctx, reach, id) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, func(t *testing.T, s *stack) {
				receiver := receivertest.New(t, receivertest.Default(receivertest.Delay(5*time.Millisecond, receivertest.Status(200))))
				w, _ := s.webhook(t, receiver.URL())
				s.start(t)
				deliveries := s.emit(t, 500, w)
				receiver.Wait(t, 20)
				require.NoError(t, change(t.Context(), s, w.ID))
				require.NoError(t, s.store.AwaitQuiet(t.Context(), w.ID))
				answered := time.Now()
				for _, d := range deliveries {
					s.until(t, d.ID, func(d models.Delivery) bool {
						return d.ClaimToken == nil && d.Status != models.DeliveryPending && d.Status != models.DeliveryRetrying
					})
				}
				for _, r := range receiver.Requests() {
					assert.False(t, r.At.After(answered), "request %d came %s after the answer", r.Number, r.At.Sub(answered))
				}
			})
		})
	}
}

// A stop waits for what is in flight, and hands back what the receiver holds when the grace ends.
func TestD11_AStopHandsBack(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t, receivertest.Default(receivertest.Hang()))
		w, _ := s.webhook(t, receiver.URL(), func(w *models.Webhook) { w.Timeout = new(models.Millis(20 * time.Second)) })
		p := s.start(t)
		id := s.emit(t, 1, w)[0].ID
		receiver.Wait(t, 1)
		p.stop()
		d := s.delivery(t, id)
		assert.Equal(t, models.DeliveryRetrying, d.Status)
		assert.Nil(t, d.ClaimToken)
		require.Len(t, s.attempts(t, id), 1)
		assert.Equal(t, models.OutcomeAbandoned, *s.attempts(t, id)[0].Outcome)

		receiver.Answer(receivertest.Status(200))
		s.start(t)
		assert.Equal(t, models.DeliverySucceeded, s.ended(t, id).Status)
		requests := receiver.ByID(d.EventID)
		require.Len(t, requests, 2)
		assert.Equal(t, requests[0].Body, requests[1].Body)
	})
}

func TestNoSecretInTheLog(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t, receivertest.Default(receivertest.Reply(500, "a body that no log may show")))
		w, secret := s.webhook(t, receiver.URL(), func(w *models.Webhook) { w.RetrySchedule = &models.Schedule{time.Millisecond} })
		s.bare(t, nil).drive(t, s.emit(t, 1, w)[0].ID)
		for _, canary := range []string{secret, strings.TrimPrefix(secret, "whsec_"), "p_1", "a body that no log may show"} {
			assert.NotContains(t, s.log.String(), canary)
		}
	})
}
