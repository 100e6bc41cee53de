package models

import (
	"context"
	"fmt"
	"slices"
	"time"

	"gorm.io/gorm"
)

// Bounds of statistics.
const (
	// MaxStatsBuckets is how many buckets one query may ask for.
	MaxStatsBuckets = 1500
	// DefaultStatsWindow is how far back statistics go where no start is named.
	DefaultStatsWindow = 24 * time.Hour
)

// StatsQuery says what to add up. Statistics are kept by the minute: a window is widened to whole
// minutes. Deliveries that testWebhook made are left out.
type StatsQuery struct {
	WebhookID *string
	EventType *string
	Tenant    *string
	Since     time.Time // zero: DefaultStatsWindow before Until
	Until     time.Time // exclusive; zero: now
	// Interval is the length of a bucket, in whole minutes; zero: no buckets.
	Interval time.Duration
}

// StatsError says what is wrong with a StatsQuery. Its message is for the caller.
type StatsError struct{ Message string }

func (e *StatsError) Error() string { return e.Message }

// Stats is what happened in a window. Total counts by the time of a delivery's creation, Succeeded
// and Failed by the time of its end, so that a window that has passed changes no more.
type Stats struct {
	Counts
	Open    int // of the deliveries created in the window, those that are open now
	Buckets []StatsBucket
}

// StatsBucket is a part of the window. The last one ends with the window.
type StatsBucket struct {
	Start time.Time
	Counts
}

// Counts are sums over minutes.
type Counts struct {
	Total     int
	Succeeded int
	Failed    int
	Attempts  int
	// latency counts attempts by LatencyBucket.
	latency [maxLatencyStep + 1]int
}

// SuccessRate is the share of the deliveries that ended well among those that ended well or FAILED,
// from 0 to 1; nil where none did.
func (c *Counts) SuccessRate() *float64 { return ratio(c.Succeeded, c.Succeeded+c.Failed) }

// AttemptSuccessRate is the share of attempts that ended a delivery well, from 0 to 1; nil without
// attempts.
func (c *Counts) AttemptSuccessRate() *float64 {
	return ratio(min(c.Succeeded, c.Attempts), c.Attempts)
}

func ratio(part, whole int) *float64 {
	if whole == 0 {
		return nil
	}
	r := float64(part) / float64(whole)
	return &r
}

// Latency is the time that the share q (0 to 1) of attempts took at most, to the precision of the
// buckets; nil without attempts that took a time.
func (c *Counts) Latency(q float64) *time.Duration {
	n := 0
	for _, k := range c.latency {
		n += k
	}
	if n == 0 {
		return nil
	}
	rank := max(1, min(float64(n), q*float64(n)))
	below := 0
	for bucket, k := range c.latency {
		if k == 0 || float64(below+k) < rank {
			below += k
			continue
		}
		low, high := LatencyBounds(bucket)
		d := low + time.Duration((rank-float64(below))/float64(k)*float64(high-low))
		return &d
	}
	return nil
}

func (c *Counts) add(measure, n int) {
	switch measure {
	case MeasureTotal:
		c.Total += n
	case MeasureSucceeded:
		c.Succeeded += n
	case MeasureFailed:
		c.Failed += n
	case MeasureAttempts:
		c.Attempts += n
	default:
		if measure >= 0 && measure < len(c.latency) {
			c.latency[measure] += n
		}
	}
}

// Stats adds up what the caller may see of what q says.
func (t *Tenant) Stats(ctx context.Context, q StatsQuery) (Stats, error) {
	found, err := t.stats(ctx, q, nil)
	if err != nil {
		return Stats{}, err
	}
	return *found[""], nil
}

// StatsOfWebhooks adds up what q says for each of the webhooks, by webhook, in the statements that
// one takes. Webhooks that the caller cannot see have done nothing.
func (t *Tenant) StatsOfWebhooks(ctx context.Context, ids []string, q StatsQuery) (map[string]Stats, error) {
	ids = valid(PrefixWebhook, ids)
	results := make(map[string]Stats, len(ids))
	if len(ids) == 0 {
		return results, nil
	}
	found, err := t.stats(ctx, q, ids)
	for id, s := range found {
		results[id] = *s
	}
	return results, err
}

// check fills in the window's defaults, widens it to minutes, and says how many buckets it has.
func (q *StatsQuery) check(now time.Time) (buckets int, err error) {
	if q.Until.IsZero() {
		q.Until = now
	}
	if q.Since.IsZero() {
		q.Since = q.Until.Add(-DefaultStatsWindow)
	}
	if !q.Since.Before(q.Until) {
		return 0, &StatsError{Message: "since must be before until"}
	}
	q.Since = q.Since.UTC().Truncate(time.Minute)
	if until := q.Until.UTC().Truncate(time.Minute); until.Before(q.Until) {
		q.Until = until.Add(time.Minute)
	}
	switch {
	case q.Interval == 0:
		return 0, nil
	case q.Interval < 0 || q.Interval%time.Minute != 0:
		return 0, &StatsError{Message: "interval must be whole minutes, at least one"}
	}
	// Sub is cut off at 292 years, which is more buckets than allowed at any interval below that.
	window := q.Until.Sub(q.Since)
	n := (window-1)/q.Interval + 1
	if n > MaxStatsBuckets {
		return 0, &StatsError{Message: fmt.Sprintf("interval gives %d buckets, at most %d are allowed", n, MaxStatsBuckets)}
	}
	return int(n), nil
}

