package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/intervengine/webhooks/models"
)

// Notifier emits the system's own events: *intake.Intake. The event goes to the tenant's webhooks
// that named its type, never to the one that it is about, and once for a key.
type Notifier interface {
	EmitNotice(ctx context.Context, tenant, eventType string, data []byte, key, exceptWebhookID string) error
}

// The types of the notices.
const (
	noticeFailing  = "webhook.failing"
	noticeDisabled = "webhook.disabled"
)

const (
	healthLease = "webhook-health"
	// healthPage bounds what one look at the database takes.
	healthPage = 200
	// toldWithin is how long after a webhook was disabled its notice is still made up for: well
	// within the time for which an idempotency key holds, so that it is never sent twice.
	toldWithin = 20 * time.Hour
	// toldMax bounds how many of those a look at the database takes.
	toldMax = 2000
	// The bounds of the time between two sweeps; what is known to fall due is met on time.
	shortestSweep = 20 * time.Millisecond
	longestSweep  = 30 * time.Second
)

// health is the duty that watches over webhooks that only fail: at half of DisableAfter the tenant
// is told, at the end the webhook is disabled. It also tells of webhooks that were disabled
// because their receivers are gone.
//
// Everything it does follows from what stands in the database, and each notice has a key of its
// own: what a crash cut short is made up for by the next sweep, and nothing happens twice. One
// process at a time sweeps, by a lease.
//
// There is no loop: a webhook that fails to take notices is told of like any other, once in a run
// of failures, and never to itself.
type health struct {
	store    *models.Store
	notifier Notifier
	log      *slog.Logger
	after    time.Duration
	holder   string
	kicked   chan struct{}
	told     map[string]bool // notices that went out, by key
}

func newHealth(opt Options) *health {
	return &health{
		store: opt.Store, notifier: opt.Notifier, log: opt.Logger, after: opt.DisableAfter, holder: uuid.NewString(),
		kicked: make(chan struct{}, 1), told: map[string]bool{},
	}
}

// RunHealth disables webhooks that only fail and sends the notices about them, until ctx ends. The
// Notifier must be running.
func (w *Worker) RunHealth(ctx context.Context) error { return w.health.run(ctx) }

// kick makes the next sweep come now: a webhook was disabled.
func (h *health) kick() {
	select {
	case h.kicked <- struct{}{}:
	default:
	}
}

func (h *health) interval() time.Duration {
	return min(max(h.after/20, shortestSweep), longestSweep)
}

func (h *health) run(ctx context.Context) error {
	defer func() {
		// Another process may take over at once; else the lease runs out by itself.
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = h.store.ReleaseLease(release, healthLease, h.holder)
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-h.kicked:
			// Its key makes the notice one, whoever has the lease.
			if err := h.tellDisabled(ctx); err != nil && ctx.Err() == nil {
				h.log.WarnContext(ctx, "notices delayed", "error", err)
			}
			continue
		}
		next := h.interval()
		ours, err := h.store.AcquireLease(ctx, healthLease, h.holder, 3*longestSweep)
		if err == nil && ours {
			next, err = h.sweep(ctx)
		}
		if err != nil && ctx.Err() == nil {
			h.log.WarnContext(ctx, "health sweep incomplete", "error", err)
		}
		timer.Reset(next)
	}
}

// sweep does what is due and says when to come again.
func (h *health) sweep(ctx context.Context) (time.Duration, error) {
	now, err := h.store.Now(ctx)
	if err != nil {
		return h.interval(), err
	}
	next := h.interval()
	soon := func(due time.Time) bool {
		wait := due.Sub(now)
		if wait > 0 {
			next = min(next, max(wait, shortestSweep))
		}
		return wait > 0
	}
	ahead := h.interval()
	done := 0
	failing, listErr := h.store.FailingWebhooks(ctx, h.after-ahead, healthPage)
	errs := []error{listErr}
	for _, f := range failing {
		if !soon(f.Health.FailingSince.Add(h.after)) {
			errs = append(errs, h.disable(ctx, f))
			done++
		}
	}
	failing, listErr = h.store.FailingWebhooks(ctx, h.after/2-ahead, healthPage)
	errs = append(errs, listErr)
	for _, f := range failing {
		if f.Health.NotifiedAt == nil && !soon(f.Health.FailingSince.Add(h.after/2)) {
			errs = append(errs, h.tellFailing(ctx, f))
			done++
		}
	}
	errs = append(errs, h.tellDisabled(ctx))
	if err := errors.Join(errs...); err != nil || done < healthPage {
		return next, err
	}
	return shortestSweep, nil // there may be more
}

