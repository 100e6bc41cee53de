package models_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// world is one of each object, of one tenant.
type world struct {
	webhook  models.Webhook
	event    models.Event
	delivery models.Delivery
	attempt  models.Attempt
	key      models.APIKey
}

func newWorld(t testing.TB, store *models.Store, tenant string) world {
	t.Helper()
	var w world
	w.webhook = newWebhook(t, store, tenant, func(w *models.Webhook) { w.ExternalID = new("crm") })
	w.event = newEvent(t, store, tenant, func(e *models.Event) { e.IdempotencyKey = new("once") })
	w.delivery = newDelivery(t, store, w.event, w.webhook, func(d *models.Delivery) {
		d.Status, d.AttemptCount, d.LastOutcome, d.LastStatus = models.DeliveryRetrying, 1, new(models.OutcomeHTTPError), new(500)
	})
	w.attempt = newAttempt(t, store, w.delivery, 1)
	w.key = models.APIKey{Name: "ci", Tenant: &tenant, Scopes: models.StringList{"READ"}, Prefix: "iwk_ab", Hash: "hash of " + tenant}
	require.NoError(t, store.CreateAPIKey(t.Context(), &w.key))
	minute := time.Now().UTC().Truncate(time.Minute)
	require.NoError(t, store.Exec(t.Context(), "INSERT INTO delivery_minutes VALUES (?, ?, ?, 1, ?, ?, 1)",
		w.webhook.ID, minute, w.event.EventType, models.MeasureTotal, tenant))
	require.NoError(t, store.Insert(t.Context(), &models.WebhookHealth{WebhookID: w.webhook.ID, ConsecutiveFailures: 1}))
	return w
}

func newAttempt(t testing.TB, store *models.Store, d models.Delivery, number int) models.Attempt {
	t.Helper()
	a := models.Attempt{
		DeliveryID: d.ID, Number: number, Tenant: d.Tenant, Token: "token", Trigger: models.TriggerAutomatic,
		StartedAt: models.Instant(time.Now()), RequestURL: "https://crm.example/hook",
		RequestHeaders: models.Headers{{Name: "webhook-id", Value: d.EventID}}, Outcome: new(models.OutcomeHTTPError), ResponseStatus: new(500),
	}
	require.NoError(t, store.Insert(t.Context(), &a))
	return a
}

