package models_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// readAll reads everything after a position, in pages of one row.
func readAll(t testing.TB, store *models.Store, r models.FeedRead) ([]models.FeedItem, models.FeedPosition) {
	t.Helper()
	r.Rows = 1
	var items []models.FeedItem
	for {
		page, err := store.ReadFeed(context.Background(), r)
		require.NoError(t, err)
		items = append(items, page.Items...)
		r.From = page.Next
		if !page.More {
			return items, page.Next
		}
	}
}

func feedHead(t testing.TB, store *models.Store) models.FeedPosition {
	t.Helper()
	p, err := store.FeedHead(context.Background())
	require.NoError(t, err)
	return p
}

// told is a change as a test compares it.
func told(i models.FeedItem) string {
	if i.Kind == models.FeedEvent {
		return i.Tenant + " " + i.EventID
	}
	s := i.State
	text := fmt.Sprintf("%s %s %d", i.Tenant, s.Status, s.AttemptCount)
	if s.StatusReason != nil {
		text += " " + string(*s.StatusReason)
	}
	if s.LastOutcome != nil {
		text += " " + string(*s.LastOutcome)
	}
	return text
}

func TestFeed_TellsEveryStateOfADelivery(t *testing.T) {
	t.Parallel()
	reach := models.Reach{All: true}
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		w := newWebhook(t, store, "acme", nil)
		p := feedHead(t, store)
		// next is what was told about deliveries since it was last asked; each stands as told.
		next := func(last bool) []string {
			t.Helper()
			var texts []string
			items, after := readAll(t, store, models.FeedRead{From: p, Kind: models.FeedDelivery})
			p = after
			for i, item := range items {
				texts = append(texts, told(item))
				if last && i == len(items)-1 {
					d := delivery(t, store, item.State.DeliveryID)
					require.Equal(t, d, item.State.On(d))
				}
			}
			return texts
		}
		id := due(t, store, w, 1)[0]
		require.Equal(t, []string{"acme PENDING 0"}, next(true))

		c := claimOne(t, store, id, "t1")
		require.Empty(t, next(true), "claims are nobody's business")
		reason := models.ReasonRateLimited
		_, err := store.Release(ctx, []models.Release{{DeliveryID: id, Token: c.Token, Reason: &reason, Detail: "too \"fast\" <&>\n"}})
		require.NoError(t, err)
		require.Equal(t, []string{"acme PENDING 0 RATE_LIMITED"}, next(true))

		c = claimOne(t, store, id, "t2")
		a := attempt(c, models.OutcomeHTTPError, models.RetryAfter(0))
		a.Attempt.ResponseStatus = new(503)
		_, err = store.Record(ctx, []models.AttemptRecord{a})
		require.NoError(t, err)
		require.Equal(t, []string{"acme RETRYING 1 HTTP_ERROR"}, next(true))

		_, err = store.SetWebhookStatus(ctx, reach, w.ID, models.WebhookPaused, models.ReasonByUser, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"acme HELD 1 WEBHOOK_PAUSED HTTP_ERROR"}, next(true))
		_, err = store.SetWebhookStatus(ctx, reach, w.ID, models.WebhookActive, "", nil)
		require.NoError(t, err)
		require.Equal(t, []string{"acme RETRYING 1 HTTP_ERROR"}, next(true))

		_, err = store.CancelDelivery(ctx, reach, id)
		require.NoError(t, err)
		require.Equal(t, []string{"acme CANCELLED 1 CANCELLED_BY_USER HTTP_ERROR"}, next(true))
		_, err = store.Redeliver(ctx, reach, id)
		require.NoError(t, err)
		require.Equal(t, []string{"acme RETRYING 1 HTTP_ERROR"}, next(true))

		// Two changes between two reads are two changes.
		c = claimOne(t, store, id, "t3")
		_, err = store.Record(ctx, []models.AttemptRecord{attempt(c, models.OutcomeSuccess, models.Succeeded())})
		require.NoError(t, err)
		_, err = store.Redeliver(ctx, reach, id)
		require.NoError(t, err)
		require.Equal(t, []string{"acme SUCCEEDED 2 SUCCESS", "acme RETRYING 2 SUCCESS"}, next(true))

		// A claim that runs out.
		_, err = store.Claim(ctx, []string{id}, "t4", time.Microsecond)
		require.NoError(t, err)
		due, _, err := store.ExpireClaims(ctx, models.DueCursor{}, 10)
		require.NoError(t, err)
		require.Len(t, due, 1)
		require.Equal(t, []string{"acme RETRYING 2 ABANDONED"}, next(true))

		require.NoError(t, store.DeleteWebhook(ctx, reach, w.ID))
		require.Equal(t, []string{"acme CANCELLED 2 WEBHOOK_DELETED ABANDONED"}, next(true))
	})
}

