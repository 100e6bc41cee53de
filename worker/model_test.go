package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/worker"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// The retry schedule of the model's webhook has this many steps.
const modelSteps = 2

// life is the reference model: one delivery of one webhook, as a person would write it down.
type life struct {
	Status    models.DeliveryStatus
	Reason    models.DeliveryStatusReason
	Webhook   models.WebhookStatus
	Attempts  int // in history
	Count     int // of them, what is not made again
	Requests  int // at the receiver
	Step      int // of the schedule that are used up
	Succeeded bool
	manual    bool // the next attempt was asked for
}

func (l *life) claimable() bool {
	return l.Webhook == models.WebhookActive && (l.Status == models.DeliveryPending || l.Status == models.DeliveryRetrying)
}

func (l *life) is(status models.DeliveryStatus, reason models.DeliveryStatusReason) {
	l.Status, l.Reason = status, reason
}

// fails ends it as that, unless the receiver has had it before.
func (l *life) fails(status models.DeliveryStatus, reason models.DeliveryStatusReason) {
	if l.Succeeded {
		status, reason = models.DeliverySucceeded, ""
	}
	l.is(status, reason)
}

func (l *life) attempt(answer string) {
	if !l.claimable() {
		return
	}
	l.Attempts++
	l.Requests++
	l.answered(answer)
}

// answered is an attempt whose outcome is known.
func (l *life) answered(answer string) {
	manual := l.manual
	l.manual = false
	l.Count++
	switch answer {
	case "ok", "ok-disable":
		l.Succeeded = true
		l.is(models.DeliverySucceeded, "")
	case "gone":
		l.fails(models.DeliveryCancelled, models.ReasonGone)
	case "abort":
		l.fails(models.DeliveryCancelled, models.ReasonAbortedByReceiver)
	default:
		if l.Step >= modelSteps {
			l.fails(models.DeliveryFailed, models.ReasonRetriesExhausted)
			break
		}
		if !manual {
			l.Step++
		}
		l.fails(models.DeliveryRetrying, "")
	}
	if answer == "gone" || answer == "ok-disable" {
		l.Webhook = models.WebhookDisabled
	}
}

// crash is a worker that dies in the attempt, before or after its request; with an answer it only slept,
// and tells it late.
func (l *life) crash(answer string) {
	if !l.claimable() {
		return
	}
	l.Attempts++
	l.is(models.DeliveryRetrying, "")
	if answer != "" {
		l.answered(answer)
	}
}

func (l *life) pause() {
	if l.Webhook != models.WebhookActive {
		return
	}
	l.Webhook = models.WebhookPaused
	if l.Status == models.DeliveryPending || l.Status == models.DeliveryRetrying {
		l.is(models.DeliveryHeld, models.ReasonWebhookPaused)
	}
}

func (l *life) resume() {
	l.Webhook = models.WebhookActive
	if l.Status == models.DeliveryHeld {
		l.reopen()
	}
}

func (l *life) reopen() {
	if l.Attempts > 0 {
		l.is(models.DeliveryRetrying, "")
	} else {
		l.is(models.DeliveryPending, "")
	}
}

func (l *life) disable() {
	if l.Webhook == models.WebhookDisabled {
		return
	}
	l.Webhook = models.WebhookDisabled
	if l.Status.Open() {
		l.is(models.DeliveryCancelled, models.ReasonWebhookDisabled)
	}
}

func (l *life) cancel() {
	if l.Status.Open() {
		l.is(models.DeliveryCancelled, models.ReasonCancelledByUser)
	}
}

func (l *life) redeliver() {
	if l.Status.Open() || l.Webhook == models.WebhookDisabled {
		return
	}
	l.manual = true
	if l.Webhook == models.WebhookPaused {
		l.is(models.DeliveryHeld, models.ReasonWebhookPaused)
		return
	}
	l.reopen()
}

