package models_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

const lease = time.Minute

// eventTo is an event with a delivery to each webhook.
func eventTo(webhooks ...models.Webhook) models.NewEvent {
	e := models.NewEvent{Event: models.Event{EventType: "participant.created", Data: new(`{"n":1.10}`), Matched: len(webhooks)}}
	for _, w := range webhooks {
		e.Tenant = w.Tenant
		e.Deliveries = append(e.Deliveries, models.Delivery{WebhookID: w.ID, Revision: w.Revision})
	}
	return e
}

func commit(t testing.TB, store *models.Store, events ...models.NewEvent) []models.EventResult {
	t.Helper()
	results, err := store.CommitEvents(context.Background(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
		return events, nil
	})
	require.NoError(t, err)
	return results
}

// due is n deliveries to w that are due now, by id.
func due(t testing.TB, store *models.Store, w models.Webhook, n int) []string {
	t.Helper()
	events := make([]models.NewEvent, n)
	for i := range events {
		events[i] = eventTo(w)
	}
	ids := make([]string, n)
	for i, r := range commit(t, store, events...) {
		require.NoError(t, r.Err)
		ids[i] = r.Deliveries[0].ID
	}
	return ids
}

func delivery(t testing.TB, store *models.Store, id string) models.Delivery {
	t.Helper()
	d, err := store.Tenant(models.Reach{All: true}).Delivery(context.Background(), id)
	require.NoError(t, err)
	return d
}

func attempts(t testing.TB, store *models.Store, id string) []models.Attempt {
	t.Helper()
	of, err := store.Tenant(models.Reach{All: true}).AttemptsOf(context.Background(), []string{id})
	require.NoError(t, err)
	return of[id]
}

func claimOne(t testing.TB, store *models.Store, id, token string) models.Claim {
	t.Helper()
	claims, err := store.Claim(context.Background(), []string{id}, token, lease)
	require.NoError(t, err)
	require.Len(t, claims.Claimed, 1)
	return claims.Claimed[0]
}

func TestCommitEvents_AllOrNothing(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		results := commit(t, store, eventTo(w, w), eventTo())
		require.Len(t, results, 2)
		event, err := store.Tenant(models.Reach{Tenant: "acme"}).Event(t.Context(), results[0].Event.ID)
		require.NoError(t, err)
		require.Equal(t, results[0].Event, event)
		require.Equal(t, `{"n":1.10}`, *event.Data)
		require.Equal(t, w.Epoch, event.Epoch)
		require.Len(t, results[0].Deliveries, 2)
		for _, d := range results[0].Deliveries {
			require.Equal(t, d, delivery(t, store, d.ID))
			require.Equal(t, models.DeliveryPending, d.Status)
			require.Equal(t, event.CreatedAt, *d.NextAttemptAt)
		}

		// The second event's id is taken: the first must not stay either.
		first := eventTo(w)
		first.ID = models.NewID(models.PrefixEvent)
		second := eventTo(w)
		second.ID = event.ID
		_, err = store.CommitEvents(t.Context(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
			return []models.NewEvent{first, second}, nil
		})
		require.Error(t, err)
		_, err = store.Tenant(models.Reach{All: true}).Event(t.Context(), first.ID)
		require.ErrorIs(t, err, models.ErrNotFound)
		n, err := store.Count(t.Context(), "SELECT count(*) FROM deliveries")
		require.NoError(t, err)
		require.Equal(t, 2, n)
	})
}

func TestCommitEvents_SeesConfigOfItsEpoch(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		other := newWebhook(t, store, "other", nil)
		_, err := store.CommitEvents(t.Context(), func(_ context.Context, tx *models.EventTx) ([]models.NewEvent, error) {
			require.Equal(t, other.Epoch, tx.Epoch())
			require.WithinDuration(t, time.Now(), tx.Now(), time.Minute)
			webhooks, err := tx.Webhooks("acme")
			require.NoError(t, err)
			require.Equal(t, []models.Webhook{w}, webhooks)
			changes, err := tx.ChangesSince(w.Epoch)
			require.NoError(t, err)
			require.Len(t, changes, 1)
			require.Equal(t, other.ID, changes[0].ObjectID)
			require.Equal(t, "other", changes[0].Tenant)
			require.Equal(t, models.ChangedWebhook, changes[0].Kind)
			types, err := tx.EventTypes()
			require.NoError(t, err)
			require.Empty(t, types)
			return nil, nil
		})
		require.NoError(t, err)
		head, err := store.ConfigEpoch(t.Context())
		require.NoError(t, err)
		require.Equal(t, other.Epoch, head)
	})
}