func TestFeed_Events(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		head := feedHead(t, store)
		test, other := eventTo(), eventTo()
		test.Test, other.Tenant = true, "other"
		results := commit(t, store, eventTo(), test, other)
		_, err := store.CommitEvents(t.Context(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
			return []models.NewEvent{eventTo()}, context.Canceled
		})
		require.Error(t, err)
		items, _ := readAll(t, store, models.FeedRead{From: head, Kind: models.FeedEvent})
		var texts []string
		for _, i := range items {
			texts = append(texts, told(i))
		}
		require.Equal(t, []string{"default " + results[0].Event.ID, "other " + results[2].Event.ID}, texts)

		items, _ = readAll(t, store, models.FeedRead{From: head, Tenant: new("other")})
		require.Len(t, items, 1)
		require.Equal(t, "other", items[0].Tenant)
	})
}

// A flush of many tenants and of more than a row holds is read whole, from any place in it.
func TestFeed_ResumesAtEveryItem(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		head := feedHead(t, store)
		w := newWebhook(t, store, "acme", nil)
		var middle models.FeedPosition
		const half = 254*3 + 1
		for range 2 {
			middle = feedHead(t, store)
			events := make([]models.NewEvent, 255)
			for i := range events {
				events[i] = eventTo(w, w, w)
			}
			events[7] = eventTo(newWebhookless("other"))
			commit(t, store, events...)
		}
		all, _ := readAll(t, store, models.FeedRead{From: head, Kind: models.FeedDelivery})
		require.Len(t, all, 2*half)
		for i := 0; i < len(all); i += 97 {
			p, err := models.ParseFeedCursor(all[i].Cursor(), models.FeedDelivery)
			require.NoError(t, err)
			rest, _ := readAll(t, store, models.FeedRead{From: p, Kind: models.FeedDelivery})
			require.Equal(t, itemsOf(all[i+1:]), itemsOf(rest), "after %d", i)
			some, end := readAll(t, store, models.FeedRead{From: p, Until: &middle, Kind: models.FeedDelivery})
			if i < half {
				require.Equal(t, itemsOf(all[i+1:half]), itemsOf(some), "from %d on", i)
				require.Equal(t, middle, end)
			}
		}
	})
}

func newWebhookless(tenant string) models.Webhook {
	return models.Webhook{ID: models.NewID(models.PrefixWebhook), Tenant: tenant, Revision: 1}
}

func itemsOf(items []models.FeedItem) []string {
	list := make([]string, len(items))
	for i, item := range items {
		list[i] = item.State.DeliveryID + item.EventID + string(item.State.Status)
	}
	return list
}

