package models_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

func TestLease(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		take := func(holder string, ttl time.Duration) bool {
			held, err := store.AcquireLease(t.Context(), "reconcile", holder, ttl)
			require.NoError(t, err)
			return held
		}
		require.True(t, take("a", time.Minute))
		require.True(t, take("a", time.Minute), "renewed")
		require.False(t, take("b", time.Minute))
		require.NoError(t, store.ReleaseLease(t.Context(), "reconcile", "b"), "not b's to give")
		require.False(t, take("b", time.Minute))
		require.NoError(t, store.ReleaseLease(t.Context(), "reconcile", "a"))
		require.True(t, take("b", -time.Second))
		require.True(t, take("a", time.Minute), "b's has run out")

		var winners atomic.Int32
		var work sync.WaitGroup
		for g := range 8 {
			work.Go(func() {
				held, err := store.AcquireLease(context.Background(), "race", string(rune('a'+g)), time.Minute)
				assert.NoError(t, err)
				if held {
					winners.Add(1)
				}
			})
		}
		work.Wait()
		require.EqualValues(t, 1, winners.Load())
	})
}

func TestReconciledAgo(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		_, known, err := store.ReconciledAgo(t.Context())
		require.NoError(t, err)
		require.False(t, known, "never")
		for range 2 {
			require.NoError(t, store.MarkReconciled(t.Context()))
			require.NoError(t, store.Exec(t.Context(), "UPDATE leases SET expires_at = ?", models.Instant(time.Now().Add(-time.Hour))))
			age, known, err := store.ReconciledAgo(t.Context())
			require.NoError(t, err)
			require.True(t, known)
			require.InDelta(t, time.Hour.Seconds(), age.Seconds(), 60)
		}
		require.NoError(t, store.MarkReconciled(t.Context()))
		age, _, err := store.ReconciledAgo(t.Context())
		require.NoError(t, err)
		require.Less(t, age, time.Minute)
	})
}

func TestDueDeliveries_PagesSkipAndRepeatNothing(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		ids := due(t, store, w, 25) // all due at the same instant: the id decides
		claimOne(t, store, ids[3], "t1")
		later := eventTo(w)
		later.DeliverAt = new(time.Now().Add(time.Hour))
		commit(t, store, later)
		require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET next_attempt_at = ? WHERE id = ?",
			models.Instant(time.Now().Add(-time.Minute)), ids[20]))

		var seen []string
		var cursor models.DueCursor
		for {
			page, err := store.DueDeliveries(t.Context(), 0, cursor, 4)
			require.NoError(t, err)
			if len(page) == 0 {
				break
			}
			for _, d := range page {
				seen = append(seen, d.DeliveryID)
				require.Zero(t, d.AttemptCount)
			}
			cursor = page[len(page)-1].Cursor()
		}
		require.Len(t, seen, 24)
		require.Equal(t, ids[20], seen[0], "oldest first")
		require.NotContains(t, seen, ids[3])
		require.ElementsMatch(t, append(append([]string{}, ids[:3]...), ids[4:]...), seen)

		old, err := store.DueDeliveries(t.Context(), 30*time.Second, models.DueCursor{}, 10)
		require.NoError(t, err)
		require.Len(t, old, 1)
		stats, err := store.OpenStats(t.Context())
		require.NoError(t, err)
		require.Equal(t, 26, stats.Open)
		require.Greater(t, stats.OldestDue, 30*time.Second)
	})
}

func TestExpireClaims(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		ids := due(t, store, w, 3)
		_, err := store.Claim(t.Context(), ids, "t1", lease)
		require.NoError(t, err)
		expired, _, err := store.ExpireClaims(t.Context(), models.DueCursor{}, 10)
		require.NoError(t, err)
		require.Empty(t, expired, "their lease runs")

		require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET claimed_until = claimed_at WHERE id <> ?", ids[2]))
		require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET attempt_trigger = 'MANUAL' WHERE id = ?", ids[1]))
		var total []models.Due
		for range 2 {
			expired, _, err = store.ExpireClaims(t.Context(), models.DueCursor{}, 1)
			require.NoError(t, err)
			total = append(total, expired...)
		}
		require.Len(t, total, 2)
		for _, id := range ids[:2] {
			d := delivery(t, store, id)
			require.Equal(t, models.DeliveryRetrying, d.Status)
			require.Zero(t, d.AttemptCount, "it is made again")
			require.Zero(t, d.ScheduleStep)
			require.Nil(t, d.ClaimToken)
			require.Equal(t, models.OutcomeAbandoned, *d.LastOutcome)
			made := attempts(t, store, id)
			require.Len(t, made, 1)
			require.Equal(t, models.OutcomeAbandoned, *made[0].Outcome)
			require.Equal(t, "t1", made[0].Token)
			require.Equal(t, w.TargetURL, made[0].RequestURL)
			require.NotNil(t, made[0].EndedAt)
		}
		require.Equal(t, models.TriggerManual, claimOne(t, store, ids[1], "t2").Trigger, "still to be done")
		require.Equal(t, "t1", *delivery(t, store, ids[2]).ClaimToken)

		// A claim finds it run out before the sweep does: the attempt is not forgotten.
		require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET claimed_until = claimed_at WHERE id = ?", ids[2]))
		require.Equal(t, 1, claimOne(t, store, ids[2], "t3").Number)
		require.Len(t, attempts(t, store, ids[2]), 1)
	})
}

