package graph

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/vikstrous/dataloadgen"

	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

type webhookHealthResolver struct{ *Resolver }

// WebhookHealth resolves the figures of health that are added up only where they were asked for.
func (r *Resolver) WebhookHealth() generated.WebhookHealthResolver { return webhookHealthResolver{r} }

// healthWindow is what WebhookHealth's rates look back on.
const healthWindow = time.Hour

// defaultBuckets is how many buckets there are at most where the caller names no interval.
const defaultBuckets = 100

// statsKey asks for one webhook's statistics; the query is as text, so that those of the same field
// under many webhooks are equal.
type statsKey struct{ webhookID, query string }

func newStatsKey(webhookID string, q models.StatsQuery) (statsKey, error) {
	text, err := json.Marshal(q)
	return statsKey{webhookID, string(text)}, err
}

// statistics reads the statistics of many webhooks: in the statements of one for all that have the
// same query.
func statistics(read func(context.Context, []string, models.StatsQuery) (map[string]models.Stats, error)) func(context.Context, []statsKey) (map[statsKey]models.Stats, error) {
	return func(ctx context.Context, keys []statsKey) (map[statsKey]models.Stats, error) {
		webhooks := map[string][]string{}
		for _, k := range keys {
			webhooks[k.query] = append(webhooks[k.query], k.webhookID)
		}
		found := make(map[statsKey]models.Stats, len(keys))
		failed := dataloadgen.MappedFetchError[statsKey]{}
		for query, ids := range webhooks {
			var q models.StatsQuery
			err := json.Unmarshal([]byte(query), &q)
			var results map[string]models.Stats
			if err == nil {
				results, err = read(ctx, ids, q)
			}
			for _, id := range ids {
				if err != nil {
					failed[statsKey{id, query}] = err // another query may be good
					continue
				}
				found[statsKey{id, query}] = results[id]
			}
		}
		if len(failed) > 0 {
			return found, failed
		}
		return found, nil
	}
}

func (r queryResolver) DeliveryStats(ctx context.Context, webhookID, eventType, tenant *string, since, until *time.Time, interval *string) (*model.DeliveryStats, error) {
	p := caller(ctx)
	if err := named(p, tenant); err != nil {
		return nil, err
	}
	q, err := r.statsQuery(since, until, interval)
	if err != nil {
		return nil, err
	}
	q.WebhookID, q.EventType, q.Tenant = webhookID, eventType, tenant
	stats, err := r.store.Tenant(p.Reach()).Stats(ctx, q)
	if err != nil {
		return nil, err
	}
	return deliveryStats(stats), nil
}

func (r webhookResolver) Stats(ctx context.Context, w *models.Webhook, since, until *time.Time, interval *string) (*model.DeliveryStats, error) {
	q, err := r.statsQuery(since, until, interval)
	if err != nil {
		return nil, err
	}
	stats, err := loadStats(ctx, w.ID, q)
	if err != nil {
		return nil, err
	}
	return deliveryStats(stats), nil
}

func loadStats(ctx context.Context, webhookID string, q models.StatsQuery) (models.Stats, error) {
	key, err := newStatsKey(webhookID, q)
	if err != nil {
		return models.Stats{}, err
	}
	return loadersOf(ctx).stats.Load(ctx, key)
}

func (r *Resolver) statsQuery(since, until *time.Time, interval *string) (models.StatsQuery, error) {
	var q models.StatsQuery
	end := r.now()
	if until != nil {
		q.Until, end = *until, *until
	}
	start := end.Add(-models.DefaultStatsWindow)
	if since != nil {
		q.Since, start = *since, *since
	}
	if interval == nil {
		q.Interval = niceInterval(end.Sub(start))
		return q, nil
	}
	d, err := models.ParseDuration(*interval)
	if err != nil || d <= 0 {
		return q, &badRequestError{"interval must be a length of time in whole minutes, e.g. PT15M"}
	}
	q.Interval = d
	return q, nil
}

// niceInterval is a round length that cuts the window into at most defaultBuckets parts.
func niceInterval(window time.Duration) time.Duration {
	least := window / (defaultBuckets - 1) // one less, since a window is widened to whole minutes
	const day = 24 * time.Hour
	for _, d := range [...]time.Duration{
		time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, day,
	} {
		if d >= least {
			return d
		}
	}
	return (least + day).Truncate(day)
}