// Transactions that write to the feed and commit late, in any order, beside others that never end:
// readers from any cursor get each change once, and none waits for the one that never ends.
func TestFeed_NoGapAndNoRepeatWhateverCommitsLate(t *testing.T) {
	t.Parallel()
	store := modelstest.Postgres(t)
	endless, err := store.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = endless.Rollback() })
	_, err = endless.Exec("INSERT INTO leases (name, holder, expires_at) VALUES ('endless', 'x', now())")
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		head, err := store.FeedHead(context.Background())
		require.NoError(t, err)
		type writer interface {
			Commit() error
			Rollback() error
		}
		var open []writer
		defer func() {
			for _, tx := range open {
				_ = tx.Rollback()
			}
		}()
		committed := map[string]bool{}
		pending := map[int][]string{}
		// Two readers: one that goes on from its page, one that starts again from a cursor.
		steady, cursor := head, ""
		seen := map[string]int{}
		resumed := map[string]int{}
		read := func() bool {
			page, err := store.ReadFeed(context.Background(), models.FeedRead{From: steady, Rows: rapid.IntRange(1, 4).Draw(t, "rows")})
			require.NoError(t, err)
			for _, i := range page.Items {
				seen[i.EventID]++
			}
			steady = page.Next
			return page.More
		}
		resume := func(all bool) bool {
			from := head
			if cursor != "" {
				from, err = models.ParseFeedCursor(cursor, models.FeedEvent)
				require.NoError(t, err)
			}
			var page models.FeedPage
			for more := true; more && len(page.Items) == 0; more = page.More {
				page, err = store.ReadFeed(context.Background(), models.FeedRead{From: from, Kind: models.FeedEvent, Rows: 4})
				require.NoError(t, err)
				from = page.Next
			}
			take := len(page.Items)
			if !all {
				take = rapid.IntRange(0, take).Draw(t, "take")
			}
			for _, i := range page.Items[:take] {
				resumed[i.EventID]++
				cursor = i.Cursor()
			}
			return take > 0
		}
		n := 0
		step := func(what int) {
			switch {
			case what == 0 && len(open) < 4:
				tx, err := store.Begin(context.Background())
				require.NoError(t, err)
				open = append(open, tx)
				k := len(open) - 1
				for range rapid.IntRange(1, 2).Draw(t, "rows of a transaction") {
					a, b := fmt.Sprint("a", n), fmt.Sprint("b", n)
					n++
					pending[k] = append(pending[k], a, b)
					_, err = tx.Exec("INSERT INTO feed (tenant, kind, items) VALUES ('acme', 'e', $1)", fmt.Sprintf("[%q,%q]", a, b))
					require.NoError(t, err)
				}
			case what == 1 && len(open) > 0:
				k := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				if rapid.IntRange(0, 3).Draw(t, "end") == 0 {
					require.NoError(t, open[k].Rollback())
				} else {
					require.NoError(t, open[k].Commit())
					for _, id := range pending[k] {
						committed[id] = true
					}
				}
				last := len(open) - 1
				open[k], pending[k] = open[last], pending[last]
				open = open[:last]
				delete(pending, last)
			case what == 2:
				read()
			default:
				resume(false)
			}
		}
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			step(rapid.IntRange(0, 3).Draw(t, "step"))
		}
		for len(open) > 0 {
			step(1)
		}
		for read() {
		}
		for resume(true) {
		}
		for id := range committed {
			require.Equal(t, 1, seen[id], "steady reader: %s", id)
			require.Equal(t, 1, resumed[id], "resuming reader: %s", id)
		}
		require.Len(t, seen, len(committed))
		require.Len(t, resumed, len(committed))
	})
}