// keyed is an event under an idempotency key.
func keyed(w models.Webhook, key, hash string) models.NewEvent {
	e := eventTo(w)
	e.IdempotencyKey, e.IdempotencyHash = &key, hash
	return e
}

func TestCommitEvents_Idempotency(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		acme, other := newWebhook(t, store, "acme", nil), newWebhook(t, store, "other", nil)
		r := commit(t, store, keyed(acme, "k", "h1"), keyed(acme, "k", "h1"), keyed(acme, "k", "h2"), keyed(other, "k", "h2"), eventTo(acme))
		first := r[0].Event
		require.False(t, r[0].Duplicate)
		require.True(t, r[1].Duplicate)
		require.Equal(t, first, r[1].Event)
		require.Empty(t, r[1].Deliveries)
		require.ErrorIs(t, r[2].Err, models.ErrIdempotencyMismatch)
		require.False(t, r[3].Duplicate, "another tenant's key")
		require.NoError(t, r[4].Err)

		r = commit(t, store, keyed(acme, "k", "h2"), keyed(acme, "k", "h1"), keyed(acme, "new", "h"))
		require.ErrorIs(t, r[0].Err, models.ErrIdempotencyMismatch)
		require.ErrorIs(t, r[1].Err, models.ErrIdempotencyMismatch, "the batch's first event under a key decides")
		require.NoError(t, r[2].Err)
		r = commit(t, store, keyed(acme, "k", "h1"))
		require.True(t, r[0].Duplicate)
		require.Equal(t, first, r[0].Event)

		require.NoError(t, store.Exec(t.Context(), "UPDATE idempotency_keys SET expires_at = ?", time.Now().Add(-time.Second).UTC()))
		r = commit(t, store, keyed(acme, "k", "h2"))
		require.NoError(t, r[0].Err)
		require.False(t, r[0].Duplicate)
		require.NotEqual(t, first.ID, r[0].Event.ID)
	})
}

func TestCommitEvents_RacingKeysMakeOneEvent(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		var work sync.WaitGroup
		ids := make([][]string, 8)
		var created atomic.Int32
		for g := range ids {
			work.Go(func() {
				var events []models.NewEvent
				for k := range 5 {
					key := strconv.Itoa((k + g) % 5) // in another order each: none may deadlock
					events = append(events, keyed(w, key, "h"+key))
				}
				results, err := store.CommitEvents(context.Background(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
					return events, nil
				})
				if !assert.NoError(t, err) {
					return
				}
				ids[g] = make([]string, 5)
				for i, r := range results {
					assert.NoError(t, r.Err)
					ids[g][(i+g)%5] = r.Event.ID
					if !r.Duplicate {
						created.Add(1)
					}
				}
			})
		}
		work.Wait()
		require.EqualValues(t, 5, created.Load())
		for _, other := range ids {
			require.Equal(t, ids[0], other)
		}
		n, err := store.Count(t.Context(), "SELECT count(*) FROM deliveries")
		require.NoError(t, err)
		require.Equal(t, 5, n)
	})
}