func deliveryStats(s models.Stats) *model.DeliveryStats {
	stats := &model.DeliveryStats{
		Total: s.Total, Succeeded: s.Succeeded, Failed: s.Failed, Open: s.Open, Attempts: s.Attempts,
		SuccessRate:  s.SuccessRate(),
		P50LatencyMs: inMilliseconds(s.Latency(0.5)),
		P95LatencyMs: inMilliseconds(s.Latency(0.95)),
		P99LatencyMs: inMilliseconds(s.Latency(0.99)),
		Buckets:      make([]model.DeliveryStatsBucket, len(s.Buckets)),
	}
	for i := range s.Buckets {
		b := &s.Buckets[i]
		stats.Buckets[i] = model.DeliveryStatsBucket{
			Start: b.Start, Succeeded: b.Succeeded, Failed: b.Failed, Attempts: b.Attempts,
			P50LatencyMs: inMilliseconds(b.Latency(0.5)), P95LatencyMs: inMilliseconds(b.Latency(0.95)),
		}
	}
	return stats
}

func inMilliseconds(d *time.Duration) *float64 {
	if d == nil {
		return nil
	}
	micros := d.Microseconds()
	return milliseconds(&micros)
}

func (r webhookResolver) Health(ctx context.Context, w *models.Webhook) (*model.WebhookHealth, error) {
	h, err := loadersOf(ctx).health.Load(ctx, w.ID)
	if err != nil && !errors.Is(err, dataloadgen.ErrNotFound) { // no attempt yet: nothing to tell
		return nil, err
	}
	health := &model.WebhookHealth{
		WebhookID: w.ID, ConsecutiveFailures: h.ConsecutiveFailures, FailingSince: h.FailingSince,
		LastSuccessAt: h.LastSuccessAt, LastFailureAt: h.LastFailureAt,
	}
	if h.FailingSince != nil && r.disableAfter > 0 && w.Status == models.WebhookActive && w.DeletedAt == nil {
		at := h.FailingSince.Add(r.disableAfter)
		health.DisableAt = &at
	}
	return health, nil
}

// lastHour is one webhook's statistics for its health. All webhooks of a request ask for the same
// minutes, so one statement serves them.
func (r webhookHealthResolver) lastHour(ctx context.Context, h *model.WebhookHealth) (models.Stats, error) {
	since := r.now().UTC().Truncate(time.Minute).Add(-healthWindow)
	return loadStats(ctx, h.WebhookID, models.StatsQuery{Since: since})
}

func (r webhookHealthResolver) SuccessRate(ctx context.Context, h *model.WebhookHealth) (*float64, error) {
	s, err := r.lastHour(ctx, h)
	return s.AttemptSuccessRate(), err
}

func (r webhookHealthResolver) P95LatencyMs(ctx context.Context, h *model.WebhookHealth) (*float64, error) {
	s, err := r.lastHour(ctx, h)
	return inMilliseconds(s.Latency(0.95)), err
}

// readCircuits reads the webhooks' circuit breakers. They live in the queue's Redis: while it is away
// nobody can tell, and the rest of the answer must not suffer for it.
func (r *Resolver) readCircuits(ctx context.Context, webhookIDs []string) (map[string]models.Circuit, error) {
	if r.circuits == nil {
		return map[string]models.Circuit{}, nil
	}
	found, err := r.circuits.Circuits(ctx, webhookIDs)
	if err != nil {
		r.logger.WarnContext(ctx, "circuit breakers not readable", "error", err)
		return map[string]models.Circuit{}, nil
	}
	return found, nil
}

func circuitOf(ctx context.Context, h *model.WebhookHealth) (models.Circuit, error) {
	c, err := loadersOf(ctx).circuits.Load(ctx, h.WebhookID)
	if errors.Is(err, dataloadgen.ErrNotFound) {
		return models.Circuit{State: models.CircuitClosed}, nil
	}
	return c, err
}

func (r webhookHealthResolver) Circuit(ctx context.Context, h *model.WebhookHealth) (models.CircuitState, error) {
	c, err := circuitOf(ctx, h)
	return c.State, err
}

func (r webhookHealthResolver) CircuitOpenUntil(ctx context.Context, h *model.WebhookHealth) (*time.Time, error) {
	c, err := circuitOf(ctx, h)
	return c.OpenUntil, err
}