// What runs out together is abandoned together: a database that takes its time to answer is asked as often
// for hundreds as for a few. Otherwise a page of them would never be done within the time that it has.
func TestExpireClaims_AsksAsOftenForManyAsForFew(t *testing.T) {
	t.Parallel()
	dsn := testenv.PostgresURL(t)
	proxy := testenv.NewProxy(t, dsn)
	store := modelstest.Open(t, models.Options{DSN: proxy.URL(dsn)})
	asked := func(token string, n int) int {
		var ids []string
		for range 5 {
			ids = append(ids, due(t, store, newWebhook(t, store, "acme", nil), n/5)...)
		}
		_, err := store.Claim(t.Context(), ids, token, lease)
		require.NoError(t, err)
		require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET claimed_until = claimed_at WHERE claim_token IS NOT NULL"))
		var mu sync.Mutex
		trips, last := 0, map[int]testenv.Direction{}
		proxy.SetHook(func(connection int, direction testenv.Direction, _ []byte) testenv.Verdict {
			mu.Lock()
			defer mu.Unlock()
			if before, known := last[connection]; direction == testenv.ToServer && (!known || before != direction) {
				trips++
			}
			last[connection] = direction
			return testenv.Pass
		})
		expired, _, err := store.ExpireClaims(t.Context(), models.DueCursor{}, 1000)
		proxy.SetHook(nil)
		require.NoError(t, err)
		require.Len(t, expired, n)
		made, err := store.Count(t.Context(), "SELECT count(*) FROM attempts WHERE outcome = 'ABANDONED' AND token = ?", token)
		require.NoError(t, err)
		require.Equal(t, n, made)
		mu.Lock()
		defer mu.Unlock()
		return trips
	}
	asked("first", 5) // what is prepared once is prepared
	few, many := asked("few", 5), asked("many", 500)
	require.LessOrEqual(t, many, few+20, "every one of them costs its own time")
}

// A number that is taken is not given again.
func TestExpireClaims_NumbersThatAreTaken(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWebhook(t, store, "acme", nil)
		for _, c := range []struct {
			taken []int
			next  int
		}{
			{nil, 3}, {[]int{3}, 4}, {[]int{3, 4}, 5}, {[]int{4}, 3}, {[]int{3, 5}, 4}, {[]int{1, 2, 3, 6}, 4},
		} {
			id := due(t, store, w, 1)[0]
			for _, n := range c.taken {
				require.NoError(t, store.Exec(t.Context(), `INSERT INTO attempts (delivery_id, number, tenant, token, "trigger", started_at, request_url, request_headers)
					SELECT id, ?, tenant, 'late', 'SCHEDULE', created_at, '', '[]' FROM deliveries WHERE id = ?`, n, id))
			}
			require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET attempt_count = 2 WHERE id = ?", id))
			claimOne(t, store, id, "gone")
			abandon(t, store, id)
			var numbers []int
			for _, a := range attempts(t, store, id) {
				if a.Outcome != nil {
					numbers = append(numbers, a.Number)
				}
			}
			require.Equal(t, []int{c.next}, numbers, "%v are taken", c.taken)
		}
	})
}

// A backlog is looked through in parts, with whatever stands in it.
func TestExpireClaims_InParts(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		const read, limit = 4, 2
		store.ReadClaims(read)
		ids := due(t, store, newWebhook(t, store, "acme", nil), 21)
		// Some are due at the same moment.
		require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET next_attempt_at = (SELECT min(next_attempt_at) FROM deliveries) WHERE id IN ?", ids[:9]))
		dead := append(append([]string{}, ids[3:8]...), ids[13], ids[20])
		_, err := store.Claim(t.Context(), dead, "dead", lease)
		require.NoError(t, err)
		require.NoError(t, store.Exec(t.Context(), "UPDATE deliveries SET claimed_until = claimed_at WHERE claim_token = 'dead'"))
		_, err = store.Claim(t.Context(), []string{ids[0], ids[14]}, "alive", lease)
		require.NoError(t, err)

		var found []string
		calls := 0
		for after := (models.DueCursor{}); ; calls++ {
			expired, next, err := store.ExpireClaims(t.Context(), after, limit)
			require.NoError(t, err)
			require.LessOrEqual(t, len(expired), limit)
			for _, d := range expired {
				found = append(found, d.DeliveryID)
			}
			if next == (models.DueCursor{}) {
				break
			}
			after = next
		}
		require.ElementsMatch(t, dead, found)
		require.LessOrEqual(t, calls, len(ids)/read+len(dead)/limit+1)
		alive, err := store.Count(t.Context(), "SELECT count(*) FROM deliveries WHERE claim_token = 'alive'")
		require.NoError(t, err)
		require.Equal(t, 2, alive)
	})
}