func TestClaim(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		scheduled := eventTo(w)
		scheduled.DeliverAt = new(time.Now().Add(time.Hour))
		shaped := eventTo(w)
		shaped.Deliveries[0].Body = new(`{"shaped":true}`)
		held := eventTo(w)
		held.Deliveries[0].Status = models.DeliveryHeld
		r := commit(t, store, eventTo(w), scheduled, shaped, held)
		ids := []string{r[0].Deliveries[0].ID, r[1].Deliveries[0].ID, r[2].Deliveries[0].ID, r[3].Deliveries[0].ID, models.NewID(models.PrefixDelivery)}
		claims, err := store.Claim(t.Context(), append(ids, ids[0]), "t1", lease)
		require.NoError(t, err)
		require.Len(t, claims.Claimed, 2)
		byID := map[string]models.Claim{}
		for _, c := range claims.Claimed {
			byID[c.DeliveryID] = c
		}
		c := byID[ids[0]]
		require.WithinDuration(t, time.Now(), c.ClaimedAt, time.Minute)
		c.ClaimedAt = time.Time{}
		require.Equal(t, models.Claim{
			DeliveryID: ids[0], Tenant: "acme", EventID: r[0].Event.ID, WebhookID: w.ID, WebhookRevision: w.Revision,
			EventType: "participant.created", EventTimestamp: r[0].Event.Timestamp, Data: `{"n":1.10}`, Number: 1,
			Trigger: models.TriggerAutomatic, Token: "t1", CreatedAt: r[0].Event.CreatedAt,
		}, c)
		require.Equal(t, `{"shaped":true}`, byID[ids[2]].Data)
		require.Equal(t, []models.Later{{DeliveryID: ids[1], NextAttemptAt: *r[1].Deliveries[0].NextAttemptAt}}, claims.Later)

		again, err := store.Claim(t.Context(), ids, "t1", lease)
		require.NoError(t, err)
		require.Len(t, again.Claimed, 2, "a call whose answer was lost can be repeated")
		other, err := store.Claim(t.Context(), ids, "t2", lease)
		require.NoError(t, err)
		require.Empty(t, other.Claimed)
		none, err := store.Claim(t.Context(), nil, "t2", lease)
		require.NoError(t, err)
		require.Empty(t, none.Claimed)
	})
}

func TestClaim_NotWithoutActiveWebhook(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		for name, set := range map[string]string{
			"paused":   "UPDATE webhooks SET status = 'PAUSED' WHERE id = ?",
			"disabled": "UPDATE webhooks SET status = 'DISABLED' WHERE id = ?",
			"deleted":  "UPDATE webhooks SET deleted_at = created_at WHERE id = ?",
			"erased":   "UPDATE events SET erased_at = created_at WHERE id IN (SELECT event_id FROM deliveries WHERE webhook_id = ?)",
		} {
			w := newWebhook(t, store, "acme", nil)
			ids := due(t, store, w, 1)
			require.NoError(t, store.Exec(t.Context(), set, w.ID))
			claims, err := store.Claim(t.Context(), ids, "t", lease)
			require.NoError(t, err)
			require.Empty(t, claims.Claimed, name)
			require.Empty(t, claims.Later, name)
		}
	})
}

func TestClaim_EachByExactlyOneToken(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		ids := due(t, store, w, 200)
		var mu sync.Mutex
		claimed := map[string]string{}
		var work sync.WaitGroup
		for g := range 12 {
			work.Go(func() {
				for i := range 10 {
					// Overlapping windows, walked from different places.
					from := (g*37 + i*20) % 200
					window := append(append([]string{}, ids[from:]...), ids[:from]...)[:32]
					token := fmt.Sprintf("t%d-%d", g, i)
					claims, err := store.Claim(context.Background(), window, token, lease)
					if !assert.NoError(t, err) {
						return
					}
					mu.Lock()
					for _, c := range claims.Claimed {
						assert.Empty(t, claimed[c.DeliveryID])
						claimed[c.DeliveryID] = token
					}
					mu.Unlock()
				}
			})
		}
		work.Wait()
		require.Len(t, claimed, 200)
		for id, token := range claimed {
			require.Equal(t, token, *delivery(t, store, id).ClaimToken)
		}
	})
}

// Once a status change has answered, nothing is claimed, whatever claims were on their way.
func TestClaim_NeverAfterPauseAnswered(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		for range 10 {
			w := newWebhook(t, store, "acme", nil)
			ids := due(t, store, w, 64)
			var paused atomic.Bool
			var work sync.WaitGroup
			for g := range 4 {
				work.Go(func() {
					for i := g; i < len(ids); i += 4 {
						before := paused.Load()
						claims, err := store.Claim(context.Background(), ids[i:i+1], models.NewID("t_"), lease)
						assert.NoError(t, err)
						if before {
							assert.Empty(t, claims.Claimed)
						}
					}
				})
			}
			_, err := store.SetWebhookStatus(t.Context(), models.Reach{All: true}, w.ID, models.WebhookPaused, models.ReasonByUser, nil)
			require.NoError(t, err)
			paused.Store(true)
			work.Wait()
			claims, err := store.Claim(t.Context(), ids, "late", lease)
			require.NoError(t, err)
			require.Empty(t, claims.Claimed)
		}
	})
}