// read is every read of Tenant, as the ids of what it gives; one that answers ErrNotFound gives none.
func read(t testing.TB, r *models.Tenant, w world, tenant *string) map[string][]string {
	t.Helper()
	ctx := t.Context()
	page := models.Page{}
	got := map[string][]string{}
	one := func(name, id string, err error) {
		if err != nil {
			require.ErrorIs(t, err, models.ErrNotFound, name)
			got[name] = nil
			return
		}
		got[name] = []string{id}
	}
	webhook, err := r.Webhook(ctx, w.webhook.ID)
	one("Webhook", webhook.ID, err)
	webhook, err = r.WebhookByExternalID(ctx, "acme", "crm")
	one("WebhookByExternalID", webhook.ID, err)
	event, err := r.Event(ctx, w.event.ID)
	one("Event", event.ID, err)
	delivery, err := r.Delivery(ctx, w.delivery.ID)
	one("Delivery", delivery.ID, err)
	attempt, err := r.Attempt(ctx, w.attempt.ID())
	one("Attempt", attempt.ID(), err)
	key, err := r.APIKey(ctx, w.key.ID)
	one("APIKey", key.ID, err)

	webhooks, err := r.WebhooksByIDs(ctx, []string{w.webhook.ID})
	require.NoError(t, err)
	got["WebhooksByIDs"] = keys(webhooks)
	events, err := r.EventsByIDs(ctx, []string{w.event.ID})
	require.NoError(t, err)
	got["EventsByIDs"] = keys(events)
	deliveries, err := r.DeliveriesByIDs(ctx, []string{w.delivery.ID})
	require.NoError(t, err)
	got["DeliveriesByIDs"] = keys(deliveries)
	deliveries, err = r.DeliveriesTo(ctx, w.event.ID, []string{w.webhook.ID})
	require.NoError(t, err)
	got["DeliveriesTo"] = keys(deliveries)
	attempts, err := r.AttemptsOf(ctx, []string{w.delivery.ID})
	require.NoError(t, err)
	got["AttemptsOf"] = keys(attempts)
	last, err := r.LastAttempts(ctx, []string{w.delivery.ID})
	require.NoError(t, err)
	got["LastAttempts"] = keys(last)
	health, err := r.Health(ctx, []string{w.webhook.ID})
	require.NoError(t, err)
	got["Health"] = keys(health)

	webhookPage, err := r.Webhooks(ctx, models.WebhookFilter{Tenant: tenant}, page)
	require.NoError(t, err)
	got["Webhooks"] = ids(webhookPage.Items, func(w models.Webhook) string { return w.ID })
	n, err := r.WebhookCount(ctx, models.WebhookFilter{Tenant: tenant})
	require.NoError(t, err)
	got["WebhookCount"] = times(n, w.webhook.ID)
	eventPage, err := r.Events(ctx, models.EventFilter{Tenant: tenant}, page)
	require.NoError(t, err)
	got["Events"] = ids(eventPage.Items, func(e models.Event) string { return e.ID })
	deliveryPage, err := r.Deliveries(ctx, models.DeliveryFilter{Tenant: tenant}, page)
	require.NoError(t, err)
	got["Deliveries"] = ids(deliveryPage.Items, func(d models.Delivery) string { return d.ID })
	each, err := r.DeliveriesOfWebhooks(ctx, []string{w.webhook.ID}, models.DeliveryFilter{Tenant: tenant}, page)
	require.NoError(t, err)
	got["DeliveriesOfWebhooks"] = ids(each[w.webhook.ID].Items, func(d models.Delivery) string { return d.ID })
	each, err = r.DeliveriesOfEvents(ctx, []string{w.event.ID}, models.DeliveryFilter{Tenant: tenant}, page)
	require.NoError(t, err)
	got["DeliveriesOfEvents"] = ids(each[w.event.ID].Items, func(d models.Delivery) string { return d.ID })
	keyPage, err := r.APIKeys(ctx, page)
	require.NoError(t, err)
	got["APIKeys"] = ids(keyPage.Items, func(k models.APIKey) string { return k.ID })
	inForce, err := r.RevisionsInForce(ctx, "acme", w.event.ID, 1<<40, page)
	require.NoError(t, err)
	got["RevisionsInForce"] = ids(inForce.Items, func(f models.InForce) string { return f.Webhook.ID })
	stats, err := r.Stats(ctx, models.StatsQuery{Tenant: tenant})
	require.NoError(t, err)
	require.Equal(t, stats.Total, stats.Open)
	got["Stats"] = times(stats.Total, w.webhook.ID)
	stats, err = r.Stats(ctx, models.StatsQuery{WebhookID: &w.webhook.ID})
	require.NoError(t, err)
	require.Equal(t, stats.Total, stats.Open)
	got["StatsOfWebhook"] = times(stats.Total, w.webhook.ID)
	eachStats, err := r.StatsOfWebhooks(ctx, []string{w.webhook.ID}, models.StatsQuery{})
	require.NoError(t, err)
	require.Equal(t, eachStats[w.webhook.ID].Total, eachStats[w.webhook.ID].Open)
	got["StatsOfWebhooks"] = times(eachStats[w.webhook.ID].Total, w.webhook.ID)
	return got
}

func keys[T any](m map[string]T) []string {
	var found []string
	for k := range m {
		found = append(found, k)
	}
	return found
}

func ids[T any](items []T, id func(T) string) []string {
	var found []string
	for _, item := range items {
		found = append(found, id(item))
	}
	return found
}

func times(n int, id string) []string { return slices.Repeat([]string{id}, n)[:n:n] }

func TestTenant_AnotherTenantGetsNothing(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		w := newWorld(t, store, "acme")
		for name, got := range read(t, store.Tenant(models.Reach{Tenant: "acme"}), w, nil) {
			require.Len(t, got, 1, "its own: %s", name)
		}
		for name, got := range read(t, store.Tenant(all), w, new("acme")) {
			require.Len(t, got, 1, "a platform key that names it: %s", name)
		}
		for name, got := range read(t, store.Tenant(models.Reach{Tenant: "rival"}), w, nil) {
			require.Empty(t, got, "another's: %s", name)
		}
		for name, got := range read(t, store.Tenant(models.Reach{Tenant: "rival"}), w, new("acme")) {
			require.Empty(t, got, "another's, named: %s", name)
		}
		for name, got := range read(t, store.Tenant(models.Reach{}), w, nil) {
			require.Empty(t, got, "nobody's: %s", name)
		}
		elsewhere := read(t, store.Tenant(all), w, new("rival"))
		for _, name := range []string{"Webhooks", "WebhookCount", "Events", "Deliveries", "DeliveriesOfWebhooks", "DeliveriesOfEvents", "Stats"} {
			require.Empty(t, elsewhere[name], "a platform key that names another: %s", name)
		}
	})
}

