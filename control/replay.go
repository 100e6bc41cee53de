package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

const (
	// maxReplayKey bounds the idempotency key of a replay.
	maxReplayKey = 255
	// maxReplayList bounds each of its lists.
	maxReplayList = 100
	// replayPage is how many events are read and decided about at once.
	replayPage = 500
	// countWithin bounds the counting of a replay.
	countWithin = 20 * time.Second
)

// ReplayInput asks for events to be sent once more to one webhook, under its current configuration.
type ReplayInput struct {
	WebhookID  string
	Since      time.Time  // of the events' creation, inclusive
	Until      *time.Time // exclusive; nil: now
	Statuses   []models.DeliveryStatus
	EventTypes []string
	// IncludeUnmatched takes in events that the webhook had no delivery of, where its subscription and
	// its filter of now match them.
	IncludeUnmatched bool
	IdempotencyKey   *string
}

// hash is what must be the same for two calls under one idempotency key.
func (in ReplayInput) hash() string {
	h := sha256.New()
	until := ""
	if in.Until != nil {
		until = models.Instant(*in.Until).Format(time.RFC3339Nano)
	}
	fmt.Fprintf(h, "%q %q %q %q %q %t", in.WebhookID, models.Instant(in.Since).Format(time.RFC3339Nano), until,
		in.Statuses, in.EventTypes, in.IncludeUnmatched)
	return hex.EncodeToString(h.Sum(nil))
}

// ReplayDeliveries counts what a replay would send, and unless dryRun is set begins to send it in the
// background. The replay is nil in a dry run. A call that is repeated under its idempotency key
// gets the same replay.
func (c *Control) ReplayDeliveries(ctx context.Context, p *auth.Principal, in ReplayInput, dryRun bool) (replay *models.Replay, count int, err error) {
	check := checker{prefix: []string{"input"}}
	w, err := c.store.Tenant(p.Reach()).Webhook(ctx, in.WebhookID)
	missing := errors.Is(err, models.ErrNotFound)
	switch {
	case missing:
		check.add(models.CodeNotFound, []string{"webhookId"}, "there is no such object")
	case err != nil:
		return nil, 0, err
	}
	check.replayKey(in.IdempotencyKey)
	if !missing && !dryRun && in.IdempotencyKey != nil && len(check.problems) == 0 {
		known, err := c.store.Tenant(p.Reach()).ReplayByKey(ctx, w.Tenant, *in.IdempotencyKey)
		if err == nil {
			return sameReplay(&known, in)
		}
		if !errors.Is(err, models.ErrNotFound) {
			return nil, 0, err
		}
	}
	draft, types, known, err := c.replayOf(ctx, in, w, &check)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case missing:
	case w.DeletedAt != nil:
		check.add(models.CodeNotFound, []string{"webhookId"}, "the webhook was deleted")
	case w.Status == models.WebhookDisabled:
		check.add(models.CodeNotAllowedNow, []string{"webhookId"}, "the webhook is disabled; resume it first")
	}
	if err := check.problems.Err(); err != nil {
		return nil, 0, err
	}
	walk := replayWalk{store: c.store, replay: draft, types: types, index: known.Index([]models.Webhook{w}), filtered: w.Filter != nil || w.PayloadQuery != nil}
	bounded, cancel := context.WithTimeout(ctx, countWithin)
	defer cancel()
	if draft.Total, err = walk.count(bounded); err != nil {
		if bounded.Err() != nil && ctx.Err() == nil {
			return nil, 0, problem(models.CodeTooLarge, []string{"input", "since"}, "counting took longer than %s; replay a shorter window at a time", countWithin)
		}
		return nil, 0, err
	}
	if dryRun {
		return nil, draft.Total, nil
	}
	existing, err := c.store.CreateReplay(ctx, draft)
	if err != nil {
		return nil, 0, err
	}
	if existing != nil {
		return sameReplay(existing, in)
	}
	c.logger.InfoContext(ctx, "replay started", "replay_id", draft.ID, "webhook_id", w.ID, "events", draft.Total)
	return draft, draft.Total, nil
}

// sameReplay answers a call whose idempotency key is known.
func sameReplay(r *models.Replay, in ReplayInput) (*models.Replay, int, error) {
	if r.Hash != in.hash() {
		return nil, 0, problem(models.CodeIdempotencyMismatch, []string{"input", "idempotencyKey"},
			"this idempotency key was used for another replay; repeat the same replay or use a new key")
	}
	return r, r.Total, nil
}

