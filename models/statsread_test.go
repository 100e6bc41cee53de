package models_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

func TestTenant_Stats(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		w := newWebhook(t, store, "acme", nil)
		quiet := newWebhook(t, store, "acme", nil)
		noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		add := func(at time.Time, eventType string, shard, measure, n int) {
			require.NoError(t, store.Exec(ctx, "INSERT INTO delivery_minutes (webhook_id, minute, event_type, shard, measure, tenant, n) VALUES (?, ?, ?, ?, ?, 'acme', ?)",
				w.ID, at, eventType, shard, measure, n))
		}
		fast, slow := models.LatencyBucket(10*time.Millisecond), models.LatencyBucket(time.Second)
		add(noon, "a", 1, models.MeasureTotal, 10)
		add(noon, "a", 2, models.MeasureTotal, 5) // another process
		add(noon, "b", 1, models.MeasureTotal, 1)
		add(noon.Add(time.Minute), "a", 1, models.MeasureSucceeded, 12)
		add(noon.Add(time.Minute), "a", 1, models.MeasureAttempts, 20)
		add(noon.Add(time.Minute), "a", 1, fast, 18)
		add(noon.Add(6*time.Minute), "a", 1, models.MeasureFailed, 3)
		add(noon.Add(6*time.Minute), "a", 1, slow, 2)
		add(noon.Add(10*time.Minute), "a", 1, models.MeasureTotal, 100) // after the window
		add(noon.Add(-time.Minute), "a", 1, models.MeasureTotal, 100)   // before it
		e := newEvent(t, store, "acme", nil)
		newDelivery(t, store, e, w, func(d *models.Delivery) {
			d.ID, d.EventType, d.CreatedAt = idAt(models.PrefixDelivery, noon), "a", noon
		})
		newDelivery(t, store, e, w, func(d *models.Delivery) {
			d.ID, d.EventType, d.CreatedAt, d.Trigger = idAt(models.PrefixDelivery, noon), "a", noon, models.TriggerTest
		})
		newDelivery(t, store, e, w, nil) // open, but created later

		q := models.StatsQuery{WebhookID: &w.ID, Since: noon.Add(30 * time.Second), Until: noon.Add(9*time.Minute + time.Second), Interval: 5 * time.Minute}
		r := store.Tenant(models.Reach{Tenant: "acme"})
		got, err := r.Stats(ctx, q)
		require.NoError(t, err)
		require.Equal(t, []int{16, 12, 3, 20, 1}, []int{got.Total, got.Succeeded, got.Failed, got.Attempts, got.Open})
		require.InDelta(t, 0.8, *got.SuccessRate(), 1e-9)
		require.InDelta(t, 0.6, *got.AttemptSuccessRate(), 1e-9)
		require.InEpsilon(t, 10*time.Millisecond, *got.Latency(0.5), 0.2)
		require.InEpsilon(t, time.Second, *got.Latency(0.95), 0.2)
		require.Len(t, got.Buckets, 2)
		require.Equal(t, noon, got.Buckets[0].Start)
		require.Equal(t, noon.Add(5*time.Minute), got.Buckets[1].Start)
		require.Equal(t, []int{16, 12, 0, 20}, []int{got.Buckets[0].Total, got.Buckets[0].Succeeded, got.Buckets[0].Failed, got.Buckets[0].Attempts})
		require.Equal(t, []int{0, 0, 3, 0}, []int{got.Buckets[1].Total, got.Buckets[1].Succeeded, got.Buckets[1].Failed, got.Buckets[1].Attempts})
		require.InEpsilon(t, 10*time.Millisecond, *got.Buckets[0].Latency(0.95), 0.2)

		q.EventType = new("b")
		got, err = r.Stats(ctx, q)
		require.NoError(t, err)
		require.Equal(t, 1, got.Total)
		require.Zero(t, got.Open)
		require.Nil(t, got.SuccessRate())
		require.Nil(t, got.Latency(0.5))

		q.EventType, q.WebhookID, q.Interval = nil, nil, 0
		each, err := r.StatsOfWebhooks(ctx, []string{w.ID, quiet.ID, w.ID, "nonsense"}, q)
		require.NoError(t, err)
		require.Len(t, each, 2)
		require.Equal(t, 16, each[w.ID].Total)
		require.Equal(t, 1, each[w.ID].Open)
		require.Equal(t, models.Stats{Buckets: []models.StatsBucket{}}, each[quiet.ID])
	})
}

func TestTenant_StatsBounds(t *testing.T) {
	t.Parallel()
	store := modelstest.SQLite(t)
	r := store.Tenant(all)
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		query   models.StatsQuery
		buckets int
		message string
	}{
		"default":           {models.StatsQuery{Interval: time.Hour}, 25, ""}, // widened to whole minutes
		"day":               {models.StatsQuery{Since: noon, Until: noon.Add(24 * time.Hour), Interval: time.Hour}, 24, ""},
		"cut":               {models.StatsQuery{Since: noon, Until: noon.Add(61 * time.Minute), Interval: time.Hour}, 2, ""},
		"most":              {models.StatsQuery{Since: noon, Until: noon.Add(1500 * time.Minute), Interval: time.Minute}, 1500, ""},
		"too many":          {models.StatsQuery{Since: noon, Until: noon.Add(1501 * time.Minute), Interval: time.Minute}, 0, "interval gives 1501 buckets, at most 1500 are allowed"},
		"empty":             {models.StatsQuery{Since: noon, Until: noon}, 0, "since must be before until"},
		"backward":          {models.StatsQuery{Since: noon, Until: noon.Add(-time.Hour)}, 0, "since must be before until"},
		"seconds":           {models.StatsQuery{Interval: 90 * time.Second}, 0, "interval must be whole minutes, at least one"},
		"negative interval": {models.StatsQuery{Interval: -time.Minute}, 0, "interval must be whole minutes, at least one"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := r.Stats(t.Context(), test.query)
			if test.message != "" {
				var bad *models.StatsError
				require.ErrorAs(t, err, &bad)
				require.Equal(t, test.message, bad.Message)
				return
			}
			require.NoError(t, err)
			require.Len(t, got.Buckets, test.buckets)
		})
	}
}

// Percentiles that come from buckets are near those of the times themselves, and never fall as
// the share rises.
func TestCounts_LatencyIsNearTheTruth(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var c models.Counts
		var longest time.Duration
		for _, us := range rapid.SliceOfN(rapid.Int64Range(100, 30_000_000), 1, 50).Draw(t, "times") {
			d := time.Duration(us) * time.Microsecond
			c.Add(models.LatencyBucket(d), 1)
			longest = max(longest, d)
		}
		last := time.Duration(0)
		for _, q := range []float64{0, 0.25, 0.5, 0.95, 0.99, 1} {
			got := *c.Latency(q)
			require.GreaterOrEqual(t, got, last)
			last = got
		}
		require.InEpsilon(t, longest, last, 0.2)
	})
}
