package live_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/live"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = 30 * time.Second

var everything = models.Reach{All: true}

// run makes a feed that runs until the test ends.
func run(t testing.TB, o live.Options) *live.Feed {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	if o.Retention == 0 {
		o.Retention = time.Hour
	}
	f := live.New(o)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-done)
	})
	return f
}

// emit commits events of a tenant and returns their ids.
func emit(t testing.TB, store *models.Store, tenant string, n int) []string {
	t.Helper()
	ids, err := tryEmit(context.Background(), store, tenant, n, `{}`)
	require.NoError(t, err)
	return ids
}

func tryEmit(ctx context.Context, store *models.Store, tenant string, n int, data string) ([]string, error) {
	results, err := store.CommitEvents(ctx, func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
		events := make([]models.NewEvent, n)
		for i := range events {
			events[i] = models.NewEvent{Event: models.Event{Tenant: tenant, EventType: "a.b", Data: &data}}
		}
		return events, nil
	})
	ids := make([]string, len(results))
	for i := range results {
		ids[i] = results[i].Event.ID
	}
	return ids, err
}

func all(e *models.Event) (string, bool, error) { return *e.Data, true, nil }

// follow follows the events that reach may see.
func follow(t testing.TB, f *live.Feed, reach models.Reach, after *string) *live.Subscription {
	t.Helper()
	s, err := f.Events(context.Background(), live.Query{Reach: reach, After: after}, all)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func next(t testing.TB, s *live.Subscription) live.Update {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	u, err := s.Next(ctx)
	require.NoError(t, err)
	return u
}

// take reads n updates.
func take(t testing.TB, s *live.Subscription, n int) (ids []string, cursor string) {
	t.Helper()
	for range n {
		u := next(t, s)
		ids, cursor = append(ids, u.Event.ID), u.Cursor
	}
	return ids, cursor
}

func TestFollow_WhatOneMaySee(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		f := run(t, live.Options{Store: store})
		acme := follow(t, f, models.Reach{Tenant: "acme"}, nil)
		other := follow(t, f, models.Reach{Tenant: "other"}, nil)
		platform := follow(t, f, everything, nil)
		a, b := emit(t, store, "acme", 2), emit(t, store, "other", 1)
		c := emit(t, store, "acme", 1)

		ids, _ := take(t, acme, 3)
		require.Equal(t, append(a, c...), ids)
		ids, cursor := take(t, other, 1)
		require.Equal(t, b, ids)
		ids, _ = take(t, platform, 4)
		require.Equal(t, append(append(a, b...), c...), ids)

		// A cursor says where, not what one may see.
		resumed := follow(t, f, models.Reach{Tenant: "acme"}, &cursor)
		ids, _ = take(t, resumed, 1)
		require.Equal(t, c, ids)
	})
}

func TestFollow_Cursors(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		f := run(t, live.Options{Store: store, Retention: time.Hour})
		s := follow(t, f, everything, nil)
		emit(t, store, "acme", 1)
		cursor := next(t, s).Cursor
		for _, bad := range []string{"", "nonsense", cursor + "x"} {
			_, err := f.Events(t.Context(), live.Query{Reach: everything, After: &bad}, all)
			require.ErrorIs(t, err, models.ErrInvalidCursor)
		}
		_, err := f.Deliveries(t.Context(), live.Query{Reach: everything, After: &cursor}, models.DeliveryFilter{})
		require.ErrorIs(t, err, models.ErrInvalidCursor, "it is one of events")

		strict := run(t, live.Options{Store: store, Retention: time.Nanosecond})
		_, err = strict.Events(t.Context(), live.Query{Reach: everything, After: &cursor}, all)
		require.ErrorIs(t, err, models.ErrCursorExpired)
		require.Zero(t, strict.Followers())
	})
}