// What cannot be stored is in no row; it is no fault to ask for it.
func TestTenant_TextsThatNoRowHas(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		newWorld(t, store, "acme")
		ctx, r := t.Context(), store.Tenant(all)
		for _, bad := range []string{"", "nonsense", "a\x00b", "\xff", strings.Repeat("x", 10000), "wh_" + strings.Repeat("0", 26)} {
			_, err := r.Webhook(ctx, bad)
			require.ErrorIs(t, err, models.ErrNotFound)
			_, err = r.WebhookByExternalID(ctx, bad, bad)
			require.ErrorIs(t, err, models.ErrNotFound)
			_, err = r.Event(ctx, bad)
			require.ErrorIs(t, err, models.ErrNotFound)
			_, err = r.Delivery(ctx, bad)
			require.ErrorIs(t, err, models.ErrNotFound)
			_, err = r.Attempt(ctx, bad)
			require.ErrorIs(t, err, models.ErrNotFound)
			_, err = r.EventTypeByName(ctx, bad)
			require.ErrorIs(t, err, models.ErrNotFound)
			_, err = r.EventType(ctx, bad)
			require.ErrorIs(t, err, models.ErrNotFound)
			_, err = store.APIKeyByHash(ctx, bad)
			require.ErrorIs(t, err, models.ErrNotFound)
			webhooks, err := r.WebhooksByIDs(ctx, []string{bad})
			require.NoError(t, err)
			require.Empty(t, webhooks)
			events, err := r.Events(ctx, models.EventFilter{IdempotencyKey: &bad, EventTypes: []string{bad}, Tenant: &bad}, models.Page{})
			require.NoError(t, err)
			require.Empty(t, events.Items)
			deliveries, err := r.Deliveries(ctx, models.DeliveryFilter{WebhookID: &bad, EventID: &bad, EventTypes: []string{bad, "b"}}, models.Page{})
			require.NoError(t, err)
			require.Empty(t, deliveries.Items)
			list, err := r.Webhooks(ctx, models.WebhookFilter{EventType: &bad, Tenant: &bad, Search: &bad}, models.Page{})
			require.NoError(t, err)
			require.Empty(t, list.Items)
			stats, err := r.Stats(ctx, models.StatsQuery{WebhookID: &bad, EventType: &bad, Tenant: &bad})
			require.NoError(t, err)
			require.Zero(t, stats.Total)
		}
	})
}

