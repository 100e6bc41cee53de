package control

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/signing"
)

// lookupTimeout bounds the resolution of a new target's host. One that does not resolve in time
// is allowed: every attempt checks again.
const lookupTimeout = 2 * time.Second

// CreateWebhook saves a new webhook. secretKey is its key, shown here and never again; "" for
// ED25519, whose private half nobody ever sees. An external id that another webhook of the tenant
// has is CONFLICT with that webhook's id.
func (c *Control) CreateWebhook(ctx context.Context, p *auth.Principal, in WebhookInput) (w models.Webhook, secretKey string, err error) {
	w, key, plan, err := c.draft(ctx, p, in, "input")
	if err != nil {
		return models.Webhook{}, "", err
	}
	if err := c.unique(ctx, plan, w); err != nil {
		return models.Webhook{}, "", err
	}
	if err := plan.check.problems.Err(); err != nil {
		return models.Webhook{}, "", err
	}
	if err := c.setKey(&w, key); err != nil {
		return models.Webhook{}, "", err
	}
	if err := c.store.CreateWebhook(ctx, &w); err != nil {
		return models.Webhook{}, "", translate(err, w.ID)
	}
	return w, key.Reveal(), nil
}

// draft makes the webhook that in describes, and a key for it, and saves neither. What is wrong with
// in is collected in the plan; its paths begin with prefix.
func (c *Control) draft(ctx context.Context, p *auth.Principal, in WebhookInput, prefix ...string) (w models.Webhook, key signing.SecretKey, pl *plan, err error) {
	tenant, err := p.TenantFor(in.Tenant)
	if err != nil {
		return w, key, nil, err
	}
	if in.Signing == "" {
		in.Signing = models.SigningHMAC
	}
	w = models.Webhook{
		ID: models.NewID(models.PrefixWebhook), Tenant: tenant, Status: models.WebhookActive, Signing: in.Signing,
	}
	if pl, err = c.plan(ctx, in.change(), w, prefix...); err != nil {
		return w, key, nil, err
	}
	if !auth.ValidTenant(tenant) {
		pl.check.add(models.CodeInvalid, []string{"tenant"}, "a tenant's name has 1 to %d printable characters", auth.MaxTenantLength)
	}
	key, keyErr := signing.NewSecretKey(signing.Scheme(in.Signing))
	if keyErr != nil {
		pl.check.add(models.CodeInvalid, []string{"signing"}, "must be %s or %s", models.SigningHMAC, models.SigningEd25519)
	}
	return w, key, pl, c.apply(pl, &w)
}

// UpdateWebhook changes what the change sets. With expectedVersion it changes nothing unless the
// webhook's version is that one. Once a changed URL is answered, no attempt goes to the old one. What waits for
// a rate that is raised or taken away goes on at the new one.
func (c *Control) UpdateWebhook(ctx context.Context, p *auth.Principal, id string, change WebhookChange, expectedVersion *int) (models.Webhook, error) {
	stored, err := c.webhook(ctx, p, id)
	if err != nil {
		return models.Webhook{}, err
	}
	plan, err := c.plan(ctx, change, stored, "input")
	if err != nil {
		return models.Webhook{}, err
	}
	draft := stored
	if err := c.apply(plan, &draft); err != nil {
		return models.Webhook{}, err
	}
	if err := c.unique(ctx, plan, draft); err != nil {
		return models.Webhook{}, err
	}
	if expectedVersion != nil && *expectedVersion != stored.Version {
		plan.check.problems = append(plan.check.problems, outdated(id))
	}
	if err := plan.check.problems.Err(); err != nil {
		return models.Webhook{}, err
	}
	oldURL, oldRate := stored.TargetURL, stored.RateLimitPerSecond
	updated, err := c.store.UpdateWebhook(ctx, p.Reach(), id, expectedVersion, func(w *models.Webhook) error {
		oldURL, oldRate = w.TargetURL, w.RateLimitPerSecond
		// What is sealed can be sealed anew between two revisions.
		if w.Revision == stored.Revision && w.SealedKey == stored.SealedKey && w.SealedPreviousKey == stored.SealedPreviousKey &&
			w.SealedHeaders == stored.SealedHeaders {
			*w = draft // nothing is compiled while the row is locked
			return nil
		}
		// Another change came in between: what depends on the row is checked against the one that is
		// locked. This may run more than once.
		plan.check.problems = nil
		if err := c.apply(plan, w); err != nil {
			return err
		}
		return plan.check.problems.Err()
	})
	if err != nil {
		return models.Webhook{}, translate(err, id)
	}
	if updated.TargetURL != oldURL {
		if err := c.store.AwaitQuiet(ctx, id); err != nil {
			return models.Webhook{}, err
		}
	}
	if oldRate != nil && (updated.RateLimitPerSecond == nil || *updated.RateLimitPerSecond > *oldRate) {
		if err := c.store.HastenLimited(ctx, updated, c.remindDue); err != nil {
			// The change stands all the same, and what waits comes later than it could.
			c.logger.WarnContext(ctx, "deliveries that wait for a rate that was raised not all moved", "webhook_id", id, "error", err)
		}
	}
	return updated, nil
}