// Followers that break off at any update and go on from its cursor, while several writers commit, get
// each event once.
func TestFollow_ResumingMeetsTheTailWithoutGapOrRepeat(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		const writers, flushes, each, followers = 3, 40, 3, 4
		f := run(t, live.Options{Store: store})
		type place struct {
			s    *live.Subscription
			seen map[string]int
		}
		places := make([]place, followers)
		for i := range places {
			places[i] = place{follow(t, f, everything, nil), map[string]int{}}
		}
		g, ctx := errgroup.WithContext(t.Context())
		var mu sync.Mutex
		var written []string
		for range writers {
			g.Go(func() error {
				for range flushes {
					ids, err := tryEmit(ctx, store, "acme", each, `{}`)
					if err != nil {
						return err
					}
					mu.Lock()
					written = append(written, ids...)
					mu.Unlock()
				}
				return nil
			})
		}
		for i := range places {
			g.Go(func() error {
				p := &places[i]
				ctx, cancel := context.WithTimeout(ctx, deadline)
				defer cancel()
				for len(p.seen) < writers*flushes*each {
					u, err := p.s.Next(ctx)
					if err != nil {
						return fmt.Errorf("after %d of %d: %w", len(p.seen), writers*flushes*each, err)
					}
					p.seen[u.Event.ID]++
					if rand.IntN(20) == 0 {
						p.s.Close()
						if p.s, err = f.Events(ctx, live.Query{Reach: everything, After: &u.Cursor}, all); err != nil {
							return err
						}
					}
				}
				p.s.Close()
				return nil
			})
		}
		require.NoError(t, g.Wait())
		for i, p := range places {
			for _, id := range written {
				require.Equal(t, 1, p.seen[id], "follower %d", i)
			}
		}
		require.Zero(t, f.Followers())
	})
}

func TestFollow_SlowOnesAreDroppedAndMayGoOn(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]live.Options{"changes": {MaxLag: 10}, "bytes": {MaxLagBytes: 10_000}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			modelstest.Each(t, func(t *testing.T, store *models.Store) {
				options := o
				options.Store = store
				f := run(t, options)
				slow, quick := follow(t, f, everything, nil), follow(t, f, everything, nil)
				first := emit(t, store, "acme", 1)
				ids, cursor := take(t, slow, 1)
				require.Equal(t, first, ids)
				take(t, quick, 1)
				var written []string
				for range 20 {
					ids, err := tryEmit(t.Context(), store, "acme", 5, fmt.Sprintf(`{"x":"%01000d"}`, 0))
					require.NoError(t, err)
					written = append(written, ids...)
					got, _ := take(t, quick, 5)
					require.Equal(t, ids, got)
				}
				// What it had already may still be read, then it is told.
				var err error
				for err == nil {
					_, err = slow.Next(t.Context())
				}
				require.ErrorIs(t, err, live.ErrSlow)
				_, err = slow.Next(t.Context())
				require.ErrorIs(t, err, live.ErrSlow, "and stays dropped")
				ids, _ = take(t, follow(t, f, everything, &cursor), len(written))
				require.Equal(t, written, ids)
			})
		})
	}
}

// Between joining the tail and having read the rest of the backlog, the tail may run away.
func TestFollow_ABacklogThatTheTailOutrunsIsReadFromTheLog(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		f := run(t, live.Options{Store: store, MaxLag: 5})
		witness := follow(t, f, everything, nil)
		emit(t, store, "acme", 1)
		_, cursor := take(t, witness, 1)
		written := emit(t, store, "acme", 3)
		take(t, witness, 3)
		s := follow(t, f, everything, &cursor) // has read a page, and joined
		for range 10 {
			written = append(written, emit(t, store, "acme", 4)...)
			take(t, witness, 4)
		}
		ids, _ := take(t, s, len(written))
		require.Equal(t, written, ids)
		more := emit(t, store, "acme", 1)
		ids, _ = take(t, s, 1)
		require.Equal(t, more, ids)
	})
}

func TestFollow_Deliveries(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		f := run(t, live.Options{Store: store})
		open := func(reach models.Reach, filter models.DeliveryFilter) *live.Subscription {
			s, err := f.Deliveries(t.Context(), live.Query{Reach: reach}, filter)
			require.NoError(t, err)
			t.Cleanup(s.Close)
			return s
		}
		other := "other"
		cancelled := open(everything, models.DeliveryFilter{Statuses: []models.DeliveryStatus{models.DeliveryCancelled}})
		foreign := open(everything, models.DeliveryFilter{Tenant: &other})
		w := &models.Webhook{Name: "w", Tenant: "acme", TargetURL: "https://receiver.example", EventTypes: models.StringList{"*"}, Signing: models.SigningHMAC}
		require.NoError(t, store.CreateWebhook(t.Context(), w))
		data := `{}`
		make1 := func(tenant string) models.Delivery {
			results, err := store.CommitEvents(t.Context(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
				return []models.NewEvent{{
					Event:      models.Event{Tenant: tenant, EventType: "a.b", Data: &data},
					Deliveries: []models.Delivery{{WebhookID: w.ID, Revision: 1}},
				}}, nil
			})
			require.NoError(t, err)
			return results[0].Deliveries[0]
		}
		d := make1("acme")
		_, err := store.CancelDelivery(t.Context(), everything, d.ID)
		require.NoError(t, err)
		_, err = store.Redeliver(t.Context(), everything, d.ID)
		require.NoError(t, err)
		_, err = store.CancelDelivery(t.Context(), everything, d.ID)
		require.NoError(t, err)
		for range 2 { // it was cancelled twice, though it is cancelled once by now
			u := next(t, cancelled)
			require.Equal(t, d.ID, u.Delivery.ID)
			require.Equal(t, models.DeliveryCancelled, u.Delivery.Status)
			require.Equal(t, w.ID, u.Delivery.WebhookID)
		}
		theirs := make1("other")
		require.Equal(t, theirs.ID, next(t, foreign).Delivery.ID)
	})
}

