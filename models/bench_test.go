package models_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// benchSize is how much a saturated process takes at once.
const benchSize = 256

func eachBench(b *testing.B, bench func(b *testing.B, store *models.Store)) {
	b.Helper()
	b.Run("sqlite", func(b *testing.B) { bench(b, modelstest.SQLite(b)) })
	b.Run("postgres", func(b *testing.B) { bench(b, modelstest.Postgres(b)) })
}

// benchWebhooks is twenty webhooks, among which load is spread.
func benchWebhooks(b *testing.B, store *models.Store) []models.Webhook {
	b.Helper()
	webhooks := make([]models.Webhook, 20)
	for i := range webhooks {
		webhooks[i] = newWebhook(b, store, "acme", nil)
	}
	return webhooks
}

func benchEvents(webhooks []models.Webhook, n int) []models.NewEvent {
	events := make([]models.NewEvent, n)
	for i := range events {
		events[i] = eventTo(webhooks[i%len(webhooks)])
		events[i].Data = new(`{"participant":{"id":"p_1","email":"ada@example.com","tags":["a","b"]},"at":"2026-01-01T00:00:00Z"}`)
	}
	return events
}

// The time of one flush; the metric is what it means for single ones.
func perSecond(b *testing.B, what string) {
	b.Helper()
	b.ReportMetric(float64(b.N)*benchSize/b.Elapsed().Seconds(), what+"/s")
}

func BenchmarkCommitEvents(b *testing.B) {
	eachBench(b, func(b *testing.B, store *models.Store) {
		webhooks := benchWebhooks(b, store)
		for b.Loop() {
			commit(b, store, benchEvents(webhooks, benchSize)...)
		}
		perSecond(b, "events")
	})
}

func BenchmarkCommitEvents_One(b *testing.B) {
	eachBench(b, func(b *testing.B, store *models.Store) {
		webhooks := benchWebhooks(b, store)
		for b.Loop() {
			commit(b, store, benchEvents(webhooks, 1)...)
		}
	})
}

// benchDue is b.N flushes' worth of due deliveries, in bundles.
func benchDue(b *testing.B, store *models.Store, webhooks []models.Webhook) []string {
	b.Helper()
	ids := make([]string, 0, benchSize)
	for _, r := range commit(b, store, benchEvents(webhooks, benchSize)...) {
		ids = append(ids, r.Deliveries[0].ID)
	}
	return ids
}

func BenchmarkClaim(b *testing.B) {
	const bundle = 32
	eachBench(b, func(b *testing.B, store *models.Store) {
		webhooks := benchWebhooks(b, store)
		n := 0
		for b.Loop() {
			b.StopTimer()
			ids := benchDue(b, store, webhooks)
			b.StartTimer()
			for from := 0; from < len(ids); from += bundle {
				claims, err := store.Claim(context.Background(), ids[from:from+bundle], fmt.Sprint("t", n), lease)
				require.NoError(b, err)
				require.Len(b, claims.Claimed, bundle)
				n++
			}
		}
		perSecond(b, "claims")
	})
}

func BenchmarkRecord(b *testing.B) {
	eachBench(b, func(b *testing.B, store *models.Store) {
		webhooks := benchWebhooks(b, store)
		for b.Loop() {
			b.StopTimer()
			claims, err := store.Claim(context.Background(), benchDue(b, store, webhooks), "t", lease)
			require.NoError(b, err)
			records := make([]models.AttemptRecord, len(claims.Claimed))
			for i, c := range claims.Claimed {
				records[i] = attempt(c, models.OutcomeSuccess, models.Succeeded())
				records[i].Attempt.TotalMicros = new(int64(300 + 17*i))
			}
			b.StartTimer()
			_, err = store.Record(context.Background(), records)
			require.NoError(b, err)
		}
		perSecond(b, "records")
	})
}

// BenchmarkPipeline is commit, claim and record of the same deliveries: the database's share of a
// delivery's way.
func BenchmarkPipeline(b *testing.B) {
	eachBench(b, func(b *testing.B, store *models.Store) {
		webhooks := benchWebhooks(b, store)
		for b.Loop() {
			claims, err := store.Claim(context.Background(), benchDue(b, store, webhooks), "t", lease)
			require.NoError(b, err)
			records := make([]models.AttemptRecord, len(claims.Claimed))
			for i, c := range claims.Claimed {
				records[i] = attempt(c, models.OutcomeSuccess, models.Succeeded())
				records[i].Attempt.TotalMicros = new(int64(300 + 17*i))
			}
			_, err = store.Record(context.Background(), records)
			require.NoError(b, err)
		}
		perSecond(b, "deliveries")
	})
}