// counted is one row of sums.
type counted struct {
	WebhookID string
	Bucket    int
	Measure   int
	N         int
}

// stats adds up by webhook, or under "" where ids is nil.
func (t *Tenant) stats(ctx context.Context, q StatsQuery, ids []string) (map[string]*Stats, error) {
	now, err := t.store.Now(ctx)
	if err != nil {
		return nil, err
	}
	buckets, err := q.check(now)
	if err != nil {
		return nil, err
	}
	keys := ids
	if ids == nil {
		keys = []string{""}
	}
	results := make(map[string]*Stats, len(keys))
	for _, key := range keys {
		s := &Stats{Buckets: make([]StatsBucket, buckets)}
		for i := range s.Buckets {
			s.Buckets[i].Start = q.Since.Add(time.Duration(i) * q.Interval)
		}
		results[key] = s
	}
	var sums, open []counted
	err = t.store.reading(ctx, func(db *gorm.DB) error {
		sums, open = nil, nil
		if err := t.sums(db, q, ids).Find(&sums).Error; err != nil {
			return err
		}
		return t.open(db, q, ids).Find(&open).Error
	})
	if err != nil {
		return nil, err
	}
	for _, row := range sums {
		s := results[row.WebhookID]
		s.add(row.Measure, row.N)
		if buckets > 0 {
			s.Buckets[min(row.Bucket, buckets-1)].add(row.Measure, row.N)
		}
	}
	for _, row := range open {
		results[row.WebhookID].Open += row.N
	}
	return results, nil
}

// sums selects the window's minutes, added up by webhook (where ids are given), bucket and measure.
func (t *Tenant) sums(db *gorm.DB, q StatsQuery, ids []string) *gorm.DB {
	bucket, args := "0", []any(nil)
	if q.Interval > 0 {
		if t.store.dialect == DialectPostgres {
			bucket = "CAST(FLOOR(EXTRACT(EPOCH FROM minute - CAST(? AS timestamptz)) / ?) AS bigint)"
			args = []any{q.Since, int64(q.Interval / time.Second)}
		} else {
			bucket = "(minute - ?) / ?"
			args = []any{q.Since.UnixMicro(), q.Interval.Microseconds()}
		}
	}
	// By position, since the same expression with other parameters is another one to Postgres.
	columns, group := "'' AS webhook_id, ", "2, 3"
	if ids != nil {
		columns, group = "webhook_id, ", "1, 2, 3"
	}
	rows := t.statRows(db.Table("delivery_minutes"), q, ids)
	return rows.Select(columns+bucket+" AS bucket, measure, CAST(SUM(n) AS bigint) AS n", args...).
		Where("minute >= ? AND minute < ?", q.Since, q.Until).Group(group)
}

// open counts the window's deliveries that are open now. There are few of them beside all others,
// and the indexes on the status hold them apart.
func (t *Tenant) open(db *gorm.DB, q StatsQuery, ids []string) *gorm.DB {
	rows := t.statRows(db.Table("deliveries"), q, ids)
	rows = among(rows, "status", string(DeliverySucceeded), openStatuses)
	rows = created(rows, PrefixDelivery, &q.Since, &q.Until).Where(`"trigger" <> ?`, TriggerTest)
	if ids == nil {
		return rows.Select("'' AS webhook_id, COUNT(*) AS n")
	}
	return rows.Select("webhook_id, COUNT(*) AS n").Group("webhook_id")
}

// statRows narrows minutes or deliveries to what q names.
func (t *Tenant) statRows(db *gorm.DB, q StatsQuery, ids []string) *gorm.DB {
	rows := equal(t.reach.within(db), "tenant", q.Tenant)
	rows = equal(rows, "webhook_id", q.WebhookID)
	rows = equal(rows, "event_type", q.EventType)
	if ids != nil {
		rows = rows.Where("webhook_id IN ?", slices.Compact(slices.Sorted(slices.Values(ids))))
	}
	return rows
}

// Health tells how webhooks have been doing, by webhook. Those that have had no attempt yet are
// absent.
func (t *Tenant) Health(ctx context.Context, webhookIDs []string) (map[string]WebhookHealth, error) {
	webhookIDs = valid(PrefixWebhook, webhookIDs)
	found := make(map[string]WebhookHealth, len(webhookIDs))
	if len(webhookIDs) == 0 {
		return found, nil
	}
	rows, err := find[WebhookHealth](ctx, t.store, func(db *gorm.DB) *gorm.DB {
		seen := t.of(db, &Webhook{}, nil).Select("id").Where("id IN ?", webhookIDs)
		return db.Where("webhook_id IN (?)", seen)
	})
	for _, h := range rows {
		found[h.WebhookID] = h
	}
	return found, err
}