func TestFollow_WhatKeepSaysEndsIt(t *testing.T) {
	t.Parallel()
	store := modelstest.SQLite(t)
	f := run(t, live.Options{Store: store})
	broken := errors.New("broken")
	s, err := f.Events(t.Context(), live.Query{Reach: everything}, func(*models.Event) (string, bool, error) { return "", false, broken })
	require.NoError(t, err)
	t.Cleanup(s.Close)
	emit(t, store, "acme", 1)
	_, err = s.Next(t.Context())
	require.ErrorIs(t, err, broken)
	require.Zero(t, f.Followers())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = follow(t, f, everything, nil).Next(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func TestFeed_Stop(t *testing.T) {
	t.Parallel()
	store := modelstest.SQLite(t)
	f := live.New(live.Options{Store: store, Logger: slog.New(slog.DiscardHandler), Retention: time.Hour})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	s := follow(t, f, everything, nil)
	stop()
	require.NoError(t, <-done)
	_, err := s.Next(t.Context())
	require.ErrorIs(t, err, live.ErrStopped)
	_, err = f.Events(t.Context(), live.Query{Reach: everything}, all)
	require.ErrorIs(t, err, live.ErrStopped)
}

// Two processes: what one commits wakes the other over Redis, and is found without it.
func TestFeed_AcrossProcesses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		poll  time.Duration
		redis bool
	}{"woken by Redis": {time.Hour, true}, "without Redis": {20 * time.Millisecond, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testenv.PostgresURL(t)
			server := testenv.RedisServer(t)
			process := func() (*models.Store, *live.Feed) {
				store := modelstest.Open(t, models.Options{DSN: url})
				options, err := redis.ParseURL(server.URL())
				require.NoError(t, err)
				options.MaxRetries = -1
				client := redis.NewClient(options)
				t.Cleanup(func() { _ = client.Close() })
				return store, run(t, live.Options{Store: store, Redis: client, Poll: tc.poll})
			}
			_, reader := process()
			writer, _ := process()
			s := follow(t, reader, everything, nil)
			if !tc.redis {
				server.Stop()
			}
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			// A notice from before the reader listens is lost: emit until one is heard.
			updates := make(chan live.Update, 1)
			go func() {
				u, err := s.Next(ctx)
				if err == nil {
					updates <- u
				}
				close(updates)
			}()
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for {
				emit(t, writer, "acme", 1)
				select {
				case u, ok := <-updates:
					require.True(t, ok, "no update")
					require.NotEmpty(t, u.Cursor)
					return
				case <-tick.C:
				}
			}
		})
	}
}

func TestFeed_Purges(t *testing.T) {
	t.Parallel()
	url := testenv.PostgresURL(t)
	store := modelstest.Open(t, models.Options{DSN: url})
	f := run(t, live.Options{Store: store, Retention: time.Hour, PurgeInterval: 20 * time.Millisecond})
	s := follow(t, f, everything, nil)
	emit(t, store, "acme", 1)
	cursor := next(t, s).Cursor
	emit(t, store, "acme", 1)
	next(t, s)
	db, err := sql.Open("pgx", url)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	_, err = db.ExecContext(t.Context(), "UPDATE feed SET created_at = created_at - interval '2 hours'")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		var left int
		require.NoError(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM feed").Scan(&left))
		return left == 0
	}, deadline, 10*time.Millisecond)
	emit(t, store, "acme", 1)
	next(t, s)
	// Written two hours ago as far as the database knows: the gap would be silent.
	_, err = db.ExecContext(t.Context(), "UPDATE feed_state SET purged_until = now()")
	require.NoError(t, err)
	_, err = f.Events(t.Context(), live.Query{Reach: everything, After: &cursor}, all)
	require.ErrorIs(t, err, models.ErrCursorExpired)
}