// Under load, from many writers: what a reader gets is each event exactly once.
func TestFeed_ConcurrentWriters(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		const writers, each = 4, 25
		grown, stop := store.FeedGrown()
		defer stop()
		p := feedHead(t, store)
		var mu sync.Mutex
		written := map[string]bool{}
		g, ctx := errgroup.WithContext(t.Context())
		for range writers {
			g.Go(func() error {
				for range each {
					results, err := store.CommitEvents(ctx, func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
						return []models.NewEvent{eventTo(), eventTo()}, nil
					})
					if err != nil {
						return err
					}
					mu.Lock()
					written[results[0].Event.ID], written[results[1].Event.ID] = true, true
					mu.Unlock()
				}
				return nil
			})
		}
		seen := map[string]int{}
		deadline := time.After(30 * time.Second)
		for len(seen) < 2*writers*each {
			select {
			case <-grown:
			case <-deadline:
				t.Fatalf("only %d of %d events", len(seen), 2*writers*each)
			}
			page, err := store.ReadFeed(t.Context(), models.FeedRead{From: p, Rows: 1000})
			require.NoError(t, err)
			for _, i := range page.Items {
				seen[i.EventID]++
			}
			p = page.Next
		}
		require.NoError(t, g.Wait())
		for id := range written {
			require.Equal(t, 1, seen[id])
		}
	})
}

func TestFeed_Cursors(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		start := feedHead(t, store)
		commit(t, store, eventTo())
		items, _ := readAll(t, store, models.FeedRead{From: start})
		cursor := items[0].Cursor()
		_, err := models.ParseFeedCursor(cursor, models.FeedDelivery)
		require.ErrorIs(t, err, models.ErrInvalidCursor, "it is one of events")
		for _, bad := range []string{"", "AQ", "x", cursor + "A", cursor[:len(cursor)-3], "é", string(slices.Repeat([]byte("A"), 20_000))} {
			_, err := models.ParseFeedCursor(bad, models.FeedEvent)
			if err == nil { // cut in its tail it may still be a position: that is harmless
				continue
			}
			require.ErrorIs(t, err, models.ErrInvalidCursor)
		}

		// Another database's, one that is no copy: those have the feed of what they are copied from.
		other := modelstest.Open(t, models.Options{DSN: filepath.Join(t.TempDir(), "other.db")})
		_, err = other.ReadFeed(t.Context(), models.FeedRead{From: start})
		require.ErrorIs(t, err, models.ErrCursorExpired)

		// Older than asked for.
		p, err := models.ParseFeedCursor(cursor, models.FeedEvent)
		require.NoError(t, err)
		_, err = store.ReadFeed(t.Context(), models.FeedRead{From: p, MaxAge: time.Nanosecond})
		require.ErrorIs(t, err, models.ErrCursorExpired)
		_, err = store.ReadFeed(t.Context(), models.FeedRead{From: p, MaxAge: time.Hour})
		require.NoError(t, err)
	})
}

func TestFeed_Purge(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		start := feedHead(t, store)
		for range 5 {
			commit(t, store, eventTo())
		}
		_, end := readAll(t, store, models.FeedRead{From: start})
		old := 3 * time.Hour
		require.NoError(t, store.Exec(ctx, agedFeed(store), 3))
		n, err := store.PurgeFeed(ctx, old, 2)
		require.NoError(t, err)
		require.Equal(t, 2, n)
		n, err = store.PurgeFeed(ctx, old, 2)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		n, err = store.PurgeFeed(ctx, old, 2)
		require.NoError(t, err)
		require.Zero(t, n)
		left, err := store.Count(ctx, "SELECT count(*) FROM feed")
		require.NoError(t, err)
		require.Equal(t, 2, left)

		// What came after both is not touched; a place before what went is told as lost.
		_, err = store.ReadFeed(ctx, models.FeedRead{From: end})
		require.NoError(t, err)
		require.NoError(t, store.Exec(ctx, agedFeed(store), 2))
		_, err = store.PurgeFeed(ctx, old, 10)
		require.NoError(t, err)
		items, _ := readAll(t, store, models.FeedRead{From: feedHead(t, store)})
		require.Empty(t, items)
		require.NoError(t, store.Exec(ctx, "UPDATE feed_state SET purged_until = ?", time.Now().UTC()))
		_, err = store.ReadFeed(ctx, models.FeedRead{From: start})
		require.ErrorIs(t, err, models.ErrCursorExpired)
		commit(t, store, eventTo())
	})
}