// plan is a change with everything that must be known before a row may be locked for it.
type plan struct {
	change    WebhookChange
	catalogue *catalogue.Catalogue // nil where the change does not need it
	target    string               // the new URL with its scheme and host as they are dialled
	check     checker
}

// plan reads the catalogue and resolves a new target: what takes time, and holds whatever the
// row says by then.
func (c *Control) plan(ctx context.Context, change WebhookChange, stored models.Webhook, prefix ...string) (*plan, error) {
	pl := &plan{change: change, check: checker{prefix: prefix}}
	if change.EventTypes.Set || change.Filter.Value != nil || change.PayloadQuery.Value != nil {
		known, err := c.catalogue(ctx)
		if err != nil {
			return nil, err
		}
		pl.catalogue = known
	}
	switch {
	case change.TargetURL.Value == nil:
	case *change.TargetURL.Value == stored.TargetURL && stored.TargetURL != "":
		pl.target = stored.TargetURL // it was checked when it was stored
	default:
		target, err := c.checkTarget(ctx, &pl.check, *change.TargetURL.Value)
		if err != nil {
			return nil, err
		}
		pl.target = target
	}
	return pl, nil
}

// checkTarget reads a URL and refuses one that leads to a forbidden address by what DNS says now. It
// gives the URL as it will be dialled, so that nobody is shown another host than the one that gets
// the events.
func (c *Control) checkTarget(ctx context.Context, k *checker, raw string) (string, error) {
	path := []string{"targetUrl"}
	switch {
	case raw == "":
		k.add(models.CodeRequired, path, "an absolute http or https URL is needed")
		return raw, nil
	case len([]rune(raw)) > maxURL:
		k.add(models.CodeTooLong, path, "the URL has more than %d characters", maxURL)
		return raw, nil
	}
	target, err := egress.ParseTarget(raw)
	if err != nil {
		k.add(models.CodeInvalid, path, "%s", err.Error())
		return raw, nil
	}
	bounded, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	err = c.guard.CheckTarget(bounded, target, c.lookup)
	var blocked *egress.BlockedError
	switch {
	case ctx.Err() != nil:
		return raw, ctx.Err()
	case errors.As(err, &blocked):
		k.add(models.CodeForbiddenTarget, path, "%s; targets must be reachable from the internet", blocked.Error())
		return raw, nil
	default:
		return target.String(), err
	}
}

// apply writes the change into w and collects what is wrong with it. It does no I/O. An error is
// a fault of ours: a stored value that cannot be opened.
func (c *Control) apply(pl *plan, w *models.Webhook) error {
	k, change := &pl.check, pl.change
	if change.Name.Set {
		w.Name = valueOr(change.Name, "")
		k.name(w.Name, "name")
	}
	if change.ExternalID.Set {
		w.ExternalID = change.ExternalID.Value
		if w.ExternalID != nil {
			k.externalID(*w.ExternalID)
		}
	}
	if change.TargetURL.Set {
		if change.TargetURL.Value == nil {
			k.add(models.CodeRequired, []string{"targetUrl"}, "an absolute http or https URL is needed")
		} else {
			w.TargetURL = pl.target
		}
	}
	if change.Timeout.Set {
		w.Timeout = nil
		if change.Timeout.Value != nil {
			timeout := k.timeout(*change.Timeout.Value)
			w.Timeout = &timeout
		}
	}
	if change.RetrySchedule.Set {
		w.RetrySchedule = nil
		if change.RetrySchedule.Value != nil {
			schedule := k.schedule(*change.RetrySchedule.Value)
			w.RetrySchedule = &schedule
		}
	}
	if change.RateLimitPerSecond.Set {
		w.RateLimitPerSecond = change.RateLimitPerSecond.Value
		if w.RateLimitPerSecond != nil {
			k.rate(*w.RateLimitPerSecond)
		}
	}
	c.applyMatching(pl, w)
	if change.Headers.Set {
		return c.applyHeaders(k, valueOr(change.Headers, nil), w)
	}
	return nil
}