// A list is one statement however many rows, parents and cursors it has.
func TestTenant_StatementsOfLists(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		var deliveries, events, webhooks []string
		for range 5 {
			w := newWorld(t, store, fmt.Sprintf("t%d", len(webhooks)))
			deliveries, events, webhooks = append(deliveries, w.delivery.ID), append(events, w.event.ID), append(webhooks, w.webhook.ID)
		}
		seen := store.Observe()
		r := store.Tenant(all)
		middle := func(cursors []string) models.Page {
			return models.Page{First: new(1), After: &cursors[1], Before: &cursors[3]}
		}
		for name, list := range map[string]func(models.Page) ([]string, error){
			"Webhooks": func(p models.Page) ([]string, error) {
				got, err := r.Webhooks(ctx, models.WebhookFilter{Search: new("crm"), EventType: new("participant.created")}, p)
				return got.Cursors, err
			},
			"Events": func(p models.Page) ([]string, error) {
				got, err := r.Events(ctx, models.EventFilter{EventTypes: []string{"participant.created", "message.sent"}}, p)
				return got.Cursors, err
			},
			"Deliveries": func(p models.Page) ([]string, error) {
				got, err := r.Deliveries(ctx, models.DeliveryFilter{Statuses: []models.DeliveryStatus{
					models.DeliveryPending, models.DeliveryRetrying, models.DeliveryHeld,
				}}, p)
				return got.Cursors, err
			},
			"APIKeys": func(p models.Page) ([]string, error) {
				got, err := r.APIKeys(ctx, p)
				return got.Cursors, err
			},
			"EventTypes": func(p models.Page) ([]string, error) {
				got, err := r.EventTypes(ctx, nil, p)
				return got.Cursors, err
			},
			"RevisionsInForce": func(p models.Page) ([]string, error) {
				got, err := r.RevisionsInForce(ctx, "t0", events[0], 1<<40, p)
				return got.Cursors, err
			},
			"DeliveriesOfEvents": func(p models.Page) ([]string, error) {
				got, err := r.DeliveriesOfEvents(ctx, events, models.DeliveryFilter{}, p)
				require.Len(t, got, 5)
				return nil, err
			},
			"DeliveriesOfWebhooks": func(p models.Page) ([]string, error) {
				got, err := r.DeliveriesOfWebhooks(ctx, webhooks, models.DeliveryFilter{}, p)
				require.Len(t, got, 5)
				return nil, err
			},
			"AttemptsOf": func(models.Page) ([]string, error) {
				got, err := r.AttemptsOf(ctx, deliveries)
				require.Len(t, got, 5)
				return nil, err
			},
			"LastAttempts": func(models.Page) ([]string, error) {
				got, err := r.LastAttempts(ctx, deliveries)
				require.Len(t, got, 5)
				return nil, err
			},
		} {
			cursors, err := list(models.Page{})
			require.NoError(t, err, name)
			require.Len(t, seen.Take(), 1, name)
			if len(cursors) < 5 {
				continue
			}
			cursors, err = list(middle(cursors))
			require.NoError(t, err, name)
			require.Len(t, cursors, 1, name)
			require.Len(t, seen.Take(), 1, name)
		}
	})
}

// Pages of deliveries and events walk an index in their own order: no sort, no scan of a table.
func TestTenant_PagesUseIndexes(t *testing.T) {
	t.Parallel()
	store := modelstest.Postgres(t)
	ctx := t.Context()
	w := newWorld(t, store, "acme")
	newDelivery(t, store, w.event, w.webhook, nil)
	newEvent(t, store, "acme", nil)
	seen := store.Observe()
	now := time.Now()
	own := store.Tenant(models.Reach{Tenant: "acme"})
	type statuses = []models.DeliveryStatus
	first, err := own.Deliveries(ctx, models.DeliveryFilter{}, models.Page{})
	require.NoError(t, err)
	firstEvents, err := own.Events(ctx, models.EventFilter{}, models.Page{})
	require.NoError(t, err)
	after := models.Page{After: &first.Cursors[0]}
	for name, test := range map[string]struct {
		filter models.DeliveryFilter
		index  string
	}{
		"all":              {models.DeliveryFilter{}, "deliveries_tenant"},
		"webhook":          {models.DeliveryFilter{WebhookID: &w.webhook.ID}, "deliveries_webhook"},
		"event":            {models.DeliveryFilter{EventID: &w.event.ID}, "deliveries_event"},
		"type":             {models.DeliveryFilter{EventTypes: []string{"a"}}, "_type on deliveries"},
		"types":            {models.DeliveryFilter{EventTypes: []string{"a", "b"}}, "_type on deliveries"},
		"status":           {models.DeliveryFilter{Statuses: statuses{models.DeliveryFailed}}, "_status on deliveries"},
		"statuses":         {models.DeliveryFilter{Statuses: statuses{models.DeliveryFailed, models.DeliveryHeld}}, "_status on deliveries"},
		"webhook's status": {models.DeliveryFilter{WebhookID: &w.webhook.ID, Statuses: statuses{models.DeliveryFailed}}, "deliveries_webhook"},
		"outcome":          {models.DeliveryFilter{Outcomes: []models.Outcome{models.OutcomeTimeout}}, "_outcome on deliveries"},
		"trigger":          {models.DeliveryFilter{Triggers: []models.Trigger{models.TriggerTest}}, "_trigger on deliveries"},
		"response":         {models.DeliveryFilter{ResponseMin: new(404), ResponseMax: new(404)}, "_response on deliveries"},
		"window":           {models.DeliveryFilter{Since: new(now.Add(-time.Hour)), Until: new(now)}, "deliveries_tenant"},
	} {
		for _, page := range []models.Page{{}, after, {Last: new(5), Before: after.After}} {
			seen.Take()
			_, err := own.Deliveries(ctx, test.filter, page)
			require.NoError(t, err, name)
			sent := seen.Take()
			require.Len(t, sent, 1, name)
			plan, err := store.Explain(ctx, sent[0])
			require.NoError(t, err, name)
			require.NotContains(t, plan, "Sort", "%s\n%s", name, sent[0])
			require.NotContains(t, plan, "Seq Scan", "%s\n%s", name, sent[0])
			require.Contains(t, plan, test.index, "%s\n%s", name, sent[0])
		}
	}
	for name, filter := range map[string]models.EventFilter{
		"all":    {},
		"type":   {EventTypes: []string{"a"}},
		"types":  {EventTypes: []string{"a", "b"}},
		"key":    {IdempotencyKey: new("once")},
		"window": {Since: new(now.Add(-time.Hour)), Until: new(now)},
	} {
		for _, reach := range []models.Reach{{Tenant: "acme"}, {All: true}} {
			seen.Take()
			_, err := store.Tenant(reach).Events(ctx, filter, models.Page{After: &firstEvents.Cursors[0]})
			require.NoError(t, err, name)
			plan, err := store.Explain(ctx, seen.Take()[0])
			require.NoError(t, err, name)
			require.NotContains(t, plan, "Sort", name)
			require.NotContains(t, plan, "Seq Scan", name)
			if len(filter.EventTypes) > 0 && reach.All {
				require.Contains(t, plan, "events_type", name)
			}
			if filter.IdempotencyKey != nil {
				require.Contains(t, plan, "events_key", name)
			}
		}
	}
}

