package worker_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/worker"
	"github.com/intervengine/webhooks/worker/receivertest"
)

const disableAfter = 4 * time.Second

func shortLived(o *worker.Options) {
	o.DisableAfter = disableAfter
	o.Breaker.MinAttempts = 100_000
}

// about is the data of a notice.
type about struct {
	Webhook struct {
		ID, Name, TargetURL     string
		FailingSince, DisableAt *time.Time
	}
}

func (n notice) about(t *testing.T) about {
	t.Helper()
	var a about
	require.NoError(t, json.Unmarshal([]byte(n.data), &a))
	return a
}

func (s *stack) notified(t *testing.T, n int) []notice {
	t.Helper()
	s.eventually(t, func() (bool, string) { return len(s.notices.got()) >= n, fmt.Sprintf("%+v", s.notices.got()) })
	return s.notices.got()
}

func (s *stack) disabled(t *testing.T, id string) models.Webhook {
	t.Helper()
	var w models.Webhook
	s.eventually(t, func() (bool, string) {
		var err error
		w, err = s.store.WebhookByID(t.Context(), id)
		require.NoError(t, err)
		return w.Status == models.WebhookDisabled, string(w.Status)
	})
	return w
}

func (s *stack) health(t *testing.T, id string) models.WebhookHealth {
	t.Helper()
	all, err := s.store.Tenant(models.Reach{All: true}).Health(t.Context(), []string{id})
	require.NoError(t, err)
	return all[id]
}

// Several processes watch; each notice goes out once, and the end comes on time.
func TestD7_AWebhookThatOnlyFailsIsToldOfAndDisabled(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t, receivertest.Default(receivertest.Status(500)))
		w, _ := s.webhook(t, receiver.URL(), func(w *models.Webhook) {
			w.RetrySchedule = &models.Schedule{time.Millisecond, time.Hour}
		})
		s.start(t, shortLived)
		s.start(t, shortLived)
		id := s.emit(t, 1, w)[0].ID
		s.until(t, id, func(d models.Delivery) bool { return d.AttemptCount == 2 })
		since := *s.health(t, w.ID).FailingSince
		end := since.Add(disableAfter)

		first := s.notified(t, 1)[0]
		toldAt, err := s.store.Now(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "webhook.failing", first.eventType)
		assert.Equal(t, tenant, first.tenant)
		assert.Equal(t, w.ID, first.except, "never to the one that it is about")
		assert.False(t, toldAt.Before(since.Add(disableAfter/2)), "not before half time")
		assert.Equal(t, w.ID, first.about(t).Webhook.ID)
		assert.Equal(t, w.Name, first.about(t).Webhook.Name)
		assert.Equal(t, w.TargetURL, first.about(t).Webhook.TargetURL)
		assert.True(t, since.Equal(*first.about(t).Webhook.FailingSince))
		assert.True(t, end.Equal(*first.about(t).Webhook.DisableAt))

		got := s.disabled(t, w.ID)
		assert.Equal(t, models.ReasonFailing, *got.StatusReason)
		assert.False(t, got.UpdatedAt.Before(end), "not early")
		assert.Less(t, got.UpdatedAt.Sub(end), time.Second, "true to the second")
		d := s.ended(t, id)
		assert.Equal(t, models.DeliveryCancelled, d.Status)
		assert.Equal(t, models.ReasonWebhookDisabled, *d.StatusReason)

		second := s.notified(t, 2)[1]
		assert.Equal(t, "webhook.disabled", second.eventType)
		assert.True(t, got.UpdatedAt.Equal(*second.about(t).Webhook.DisableAt))
		assert.Len(t, s.notices.got(), 2)
	})
}

func TestD7_OneSuccessResetsTheClock(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t, receivertest.Default(receivertest.Status(500)))
		w, _ := s.webhook(t, receiver.URL(), func(w *models.Webhook) { w.RetrySchedule = &models.Schedule{} })
		s.start(t, shortLived)
		s.ended(t, s.emit(t, 1, w)[0].ID)
		s.notified(t, 1)
		receiver.Answer(receivertest.Status(200))
		s.ended(t, s.emit(t, 1, w)[0].ID)
		health := s.health(t, w.ID)
		assert.Nil(t, health.FailingSince)
		assert.Nil(t, health.NotifiedAt)

		// A run that ended may not disable, however late the sweep is that saw it.
		receiver.Answer(receivertest.Status(500))
		s.ended(t, s.emit(t, 1, w)[0].ID)
		fresh := *s.health(t, w.ID).FailingSince
		disabled, err := s.store.DisableFailing(t.Context(), w.ID, fresh.Add(-time.Hour))
		require.NoError(t, err)
		assert.False(t, disabled)
		again := s.notified(t, 2)
		assert.Equal(t, "webhook.failing", again[1].eventType)
		assert.True(t, fresh.Equal(*again[1].about(t).Webhook.FailingSince))
	})
}

func TestD6_AReceiverThatIsGoneIsToldOf(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *stack) {
		receiver := receivertest.New(t, receivertest.Default(receivertest.Status(410)))
		w, _ := s.webhook(t, receiver.URL())
		s.start(t)
		s.notices.failWith(errors.New("the database is away"))
		deliveries := s.emit(t, 10, w) // fewer than open the circuit
		for _, d := range deliveries {
			d = s.ended(t, d.ID)
			assert.Equal(t, models.DeliveryCancelled, d.Status)
			assert.Equal(t, models.ReasonGone, *d.StatusReason)
		}
		s.disabled(t, w.ID)
		// A new start makes up for what a crash or an outage cut short.
		s.notices.failWith(nil)
		s.start(t)
		told := s.notified(t, 1)
		assert.Equal(t, "webhook.disabled", told[0].eventType)
		assert.Equal(t, w.ID, told[0].except)

		// An edit of the disabled webhook is no news; another end is.
		reach := models.Reach{All: true}
		_, err := s.store.UpdateWebhook(t.Context(), reach, w.ID, nil, func(w *models.Webhook) error { w.Name = "Other"; return nil })
		require.NoError(t, err)
		_, err = s.store.SetWebhookStatus(t.Context(), reach, w.ID, models.WebhookActive, "", nil)
		require.NoError(t, err)
		s.ended(t, s.emit(t, 1, w)[0].ID)
		again := s.notified(t, 2)
		assert.Len(t, again, 2)
		assert.NotEqual(t, again[0].key, again[1].key)
	})
}