// Whoever changes a delivery waits for nobody who only looks for what has run out.
func TestExpireClaims_SearchesWithoutALock(t *testing.T) {
	t.Parallel()
	test := func(t *testing.T, dsn, driver, source string, lock ...string) {
		t.Helper()
		store := modelstest.Open(t, models.Options{DSN: dsn, StatementTimeout: time.Minute, WorkTimeout: 5 * time.Second})
		ids := due(t, store, newWebhook(t, store, "acme", nil), 10)
		_, err := store.Claim(t.Context(), ids, "t1", lease)
		require.NoError(t, err)
		db, err := sql.Open(driver, source)
		require.NoError(t, err)
		defer func() { require.NoError(t, db.Close()) }()
		other, err := db.Conn(t.Context())
		require.NoError(t, err)
		defer func() { require.NoError(t, other.Close()) }()
		all := func(statements ...string) {
			for _, text := range statements {
				_, err := other.ExecContext(t.Context(), text)
				require.NoError(t, err)
			}
		}
		all(lock...)
		expired, _, err := store.ExpireClaims(t.Context(), models.DueCursor{}, 10)
		require.NoError(t, err, "it waits for who writes")
		require.Empty(t, expired)
		all("UPDATE deliveries SET claimed_until = claimed_at", "COMMIT")

		all(lock...)
		_, _, err = store.ExpireClaims(t.Context(), models.DueCursor{}, 10)
		var away *models.UnavailableError
		require.ErrorAs(t, err, &away, "what it finds it changes, and that waits")
		all("ROLLBACK")
		expired, _, err = store.ExpireClaims(t.Context(), models.DueCursor{}, 10)
		require.NoError(t, err)
		require.Len(t, expired, len(ids))
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "webhooks.db")
		test(t, path, "sqlite", "file:"+path, "BEGIN IMMEDIATE")
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		dsn := testenv.PostgresURL(t)
		test(t, dsn, "pgx", dsn, "BEGIN", "LOCK TABLE deliveries IN EXCLUSIVE MODE")
	})
}

func TestSettleInactive(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		heldOnes := func(w models.Webhook) string {
			e := eventTo(w)
			e.Deliveries[0].Status = models.DeliveryHeld
			return commit(t, store, e)[0].Deliveries[0].ID
		}
		tests := []struct {
			name, set string
			open      models.DeliveryStatus // what becomes of an open delivery
			held      models.DeliveryStatus // and of a held one
			reason    models.DeliveryStatusReason
		}{
			{"active", "status = 'ACTIVE'", models.DeliveryPending, models.DeliveryPending, ""},
			{"paused", "status = 'PAUSED'", models.DeliveryHeld, models.DeliveryHeld, models.ReasonWebhookPaused},
			{"disabled", "status = 'DISABLED', status_reason = 'BY_USER'", models.DeliveryCancelled, models.DeliveryCancelled, models.ReasonWebhookDisabled},
			{"gone", "status = 'DISABLED', status_reason = 'RECEIVER_GONE'", models.DeliveryCancelled, models.DeliveryCancelled, models.ReasonGone},
			{"deleted", "deleted_at = created_at", models.DeliveryCancelled, models.DeliveryCancelled, models.ReasonWebhookDeleted},
		}
		ids := make([][2]string, len(tests))
		for i, test := range tests {
			w := newWebhook(t, store, "acme", nil)
			ids[i] = [2]string{due(t, store, w, 1)[0], heldOnes(w)}
			require.NoError(t, store.Exec(t.Context(), "UPDATE webhooks SET "+test.set+" WHERE id = ?", w.ID))
		}
		total := 0
		for range 20 {
			n, err := store.SettleInactive(t.Context(), 2)
			require.NoError(t, err)
			total += n
		}
		require.Equal(t, 8, total)
		for i, test := range tests {
			open, held := delivery(t, store, ids[i][0]), delivery(t, store, ids[i][1])
			require.Equal(t, test.open, open.Status, test.name)
			require.Equal(t, test.held, held.Status, test.name)
			if test.reason != "" {
				require.Equal(t, test.reason, *open.StatusReason, test.name)
			}
		}
	})
}