// act does a step to the model.
func (l *life) act(step string) {
	switch step {
	case "crash", "sleep", "sleep-error":
		l.crash(late[step])
	case "pause":
		l.pause()
	case "resume":
		l.resume()
	case "disable":
		l.disable()
	case "cancel":
		l.cancel()
	case "redeliver":
		l.redeliver()
	default:
		l.attempt(step)
	}
}

// late is what a worker that slept tells at last; one that crashed says nothing.
var late = map[string]string{"sleep": "ok", "sleep-error": "error"}

// world is the real thing: one delivery among those that live at the same time.
type world struct {
	t       testing.TB
	s       *stack
	worker  *process
	scripts *scripts
	webhook models.Webhook
	id      string
	event   string
}

// scripts says what the receiver answers to each event's request, and counts them.
type scripts struct {
	mu       sync.Mutex
	next     map[string]string
	requests map[string]int
}

func (s *scripts) set(event, step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next[event] = step
}

func (s *scripts) came(event string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[event]
}

func (s *scripts) answer(x *receivertest.Exchange) {
	s.mu.Lock()
	step := s.next[x.Request.ID()]
	s.requests[x.Request.ID()]++
	s.mu.Unlock()
	answers[step](x)
}

var answers = map[string]receivertest.Answer{
	"ok": receivertest.Status(200), "ok-disable": receivertest.Status(200, "Webhook-Delivery", "disable"),
	"gone": receivertest.Status(410), "abort": receivertest.Status(422, "Webhook-Delivery", "abort-message"),
	"error": receivertest.Status(500), "reset": receivertest.ResetBeforeHeaders(),
}

// act does a step to the real thing. What it may not do now is refused, and no error.
func (w *world) act(step string, claimable bool) error {
	ctx, reach := context.Background(), models.Reach{All: true}
	var err error
	switch step {
	case "crash", "sleep", "sleep-error":
		err = w.crash(ctx, late[step], claimable)
	case "pause":
		_, err = w.s.store.SetWebhookStatus(ctx, reach, w.webhook.ID, models.WebhookPaused, models.ReasonByUser, nil)
	case "resume":
		_, err = w.s.store.SetWebhookStatus(ctx, reach, w.webhook.ID, models.WebhookActive, "", nil)
	case "disable":
		_, err = w.s.store.SetWebhookStatus(ctx, reach, w.webhook.ID, models.WebhookDisabled, models.ReasonByUser, nil)
	case "cancel":
		_, err = w.s.store.CancelDelivery(ctx, reach, w.id)
	case "redeliver":
		_, err = w.s.store.Redeliver(ctx, reach, w.id)
	default:
		w.scripts.set(w.event, step)
		before := w.s.delivery(w.t, w.id).AttemptCount
		w.s.eventually(w.t, func() (bool, string) {
			err = w.worker.Handle(ctx, []string{w.id})
			d := w.s.delivery(w.t, w.id)
			// Not due for a millisecond, or given back because this machine is busy.
			return err != nil || !claimable || d.AttemptCount > before, describe(d)
		})
	}
	if _, ok := errors.AsType[*models.NotAllowedError](err); ok {
		return nil
	}
	return err
}

// crash claims as a worker would, and lets the claim run out. An answer is recorded late.
func (w *world) crash(ctx context.Context, answer string, claimable bool) error {
	token := models.NewID("tok_")
	var claims models.Claims
	w.s.eventually(w.t, func() (bool, string) {
		var err error
		claims, err = w.s.store.Claim(ctx, []string{w.id}, token, time.Millisecond)
		require.NoError(w.t, err)
		return !claimable || len(claims.Claimed) > 0, describe(w.s.delivery(w.t, w.id))
	})
	if len(claims.Claimed) == 0 {
		return nil
	}
	w.s.eventually(w.t, func() (bool, string) {
		_, _, err := w.s.store.ExpireClaims(ctx, models.DueCursor{}, 1000)
		require.NoError(w.t, err)
		d := w.s.delivery(w.t, w.id)
		return d.ClaimToken == nil, describe(d)
	})
	if answer == "" {
		return nil
	}
	c, now := claims.Claimed[0], models.Instant(time.Now())
	outcome, status, disposition := models.OutcomeSuccess, 200, models.Succeeded()
	switch {
	case answer == "ok":
	case c.ScheduleStep >= modelSteps:
		outcome, status, disposition = models.OutcomeHTTPError, 500, models.Ended(models.DeliveryFailed, models.ReasonRetriesExhausted, "")
	default:
		outcome, status, disposition = models.OutcomeHTTPError, 500, models.RetryAfter(time.Millisecond)
	}
	_, err := w.s.store.Record(ctx, []models.AttemptRecord{{
		Attempt: models.Attempt{
			DeliveryID: w.id, Number: c.Number, Tenant: c.Tenant, Token: token, Trigger: c.Trigger, StartedAt: now, EndedAt: &now,
			Outcome: &outcome, ResponseStatus: &status, RequestHeaders: models.Headers{},
		},
		WebhookID: w.webhook.ID, EventType: c.EventType, Disposition: disposition,
	}})
	return err
}