// A platform key sees all tenants, and what is rare among their millions must not be looked for by
// walking through them.
func TestTenant_PagesOfAllTenantsUseIndexes(t *testing.T) {
	t.Parallel()
	store := modelstest.Postgres(t)
	ctx := t.Context()
	w := newWorld(t, store, "acme")
	newDelivery(t, store, w.event, w.webhook, nil)
	seen := store.Observe()
	platform := store.Tenant(models.Reach{All: true})
	first, err := platform.Deliveries(ctx, models.DeliveryFilter{}, models.Page{})
	require.NoError(t, err)
	now := time.Now()
	for name, test := range map[string]struct {
		filter models.DeliveryFilter
		index  string
	}{
		"all":      {models.DeliveryFilter{}, "deliveries_pkey"},
		"tenant":   {models.DeliveryFilter{Tenant: &w.event.Tenant}, "deliveries_tenant"},
		"type":     {models.DeliveryFilter{EventTypes: []string{"a"}}, "deliveries_type"},
		"types":    {models.DeliveryFilter{EventTypes: []string{"a", "b"}}, "deliveries_type"},
		"status":   {models.DeliveryFilter{Statuses: []models.DeliveryStatus{models.DeliveryFailed}}, "deliveries_status"},
		"outcome":  {models.DeliveryFilter{Outcomes: []models.Outcome{models.OutcomeTimeout}}, "deliveries_outcome"},
		"outcomes": {models.DeliveryFilter{Outcomes: []models.Outcome{models.OutcomeTimeout, models.OutcomeHTTPError}}, "deliveries_outcome"},
		"trigger":  {models.DeliveryFilter{Triggers: []models.Trigger{models.TriggerTest}}, "deliveries_trigger"},
		"response": {models.DeliveryFilter{ResponseMin: new(404), ResponseMax: new(404)}, "deliveries_response"},
		"window":   {models.DeliveryFilter{Since: new(now.Add(-time.Hour)), Until: new(now)}, "deliveries_pkey"},
	} {
		for _, page := range []models.Page{{}, {After: &first.Cursors[0]}, {Last: new(5), Before: &first.Cursors[0]}} {
			seen.Take()
			_, err := platform.Deliveries(ctx, test.filter, page)
			require.NoError(t, err, name)
			plan, err := store.Explain(ctx, seen.Take()[0])
			require.NoError(t, err, name)
			require.NotContains(t, plan, "Sort", name)
			require.NotContains(t, plan, "Seq Scan", name)
			require.Contains(t, plan, test.index, name)
		}
	}
}