// applyMatching writes and checks what decides about events: the event types, the filter and the
// payload query, which depend on each other.
func (c *Control) applyMatching(pl *plan, w *models.Webhook) {
	k, change := &pl.check, pl.change
	patterns := []string(w.EventTypes)
	if change.EventTypes.Set {
		before := w.EventTypes
		w.EventTypes = slices.Clone(valueOr(change.EventTypes, nil))
		patterns = checkEventTypes(k, pl.catalogue, before, w.EventTypes)
	}
	if change.Filter.Set {
		w.Filter = change.Filter.Value
	}
	if change.PayloadQuery.Set {
		w.PayloadQuery = change.PayloadQuery.Value
	}
	if pl.catalogue == nil {
		return
	}
	// Only what is changed is checked, so that a webhook which the catalogue left behind can still
	// be renamed; but new event types must fit the filter and the payload query that stay.
	if w.Filter != nil && (change.Filter.Set || change.EventTypes.Set) && k.text(*w.Filter, maxFilter, "filter") {
		_, problems := pl.catalogue.CompileFilter(*w.Filter, patterns)
		k.adopt(problems, "filter")
	}
	if w.PayloadQuery != nil && (change.PayloadQuery.Set || change.EventTypes.Set) && k.text(*w.PayloadQuery, maxPayloadQuery, "payloadQuery") {
		_, problems := pl.catalogue.CompilePayloadQuery(*w.PayloadQuery, patterns)
		k.adopt(problems, "payloadQuery")
	}
}

// checkEventTypes checks a list of subscriptions, each entry under its own path, and gives those
// that the filter and the payload query are checked against, so that they are not blamed for bad
// ones. What the webhook had before stays allowed: a type that was archived since takes no new
// subscriptions only.
func checkEventTypes(k *checker, known *catalogue.Catalogue, before, patterns []string) []string {
	good := make([]string, 0, len(patterns))
	switch {
	case len(patterns) == 0:
		k.add(models.CodeRequired, []string{"eventTypes"}, `at least one event type is needed, e.g. "participant.created", "participant.*" or "*"`)
	case len(patterns) > maxEventTypes:
		k.add(models.CodeTooLong, []string{"eventTypes"}, "%d event types are named, at most %d are allowed", len(patterns), maxEventTypes)
		patterns = nil
	}
	for i, pattern := range patterns {
		path := []string{"eventTypes", itoa(i)}
		if slices.Contains(patterns[:i], pattern) {
			k.add(models.CodeInvalid, path, "this event type is named twice")
			continue
		}
		if !slices.Contains(before, pattern) {
			if problems := known.CheckPatterns([]string{pattern}); len(problems) > 0 {
				k.adopt(problems, path...)
				continue
			}
		}
		good = append(good, pattern)
	}
	if len(good) < len(patterns) || len(good) == 0 {
		good = append(good, "*") // nobody knows what the others would have brought
	}
	return good
}

// unique says before the write whether another webhook has the external id, so that the conflict
// comes together with all other problems. The index decides about what races.
func (c *Control) unique(ctx context.Context, pl *plan, w models.Webhook) error {
	if !pl.change.ExternalID.Set || w.ExternalID == nil || !auth.ValidTenant(w.Tenant) {
		return nil
	}
	other, err := c.store.Tenant(models.Reach{Tenant: w.Tenant}).WebhookByExternalID(ctx, w.Tenant, *w.ExternalID)
	switch {
	case errors.Is(err, models.ErrNotFound):
		return nil
	case err != nil:
		return err
	case other.ID != w.ID:
		pl.check.problems = append(pl.check.problems, taken(other.ID))
	}
	return nil
}

func valueOr[T any](f Field[T], fallback T) T {
	if f.Value == nil {
		return fallback
	}
	return *f.Value
}

func itoa(i int) string { return strconv.Itoa(i) }