// replayOf makes the replay that in describes as of now, and the event types that it is about: those
// that are asked for and that the webhook is subscribed to; nil: all that there are.
func (c *Control) replayOf(ctx context.Context, in ReplayInput, w models.Webhook, k *checker) (r *models.Replay, types []string, known *catalogue.Catalogue, err error) {
	if known, err = c.catalogue(ctx); err != nil {
		return nil, nil, nil, err
	}
	now, err := c.store.Now(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	until := now
	if in.Until != nil && in.Until.Before(now) {
		until = *in.Until
	}
	switch {
	case in.Until != nil && !in.Since.Before(*in.Until):
		k.add(models.CodeInvalid, []string{"until"}, "until must be after since")
	case !in.Since.Before(now):
		k.add(models.CodeInvalid, []string{"since"}, "since must be in the past")
	}
	if len(in.Statuses) > maxReplayList {
		k.add(models.CodeTooLong, []string{"statuses"}, "at most %d are allowed", maxReplayList)
	}
	if len(in.EventTypes) > maxReplayList {
		k.add(models.CodeTooLong, []string{"eventTypes"}, "at most %d are allowed", maxReplayList)
	} else {
		for i, name := range in.EventTypes {
			if _, ok := known.Type(name); !ok {
				k.add(models.CodeUnknownEventType, []string{"eventTypes", itoa(i)}, "%s", known.UnknownType(name))
			}
		}
	}
	r = &models.Replay{
		Tenant: w.Tenant, WebhookID: w.ID, Since: in.Since, Until: until, EventTypes: models.StringList{}, Statuses: models.StringList{},
		IncludeUnmatched: in.IncludeUnmatched, IdempotencyKey: in.IdempotencyKey, Hash: in.hash(), CreatedAt: now,
	}
	r.EventTypes = append(r.EventTypes, in.EventTypes...)
	for _, status := range in.Statuses {
		r.Statuses = append(r.Statuses, string(status))
	}
	return r, replayTypes(known, r.EventTypes, w.EventTypes), known, nil
}

func (k *checker) replayKey(key *string) {
	if key == nil {
		return
	}
	path := []string{"idempotencyKey"}
	switch n := utf8.RuneCountInString(*key); {
	case n == 0:
		k.add(models.CodeInvalid, path, "the idempotency key is empty; leave it out or give 1 to %d characters", maxReplayKey)
	case n > maxReplayKey:
		k.add(models.CodeTooLong, path, "the idempotency key has %d characters; at most %d are allowed", n, maxReplayKey)
	case !printable(*key):
		k.add(models.CodeInvalid, path, "the idempotency key must be valid UTF-8 without control characters")
	}
}

// replayTypes are the event types that are asked for (none: all) and subscribed to; nil where that is
// every type that there is.
func replayTypes(known *catalogue.Catalogue, asked, patterns []string) []string {
	all := known.Types()
	types := make([]string, 0, len(all))
	for _, t := range all {
		if (len(asked) == 0 || slices.Contains(asked, t.Name)) && catalogue.MatchPatterns(patterns, t.Name) {
			types = append(types, t.Name)
		}
	}
	if len(types) == len(all) {
		return nil
	}
	return types
}

// CancelReplay ends a replay: what it has not sent yet is not sent. Once it has answered, no attempt
// of it starts. One that is completed is NOT_ALLOWED_NOW.
func (c *Control) CancelReplay(ctx context.Context, p *auth.Principal, id string) (models.Replay, error) {
	r, err := c.store.CancelReplay(ctx, p.Reach(), id)
	if err != nil {
		return models.Replay{}, translateAt(err, "id")
	}
	if err := c.store.AwaitReplayQuiet(ctx, id); err != nil {
		return models.Replay{}, err
	}
	c.logger.InfoContext(ctx, "replay cancelled", "replay_id", id)
	return r, nil
}

// replayWalk decides about the events of a replay under one configuration of its webhook.
type replayWalk struct {
	store    *models.Store
	replay   *models.Replay
	types    []string
	index    *catalogue.Index
	filtered bool // whether the webhook has anything that must look at the events
}

// stages are those that the replay goes through, in order.
func (w *replayWalk) stages() []string {
	if w.replay.IncludeUnmatched {
		return []string{models.ReplayMatched, models.ReplayUnmatched}
	}
	return []string{models.ReplayMatched}
}

// count is how many events the replay sends.
func (w *replayWalk) count(ctx context.Context) (int, error) {
	total := 0
	if w.types != nil && len(w.types) == 0 {
		return 0, nil
	}
	for _, stage := range w.stages() {
		if !w.filtered {
			n, err := w.store.CountCandidates(ctx, w.replay, stage, w.types)
			if err != nil {
				return 0, err
			}
			total += n
			continue
		}
		for cursor := ""; ; {
			page, err := w.store.Candidates(ctx, w.replay, stage, cursor, w.types, replayPage)
			if err != nil {
				return 0, err
			}
			total += len(w.decide(page))
			if len(page) < replayPage {
				break
			}
			cursor = page[len(page)-1].Cursor
			if err := ctx.Err(); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

// decide gives the deliveries that the events get: as at an emit, a filter that fails is a delivery
// that is SKIPPED and says so.
func (w *replayWalk) decide(page []models.Candidate) []models.Delivery {
	deliveries := make([]models.Delivery, 0, len(page))
	for _, e := range page {
		for _, m := range w.index.Match(catalogue.Event{ID: e.ID, Type: e.EventType, Timestamp: e.Timestamp, Data: *e.Data}) {
			d := models.Delivery{EventID: e.ID, EventType: e.EventType, Body: m.Body}
			switch m.Verdict {
			case catalogue.FilterError:
				reason, detail := models.ReasonFilterError, m.Detail
				d.Status, d.StatusReason, d.StatusDetail = models.DeliverySkipped, &reason, &detail
			case catalogue.CreatedLater, catalogue.NotSubscribed, catalogue.FilteredOut:
				continue
			case catalogue.Matched, catalogue.Paused, catalogue.Disabled:
			}
			deliveries = append(deliveries, d)
		}
	}
	return deliveries
}
