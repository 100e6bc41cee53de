package models_test

import (
	"context"
	"encoding/base64"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// all is the reach of a platform key.
var all = models.Reach{All: true}

// newWebhook stores a webhook with what its columns need; edit, which may be nil, goes first.
func newWebhook(t testing.TB, store *models.Store, tenant string, edit func(*models.Webhook)) models.Webhook {
	t.Helper()
	w := models.Webhook{
		Tenant: tenant, Name: "CRM Sync", TargetURL: "https://crm.example/hook",
		EventTypes: models.StringList{"participant.created"}, Signing: models.SigningHMAC, SealedKey: "sealed",
	}
	if edit != nil {
		edit(&w)
	}
	require.NoError(t, store.CreateWebhook(context.Background(), &w))
	return w
}

// newEvent stores an event.
func newEvent(t testing.TB, store *models.Store, tenant string, edit func(*models.Event)) models.Event {
	t.Helper()
	now := models.Instant(time.Now())
	e := models.Event{
		ID: models.NewID(models.PrefixEvent), Tenant: tenant, EventType: "participant.created",
		Data: new(`{"id":"1"}`), Timestamp: now, CreatedAt: now,
	}
	if edit != nil {
		edit(&e)
	}
	require.NoError(t, store.Insert(context.Background(), &e))
	return e
}

// newDelivery stores a pending delivery of e to w.
func newDelivery(t testing.TB, store *models.Store, e models.Event, w models.Webhook, edit func(*models.Delivery)) models.Delivery {
	t.Helper()
	now := models.Instant(time.Now())
	d := models.Delivery{
		ID: models.NewID(models.PrefixDelivery), Tenant: e.Tenant, EventID: e.ID, WebhookID: w.ID, EventType: e.EventType,
		Revision: w.Revision, Status: models.DeliveryPending, Trigger: models.TriggerAutomatic,
		AttemptTrigger: models.TriggerAutomatic, NextAttemptAt: &now, CreatedAt: now,
	}
	if edit != nil {
		edit(&d)
	}
	require.NoError(t, store.Insert(context.Background(), &d))
	return d
}

func TestPage_Bounds(t *testing.T) {
	t.Parallel()
	store := modelstest.SQLite(t)
	for range 25 {
		newWebhook(t, store, "acme", nil)
	}
	reads := store.Tenant(models.Reach{Tenant: "acme"})
	for name, test := range map[string]struct {
		page    models.Page
		want    int
		message string
	}{
		"neither":       {models.Page{}, 20, ""},
		"first":         {models.Page{First: new(3)}, 3, ""},
		"last":          {models.Page{Last: new(3)}, 3, ""},
		"none":          {models.Page{First: new(0)}, 0, ""},
		"most":          {models.Page{First: new(100)}, 25, ""},
		"both":          {models.Page{First: new(1), Last: new(1)}, 0, "first and last exclude each other"},
		"negative":      {models.Page{First: new(-1)}, 0, "first must be from 0 to 100"},
		"too many":      {models.Page{First: new(101)}, 0, "first must be from 0 to 100"},
		"negative last": {models.Page{Last: new(-1)}, 0, "last must be from 0 to 100"},
		"too many last": {models.Page{Last: new(101)}, 0, "last must be from 0 to 100"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := reads.Webhooks(t.Context(), models.WebhookFilter{}, test.page)
			if test.message != "" {
				var bad *models.PageError
				require.ErrorAs(t, err, &bad)
				require.Equal(t, test.message, bad.Message)
				return
			}
			require.NoError(t, err)
			require.Len(t, got.Items, test.want)
			require.Len(t, got.Cursors, test.want)
		})
	}
}

func TestPage_CursorsBelongToTheirList(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		w := newWebhook(t, store, "acme", nil)
		e := newEvent(t, store, "acme", nil)
		d := newDelivery(t, store, e, w, nil)
		reads := store.Tenant(models.Reach{Tenant: "acme"})
		webhooks, err := reads.Webhooks(ctx, models.WebhookFilter{}, models.Page{})
		require.NoError(t, err)
		of := []string{e.ID}
		deliveries, err := reads.DeliveriesOfEvents(ctx, of, models.DeliveryFilter{}, models.Page{})
		require.NoError(t, err)
		require.Equal(t, d.ID, deliveries[e.ID].Items[0].ID)
		own := deliveries[e.ID].Cursors[0]

		_, err = reads.DeliveriesOfEvents(ctx, of, models.DeliveryFilter{}, models.Page{After: &own})
		require.NoError(t, err)
		raw, err := base64.RawURLEncoding.DecodeString(own)
		require.NoError(t, err)
		bad := map[string]string{
			"another list":     webhooks.Cursors[0],
			"empty":            "",
			"garbage":          "!!",
			"text":             base64.RawURLEncoding.EncodeToString([]byte("hello")),
			"cut":              own[:len(own)-4],
			"NUL":              base64.RawURLEncoding.EncodeToString(append(raw[:len(raw)-1:len(raw)-1], 0)),
			"later version":    base64.RawURLEncoding.EncodeToString(append([]byte("9"), raw[1:]...)),
			"invalid UTF-8":    base64.RawURLEncoding.EncodeToString(append(raw[:len(raw)-1:len(raw)-1], 0xff)),
			"another spelling": own + "=",
		}
		for name, cursor := range bad {
			_, err = reads.DeliveriesOfEvents(ctx, of, models.DeliveryFilter{}, models.Page{After: &cursor})
			require.ErrorIs(t, err, models.ErrInvalidCursor, name)
			_, err = reads.DeliveriesOfEvents(ctx, of, models.DeliveryFilter{}, models.Page{Last: new(1), Before: &cursor})
			require.ErrorIs(t, err, models.ErrInvalidCursor, name)
		}
		_, err = reads.Deliveries(ctx, models.DeliveryFilter{}, models.Page{After: &own})
		require.ErrorIs(t, err, models.ErrInvalidCursor, "the same object in another list")
		_, err = reads.DeliveriesOfEvents(ctx, []string{e.ID, models.NewID(models.PrefixEvent)}, models.DeliveryFilter{}, models.Page{After: &own})
		require.ErrorIs(t, err, models.ErrInvalidCursor, "two parents")
		_, err = reads.EventTypes(ctx, nil, models.Page{After: new(base64.RawURLEncoding.EncodeToString([]byte("1\x1feventTypes\x1f\x1fa\x00b")))})
		require.ErrorIs(t, err, models.ErrInvalidCursor, "a name with a NUL")
	})
}