func (h *health) disable(ctx context.Context, f models.FailingWebhook) error {
	disabled, err := h.store.DisableFailing(ctx, f.ID, *f.Health.FailingSince)
	if disabled {
		h.log.InfoContext(ctx, "webhook disabled, it only failed", "webhook", f.ID, "failing_since", *f.Health.FailingSince)
	}
	if err != nil && !errors.Is(err, models.ErrNotFound) {
		return fmt.Errorf("disable webhook: %w", err)
	}
	return nil
}

func (h *health) tellFailing(ctx context.Context, f models.FailingWebhook) error {
	since := *f.Health.FailingSince
	disableAt := since.Add(h.after)
	key := fmt.Sprintf("%s:%s:%d", noticeFailing, f.ID, since.UnixMicro())
	if err := h.tell(ctx, f.Webhook, noticeFailing, key, &since, &disableAt); err != nil {
		return err
	}
	if _, err := h.store.MarkNotified(ctx, f.ID, since); err != nil {
		return fmt.Errorf("mark as notified: %w", err)
	}
	return nil
}

// tellDisabled sends the notices about webhooks that the system disabled and that were not told of.
func (h *health) tellDisabled(ctx context.Context) error {
	disabled, err := h.store.AutoDisabled(ctx, toldWithin, toldMax)
	if err != nil {
		return fmt.Errorf("look for disabled webhooks: %w", err)
	}
	var errs []error
	for _, d := range disabled {
		// By the revision that disabled it: an edit of a disabled webhook is no news.
		key := fmt.Sprintf("%s:%s:%d", noticeDisabled, d.ID, d.DisabledBy)
		errs = append(errs, h.tell(ctx, d.Webhook, noticeDisabled, key, d.FailingSince, &d.DisabledAt))
	}
	return errors.Join(errs...)
}

func (h *health) tell(ctx context.Context, w models.Webhook, eventType, key string, failingSince, disableAt *time.Time) error {
	if h.told[key] {
		return nil
	}
	data, err := noticeData(w, failingSince, disableAt)
	if err != nil {
		return err
	}
	err = h.notifier.EmitNotice(ctx, w.Tenant, eventType, data, key, w.ID)
	var problems models.Problems
	switch {
	case errors.As(err, &problems), errors.Is(err, models.ErrIdempotencyMismatch):
		// Told before under this key, when the webhook had another name or URL. Anything else that
		// is wrong with the notice will be so the next time.
		h.log.DebugContext(ctx, "notice not taken", "webhook", w.ID, "event_type", eventType, "error", err)
	case err != nil:
		return fmt.Errorf("emit %s: %w", eventType, err)
	default:
		h.log.InfoContext(ctx, "notice sent", "webhook", w.ID, "event_type", eventType)
	}
	if len(h.told) >= 2*toldMax {
		clear(h.told)
	}
	h.told[key] = true
	return nil
}

func noticeData(w models.Webhook, failingSince, disableAt *time.Time) ([]byte, error) {
	text := func(t *time.Time) *string {
		if t == nil {
			return nil
		}
		s := models.FormatTime(*t)
		return &s
	}
	type about struct {
		ID           string  `json:"id"`
		Name         string  `json:"name"`
		TargetURL    string  `json:"targetUrl"`
		FailingSince *string `json:"failingSince"`
		DisableAt    *string `json:"disableAt"`
	}
	data, err := json.Marshal(map[string]about{"webhook": {
		ID: w.ID, Name: w.Name, TargetURL: w.TargetURL, FailingSince: text(failingSince), DisableAt: text(disableAt),
	}})
	if err != nil {
		return nil, fmt.Errorf("write notice: %w", err)
	}
	return data, nil
}