// agedFeed makes the first rows of the feed a day old.
func agedFeed(store *models.Store) string {
	age := "created_at - interval '24 hours'"
	if store.Dialect() == models.DialectSQLite {
		age = "created_at - 86400000000"
	}
	return "UPDATE feed SET created_at = " + age + " WHERE seq IN (SELECT seq FROM feed ORDER BY seq LIMIT ?)"
}

// What a filter leaves of deliveries in memory is what it leaves of them in a list.
func TestDeliveryFilter_MatchesWhatAListHas(t *testing.T) {
	t.Parallel()
	store := modelstest.SQLite(t)
	webhooks := []models.Webhook{newWebhook(t, store, "acme", nil), newWebhook(t, store, "other", nil)}
	var all []models.Delivery
	outcomes := []models.Outcome{models.OutcomeSuccess, models.OutcomeTimeout, models.OutcomeHTTPError}
	for i := range 40 {
		w := webhooks[i%2]
		at := models.Instant(time.Now().Add(time.Duration(i-40) * time.Second))
		d := models.Delivery{
			ID: idAt(models.PrefixDelivery, at), Tenant: w.Tenant, EventID: models.NewID(models.PrefixEvent), WebhookID: w.ID,
			EventType: []string{"a.b", "c.d", "e.f"}[i%3], Status: []models.DeliveryStatus{models.DeliveryPending, models.DeliveryFailed, models.DeliverySucceeded}[i/2%3],
			Trigger: []models.Trigger{models.TriggerAutomatic, models.TriggerTest}[i/3%2], AttemptTrigger: models.TriggerAutomatic,
			CreatedAt: at,
		}
		if i%4 > 0 {
			d.LastOutcome = &outcomes[i%3]
		}
		if i%5 > 1 {
			d.LastStatus = new([]int{200, 404, 503}[i%3])
		}
		all = append(all, d)
	}
	require.NoError(t, store.Insert(t.Context(), &all))
	rapid.Check(t, func(t *rapid.T) {
		var f models.DeliveryFilter
		some := func(name string) bool { return rapid.IntRange(0, 3).Draw(t, name) == 0 }
		pick := func(name string) models.Delivery { return rapid.SampledFrom(all).Draw(t, name) }
		if some("webhook") {
			f.WebhookID = new(pick("w").WebhookID)
		}
		if some("event") {
			f.EventID = new(pick("e").EventID)
		}
		if some("types") {
			f.EventTypes = []string{pick("t1").EventType, pick("t2").EventType}
		}
		if some("statuses") {
			f.Statuses = []models.DeliveryStatus{pick("s1").Status, models.DeliveryHeld}
		}
		if some("outcomes") {
			f.Outcomes = []models.Outcome{rapid.SampledFrom(outcomes).Draw(t, "o")}
		}
		if some("triggers") {
			f.Triggers = []models.Trigger{pick("tr").Trigger}
		}
		if some("min") {
			f.ResponseMin = new(rapid.SampledFrom([]int{0, 200, 201, 404, 600}).Draw(t, "min"))
		}
		if some("max") {
			f.ResponseMax = new(rapid.SampledFrom([]int{0, 200, 404, 599}).Draw(t, "max"))
		}
		if some("since") {
			f.Since = new(pick("since").CreatedAt)
		}
		if some("until") {
			f.Until = new(pick("until").CreatedAt)
		}
		if some("tenant") {
			f.Tenant = new(pick("tenant").Tenant)
		}
		page, err := store.Tenant(models.Reach{All: true}).Deliveries(context.Background(), f, models.Page{First: new(100)})
		require.NoError(t, err)
		var listed, matched []string
		for _, d := range page.Items {
			listed = append(listed, d.ID)
		}
		for _, d := range all {
			if f.Matches(&d) {
				matched = append(matched, d.ID)
			}
		}
		require.ElementsMatch(t, listed, matched)
	})
}