// looks is how the real thing stands.
func (w *world) looks() life {
	d := w.s.delivery(w.t, w.id)
	webhook, err := w.s.store.WebhookByID(context.Background(), w.webhook.ID)
	require.NoError(w.t, err)
	l := life{
		Status: d.Status, Webhook: webhook.Status, Attempts: len(w.s.attempts(w.t, w.id)), Count: d.AttemptCount, Requests: w.scripts.came(w.event),
		Step: d.ScheduleStep, Succeeded: d.SucceededAt != nil,
	}
	if d.StatusReason != nil {
		l.Reason = *d.StatusReason
	}
	return l
}

// live does the steps to the real thing and to the model, and says where they part.
func (w *world) live(steps []string) error {
	model := life{Status: models.DeliveryPending, Webhook: models.WebhookActive}
	for n, step := range steps {
		so := strings.Join(steps[:n+1], ", ")
		if err := w.act(step, model.claimable()); err != nil {
			return fmt.Errorf("%s: %w", so, err)
		}
		model.act(step)
		got, want := w.looks(), model
		want.manual = false
		if got != want {
			return fmt.Errorf("after %s:\n it is  %+v\n should %+v", so, got, want)
		}
	}
	return nil
}

// livesAtOnce is how many deliveries live at the same time, in the same batches and transactions.
const livesAtOnce = 10

// Random lives of deliveries: answers of the receiver, calls of the API, workers that die and that
// wake up too late, against the model; 1,000 lives a run on each stack. A failure shrinks to the steps
// that show it.
func TestDelivery_Model(t *testing.T) {
	t.Parallel()
	// What the receiver answers is what happens most.
	kinds := []string{"ok", "error", "error", "error", "reset", "gone", "abort", "ok-disable", "crash", "crash", "sleep", "sleep-error", "pause", "resume", "resume", "disable", "cancel", "redeliver", "redeliver"}
	onEach(t, func(t *testing.T, s *stack) {
		all := &scripts{next: map[string]string{}, requests: map[string]int{}}
		receiver := receivertest.New(t, receivertest.Default(all.answer))
		p := s.bare(t, nil, func(o *worker.Options) { o.Breaker.MinAttempts = 1_000_000 })
		rapid.Check(t, func(rt *rapid.T) {
			failures := make([]error, livesAtOnce)
			var living sync.WaitGroup
			for n := range failures {
				steps := rapid.SliceOfN(rapid.SampledFrom(kinds), 0, 16).Draw(rt, "life")
				if len(steps) == 0 {
					continue
				}
				w := &world{t: t, s: s, worker: p, scripts: all}
				w.webhook, _ = s.webhook(t, receiver.URL(), func(w *models.Webhook) {
					w.RetrySchedule = new(models.Schedule(slices.Repeat([]time.Duration{time.Millisecond}, modelSteps)))
				})
				d := s.emit(t, 1, w.webhook)[0]
				w.id, w.event = d.ID, d.EventID
				living.Go(func() { failures[n] = w.live(steps) })
			}
			living.Wait()
			if err := errors.Join(failures...); err != nil {
				rt.Fatal(err)
			}
		})
	})
}