func TestRelease(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		ids := due(t, store, w, 3)
		for _, id := range ids {
			claimOne(t, store, id, "t1")
		}
		require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET status = 'HELD', next_attempt_at = NULL WHERE id = ?", ids[2]))
		released, err := store.Release(t.Context(), []models.Release{
			{DeliveryID: ids[1], Token: "t1", After: time.Minute, Reason: new(models.ReasonRateLimited), Detail: "Ten a second."},
			{DeliveryID: ids[0], Token: "other"},
			{DeliveryID: ids[2], Token: "t1"},
			{DeliveryID: "dlv_none", Token: "t1"},
		})
		require.NoError(t, err)
		require.Len(t, released, 4)
		require.True(t, released[0].Applied)
		require.Equal(t, models.DeliveryPending, released[0].Status)
		require.WithinDuration(t, time.Now().Add(time.Minute), *released[0].NextAttemptAt, 30*time.Second)
		require.Zero(t, released[0].AttemptCount)
		require.False(t, released[1].Applied)
		require.True(t, released[2].Applied)
		require.Equal(t, models.DeliveryHeld, released[2].Status)
		require.Nil(t, released[2].NextAttemptAt)
		require.Equal(t, models.Recorded{DeliveryID: "dlv_none"}, released[3])

		d := delivery(t, store, ids[1])
		require.Nil(t, d.ClaimToken)
		require.Equal(t, models.ReasonRateLimited, *d.StatusReason)
		require.Equal(t, "Ten a second.", *d.StatusDetail)
		require.Equal(t, "t1", *delivery(t, store, ids[0]).ClaimToken)
		claims, err := store.Claim(t.Context(), ids, "t2", lease)
		require.NoError(t, err)
		require.Empty(t, claims.Claimed)
		require.Len(t, claims.Later, 1)
	})
}

func TestExtendClaims(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		ids := due(t, store, w, 2)
		_, err := store.Claim(t.Context(), ids, "t1", time.Second)
		require.NoError(t, err)
		require.NoError(t, store.ExtendClaims(t.Context(), []models.ClaimKey{
			{DeliveryID: ids[1], Token: "t1"}, {DeliveryID: ids[0], Token: "other"},
		}, time.Hour))
		require.WithinDuration(t, time.Now().Add(time.Second), *delivery(t, store, ids[0]).ClaimedUntil, 30*time.Second)
		require.WithinDuration(t, time.Now().Add(time.Hour), *delivery(t, store, ids[1]).ClaimedUntil, 30*time.Second)
	})
}

func TestAwaitQuiet(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		ids := due(t, store, w, 1)
		least := time.Hour // of several: a busy machine may hold any one up
		for range 5 {
			began := time.Now()
			require.NoError(t, store.AwaitQuiet(t.Context(), w.ID))
			least = min(least, time.Since(began))
		}
		require.Less(t, least, 500*time.Millisecond, "nothing is claimed")

		c := claimOne(t, store, ids[0], "t1")
		quiet := make(chan error)
		go func() { quiet <- store.AwaitQuiet(context.Background(), w.ID) }()
		_, err := store.Record(t.Context(), []models.AttemptRecord{attempt(c, models.OutcomeSuccess, models.Succeeded())})
		require.NoError(t, err)
		require.NoError(t, <-quiet)

		ids = due(t, store, w, 1)
		claimOne(t, store, ids[0], "t2")
		claimed := time.Now()
		require.NoError(t, store.AwaitDeliveryQuiet(t.Context(), ids[0]))
		require.Greater(t, time.Since(claimed), 500*time.Millisecond, "the claim may start until its second is over")
		require.Less(t, time.Since(claimed), 30*time.Second, "and no longer, though nothing is recorded")
	})
}