// Walking a list by pages of any size, in either direction, gives each row that was there from
// the start exactly once, in order, while others come; HasNext and HasPrevious are true to the row.
func TestPage_NeitherSkipsNorRepeats(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		round := 0
		rapid.Check(t, func(rt *rapid.T) {
			round++
			tenant := "t" + time.Now().Format("150405.000000000")
			reads := store.Tenant(models.Reach{Tenant: tenant})
			types := []string{"a", "b", "c"}
			var ids []string // newest first
			insert := func(n int) {
				rows := make([]models.Event, n)
				for i := range rows {
					rows[i] = models.Event{
						ID: models.NewID(models.PrefixEvent), Tenant: tenant, EventType: types[(len(ids)+i)%3],
						Timestamp: time.Now(), CreatedAt: models.Instant(time.Now()),
					}
				}
				if n > 0 {
					require.NoError(rt, store.Insert(ctx, rows))
				}
				for _, r := range rows {
					ids = slices.Insert(ids, 0, r.ID)
				}
			}
			insert(rapid.IntRange(0, 12).Draw(rt, "rows"))
			f := models.EventFilter{}
			if rapid.Bool().Draw(rt, "merged") {
				f.EventTypes = types
			}
			start := slices.Clone(ids)
			backward := rapid.Bool().Draw(rt, "backward")
			var seen []string
			var cursor *string
			for step := 0; ; step++ {
				require.Less(rt, step, 100)
				size := rapid.IntRange(1, 5).Draw(rt, "size")
				p := models.Page{First: &size, After: cursor}
				if backward {
					p = models.Page{Last: &size, Before: cursor}
				}
				got, err := reads.Events(ctx, f, p)
				require.NoError(rt, err)
				var page []string
				for _, e := range got.Items {
					page = append(page, e.ID)
				}
				if len(page) > 0 {
					first, last := slices.Index(ids, page[0]), slices.Index(ids, page[len(page)-1])
					require.Equal(rt, ids[first:last+1], page, "neighbours in order")
					require.Equal(rt, first > 0, got.HasPrevious)
					require.Equal(rt, last < len(ids)-1, got.HasNext)
				}
				if backward {
					seen = append(slices.Clone(page), seen...)
				} else {
					seen = append(seen, page...)
				}
				more := got.HasNext
				if backward {
					more = got.HasPrevious
				}
				if !more {
					break
				}
				cursor = &got.Cursors[len(got.Cursors)-1]
				if backward {
					cursor = &got.Cursors[0]
				}
				insert(rapid.IntRange(0, 2).Draw(rt, "new"))
			}
			if backward {
				// What came at the top while the walk went up is in it.
				require.Equal(rt, ids, seen)
			} else {
				require.Equal(rt, start, seen)
			}
		})
		require.Positive(t, round)
	})
}

// The claims of a page are about the list as it is filtered now, not about where a cursor came from.
func TestPage_EdgesAreFacts(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		reads := store.Tenant(models.Reach{Tenant: "acme"})
		var ids []string
		for _, kind := range []string{"a", "b", "b", "a"} { // oldest first
			ids = append(ids, newEvent(t, store, "acme", func(e *models.Event) { e.EventType = kind }).ID)
		}
		whole, err := reads.Events(ctx, models.EventFilter{}, models.Page{})
		require.NoError(t, err)
		require.False(t, whole.HasNext)
		require.False(t, whole.HasPrevious)
		onlyB := models.EventFilter{EventTypes: []string{"b"}}

		got, err := reads.Events(ctx, onlyB, models.Page{After: &whole.Cursors[0]})
		require.NoError(t, err)
		require.Equal(t, []string{ids[2], ids[1]}, []string{got.Items[0].ID, got.Items[1].ID})
		require.False(t, got.HasPrevious, "nothing of this kind is before the cursor")
		require.False(t, got.HasNext)

		got, err = reads.Events(ctx, models.EventFilter{}, models.Page{First: new(5), After: &whole.Cursors[0], Before: &whole.Cursors[3]})
		require.NoError(t, err)
		require.Len(t, got.Items, 2)
		require.True(t, got.HasPrevious)
		require.True(t, got.HasNext)

		got, err = reads.Events(ctx, models.EventFilter{}, models.Page{First: new(0), After: &whole.Cursors[1]})
		require.NoError(t, err)
		require.Empty(t, got.Items)
		require.True(t, got.HasPrevious)
		require.True(t, got.HasNext)

		got, err = reads.Events(ctx, models.EventFilter{}, models.Page{After: &whole.Cursors[3]})
		require.NoError(t, err)
		require.Empty(t, got.Items)
		require.True(t, got.HasPrevious)
		require.False(t, got.HasNext)
	})
}

// idAt is an id made at t.
func idAt(prefix string, t time.Time) string {
	const random = 13 // what the time leaves of an id
	first, fresh := models.FirstID(prefix, t), models.NewID(prefix)
	return first[:len(first)-random] + fresh[len(fresh)-random:]
}
