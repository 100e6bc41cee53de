package models

import (
	"cmp"
	"math"
	"slices"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Measures that delivery_minutes counts. Measures from 0 on are buckets of latency, see
// LatencyBucket. Deliveries that testWebhook made are in none of them.
const (
	MeasureTotal     = -1 // deliveries made, in the minute of their creation
	MeasureSucceeded = -2 // deliveries that succeeded for the first time, in the minute of that
	MeasureFailed    = -3 // deliveries that became FAILED, in the minute of that
	MeasureAttempts  = -4 // attempts recorded, abandoned ones too
)

// Latency buckets: four to a doubling, from 64 µs to over a minute, so that a bucket's middle is
// within 10 % of what is in it. Coarser ones cost precision, finer ones a row each.
const (
	latencyBase    = 64.0 // µs
	latencySteps   = 4    // to a doubling
	maxLatencyStep = 83
)

// LatencyBucket is the measure that counts an attempt which took d. It is never negative.
func LatencyBucket(d time.Duration) int {
	us := float64(d.Microseconds())
	if us <= latencyBase {
		return 0
	}
	return min(maxLatencyStep, 1+int(math.Floor(latencySteps*math.Log2(us/latencyBase))))
}

// LatencyBounds is what bucket spans: more than low, at most high. The last one has no end; high
// is where it would have one.
func LatencyBounds(bucket int) (low, high time.Duration) {
	at := func(step int) time.Duration {
		return time.Duration(latencyBase*math.Exp2(float64(step)/latencySteps)) * time.Microsecond
	}
	if bucket <= 0 {
		return 0, at(0)
	}
	return at(bucket - 1), at(bucket)
}

// minuteKey is a row of delivery_minutes but for its minute and shard.
type minuteKey struct {
	webhook, eventType string
	measure            int16
	tenant             string
}

// minutes adds up what one transaction counts, for one minute.
type minutes map[minuteKey]int64

func (m minutes) add(d *Delivery, measure int) {
	if d.Trigger != TriggerTest {
		m[minuteKey{d.WebhookID, d.EventType, int16(measure), d.Tenant}]++ //nolint:gosec // -4 to maxLatencyStep
	}
}

// sorted is the rows in the order in which every transaction locks them.
func (m minutes) sorted() []minuteKey {
	keys := make([]minuteKey, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b minuteKey) int {
		return cmp.Or(cmp.Compare(a.webhook, b.webhook), cmp.Compare(a.eventType, b.eventType), cmp.Compare(a.measure, b.measure))
	})
	return keys
}

// Rows of counters, added to those that exist. In: the columns, sorted by key.
const pgAddMinutes = `
INSERT INTO delivery_minutes AS m (webhook_id, minute, event_type, shard, measure, tenant, n)
SELECT webhook, $1::timestamptz, type, $2::smallint, measure, tenant, n
FROM unnest($3::text[], $4::text[], $5::smallint[], $6::text[], $7::bigint[]) AS u (webhook, type, measure, tenant, n)
ON CONFLICT (webhook_id, minute, event_type, shard, measure) DO UPDATE SET n = m.n + excluded.n`

func (m minutes) columns() (webhooks, types []string, measures []int16, tenants []string, ns []int64) {
	for _, k := range m.sorted() {
		webhooks, types = append(webhooks, k.webhook), append(types, k.eventType)
		measures, tenants, ns = append(measures, k.measure), append(tenants, k.tenant), append(ns, m[k])
	}
	return webhooks, types, measures, tenants, ns
}

// minuteRow is a row of delivery_minutes.
type minuteRow struct {
	WebhookID string
	Minute    time.Time
	EventType string
	Shard     int16
	Measure   int16
	Tenant    string
	N         int64
}

func (minuteRow) TableName() string { return "delivery_minutes" }

// addMinutes adds what a transaction outside of the hot path counted.
func (s *Store) addMinutes(tx *gorm.DB, m minutes, now time.Time) error {
	rows := make([]minuteRow, 0, len(m))
	for _, k := range m.sorted() {
		rows = append(rows, minuteRow{
			WebhookID: k.webhook, Minute: now.Truncate(time.Minute), EventType: k.eventType, Shard: s.shard, Measure: k.measure, Tenant: k.tenant, N: m[k],
		})
	}
	for part := range slices.Chunk(rows, 500) {
		err := tx.Clauses(clause.OnConflict{
			Columns:   []clause.Column{{Name: "webhook_id"}, {Name: "minute"}, {Name: "event_type"}, {Name: "shard"}, {Name: "measure"}},
			DoUpdates: clause.Assignments(map[string]any{"n": gorm.Expr("delivery_minutes.n + excluded.n")}),
		}).Create(&part).Error
		if err != nil {
			return err
		}
	}
	return nil
}

const liteAddMinutes = `
INSERT INTO delivery_minutes (webhook_id, minute, event_type, shard, measure, tenant, n) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (webhook_id, minute, event_type, shard, measure) DO UPDATE SET n = n + excluded.n`

func (s *Store) liteAddMinutes(tx *liteTx, m minutes) error {
	at := tx.now.Truncate(time.Minute)
	for _, k := range m.sorted() {
		if _, err := tx.exec(liteAddMinutes, k.webhook, at, k.eventType, s.shard, k.measure, k.tenant, m[k]); err != nil {
			return err
		}
	}
	return nil
}
