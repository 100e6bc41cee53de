package models_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

func TestTenant_WebhookFilters(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		add := func(name string, edit func(*models.Webhook)) {
			newWebhook(t, store, "acme", func(w *models.Webhook) {
				w.Name = name
				if edit != nil {
					edit(w)
				}
			})
		}
		add("exact", func(w *models.Webhook) { w.EventTypes = models.StringList{"message.sent", "participant.created"} })
		add("prefix", func(w *models.Webhook) { w.EventTypes = models.StringList{"participant.*"} })
		add("star", func(w *models.Webhook) { w.EventTypes = models.StringList{"*"} })
		add("notices", func(w *models.Webhook) { w.EventTypes = models.StringList{"webhook.failing"} })
		add("100%_sure", func(w *models.Webhook) {
			w.EventTypes, w.Status = models.StringList{"participants.created"}, models.WebhookPaused
			w.StatusReason = new(models.ReasonByUser)
		})
		add(`back\slash`, func(w *models.Webhook) {
			w.EventTypes, w.TargetURL, w.ExternalID = models.StringList{"x"}, "https://Partner.example/In", new("Ext-7")
		})
		gone := newWebhook(t, store, "acme", func(w *models.Webhook) { w.Name, w.ExternalID = "gone", new("gone") })
		require.NoError(t, store.DeleteWebhook(ctx, all, gone.ID))
		newWebhook(t, store, "rival", func(w *models.Webhook) { w.Name = "rival's" })

		r := store.Tenant(models.Reach{Tenant: "acme"})
		every := []string{`back\slash`, "100%_sure", "notices", "star", "prefix", "exact"}
		for name, test := range map[string]struct {
			filter models.WebhookFilter
			want   []string
		}{
			"all, newest first":  {models.WebhookFilter{}, every},
			"status":             {models.WebhookFilter{Status: new(models.WebhookPaused)}, []string{"100%_sure"}},
			"type":               {models.WebhookFilter{EventType: new("participant.created")}, []string{"star", "prefix", "exact"}},
			"later type":         {models.WebhookFilter{EventType: new("participant.merged")}, []string{"star", "prefix"}},
			"pattern":            {models.WebhookFilter{EventType: new("participant.*")}, []string{"prefix"}},
			"star":               {models.WebhookFilter{EventType: new("*")}, []string{"star"}},
			"notice":             {models.WebhookFilter{EventType: new("webhook.failing")}, []string{"notices"}},
			"part of a name":     {models.WebhookFilter{EventType: new("created")}, []string{"star"}},
			"other case":         {models.WebhookFilter{EventType: new("Participant.created")}, []string{"star"}},
			"search name":        {models.WebhookFilter{Search: new("STAR")}, []string{"star"}},
			"search URL":         {models.WebhookFilter{Search: new("partner.EXAMPLE/in")}, []string{`back\slash`}},
			"search external id": {models.WebhookFilter{Search: new("ext-7")}, []string{`back\slash`}},
			"search percent":     {models.WebhookFilter{Search: new("0%")}, []string{"100%_sure"}},
			"search underscore":  {models.WebhookFilter{Search: new("_")}, []string{"100%_sure"}},
			"search backslash":   {models.WebhookFilter{Search: new(`\`)}, []string{`back\slash`}},
			"search nothing":     {models.WebhookFilter{Search: new("")}, every},
			"search quote":       {models.WebhookFilter{Search: new(`' OR 1=1 --`)}, nil},
			"together":           {models.WebhookFilter{Search: new("e"), EventType: new("participant.created"), Status: new(models.WebhookActive)}, []string{"star", "prefix", "exact"}},
		} {
			got, err := r.Webhooks(ctx, test.filter, models.Page{})
			require.NoError(t, err, name)
			require.Equal(t, test.want, ids(got.Items, func(w models.Webhook) string { return w.Name }), name)
			n, err := r.WebhookCount(ctx, test.filter)
			require.NoError(t, err, name)
			require.Equal(t, len(test.want), n, name)
		}

		read, err := r.Webhook(ctx, gone.ID)
		require.NoError(t, err, "history stays readable")
		require.NotNil(t, read.DeletedAt)
		_, err = r.WebhookByExternalID(ctx, "acme", "gone")
		require.ErrorIs(t, err, models.ErrNotFound)
		byExternal, err := store.Tenant(all).WebhookByExternalID(ctx, "acme", "Ext-7")
		require.NoError(t, err)
		require.Equal(t, `back\slash`, byExternal.Name)
		_, err = store.Tenant(all).WebhookByExternalID(ctx, "rival", "Ext-7")
		require.ErrorIs(t, err, models.ErrNotFound)
	})
}

func TestTenant_EventFilters(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		noon := time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)
		names := map[string]string{}
		add := func(name, kind string, at time.Time, edit func(*models.Event)) {
			e := newEvent(t, store, "acme", func(e *models.Event) {
				e.ID, e.EventType, e.CreatedAt = idAt(models.PrefixEvent, at), kind, at
				if edit != nil {
					edit(e)
				}
			})
			names[e.ID] = name
		}
		add("old", "a", noon.Add(-48*time.Hour), nil)
		add("noon", "a", noon, nil)
		add("keyed", "b", noon.Add(time.Millisecond), func(e *models.Event) {
			e.IdempotencyKey, e.CreatedAt = new("K"), noon.Add(time.Microsecond)
		})
		add("late", "c", noon.Add(time.Hour), nil)
		add("skewed", "c", noon.Add(2*time.Hour), func(e *models.Event) { e.CreatedAt = noon.Add(2*time.Hour - 4*time.Second) })
		add("test", "a", noon.Add(3*time.Hour), func(e *models.Event) { e.Test = true })

		r := store.Tenant(models.Reach{Tenant: "acme"})
		for name, test := range map[string]struct {
			filter models.EventFilter
			want   []string
		}{
			"all, without tests":   {models.EventFilter{}, []string{"skewed", "late", "keyed", "noon", "old"}},
			"type":                 {models.EventFilter{EventTypes: []string{"a"}}, []string{"noon", "old"}},
			"types":                {models.EventFilter{EventTypes: []string{"c", "a", "a"}}, []string{"skewed", "late", "noon", "old"}},
			"key":                  {models.EventFilter{IdempotencyKey: new("K")}, []string{"keyed"}},
			"key of another case":  {models.EventFilter{IdempotencyKey: new("k")}, nil},
			"since, inclusive":     {models.EventFilter{Since: &noon}, []string{"skewed", "late", "keyed", "noon"}},
			"since, finer":         {models.EventFilter{Since: new(noon.Add(time.Nanosecond))}, []string{"skewed", "late", "keyed"}},
			"until, exclusive":     {models.EventFilter{Until: &noon}, []string{"old"}},
			"until, finer":         {models.EventFilter{Until: new(noon.Add(time.Nanosecond))}, []string{"noon", "old"}},
			"window":               {models.EventFilter{Since: new(noon.Add(2*time.Hour - 5*time.Second)), Until: new(noon.Add(2*time.Hour - 3*time.Second))}, []string{"skewed"}},
			"before all time":      {models.EventFilter{Until: new(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC))}, nil},
			"since ages":           {models.EventFilter{Since: new(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)), EventTypes: []string{"b"}}, []string{"keyed"}},
			"until the end":        {models.EventFilter{Until: new(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)), EventTypes: []string{"b"}}, []string{"keyed"}},
			"empty window":         {models.EventFilter{Since: &noon, Until: &noon}, nil},
			"window the wrong way": {models.EventFilter{Since: new(noon.Add(time.Hour)), Until: &noon}, nil},
		} {
			got, err := r.Events(ctx, test.filter, models.Page{})
			require.NoError(t, err, name)
			require.Equal(t, test.want, ids(got.Items, func(e models.Event) string { return names[e.ID] }), name)
		}
	})
}

func TestTenant_DeliveryFilters(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		crm := newWebhook(t, store, "acme", nil)
		mail := newWebhook(t, store, "acme", nil)
		created := newEvent(t, store, "acme", nil)
		sent := newEvent(t, store, "acme", func(e *models.Event) { e.EventType = "message.sent" })
		names := map[string]string{}
		add := func(name string, e models.Event, w models.Webhook, edit func(*models.Delivery)) {
			d := newDelivery(t, store, e, w, edit)
			names[d.ID] = name
		}
		ended := func(status models.DeliveryStatus, outcome models.Outcome, code *int) func(*models.Delivery) {
			return func(d *models.Delivery) {
				d.Status, d.LastOutcome, d.LastStatus, d.AttemptCount = status, &outcome, code, 1
			}
		}
		add("ok", created, crm, ended(models.DeliverySucceeded, models.OutcomeSuccess, new(200)))
		add("no content", sent, crm, ended(models.DeliverySucceeded, models.OutcomeSuccess, new(204)))
		add("500", created, mail, ended(models.DeliveryRetrying, models.OutcomeHTTPError, new(500)))
		add("timeout", sent, mail, ended(models.DeliveryFailed, models.OutcomeTimeout, nil))
		add("new", created, mail, nil)
		add("test", created, crm, func(d *models.Delivery) { d.Trigger = models.TriggerTest })

		r := store.Tenant(models.Reach{Tenant: "acme"})
		every := []string{"test", "new", "timeout", "500", "no content", "ok"}
		type statuses = []models.DeliveryStatus
		for name, test := range map[string]struct {
			filter models.DeliveryFilter
			want   []string
		}{
			"all":            {models.DeliveryFilter{}, every},
			"webhook":        {models.DeliveryFilter{WebhookID: &crm.ID}, []string{"test", "no content", "ok"}},
			"event":          {models.DeliveryFilter{EventID: &sent.ID}, []string{"timeout", "no content"}},
			"both":           {models.DeliveryFilter{WebhookID: &crm.ID, EventID: &sent.ID}, []string{"no content"}},
			"type":           {models.DeliveryFilter{EventTypes: []string{"message.sent"}}, []string{"timeout", "no content"}},
			"types":          {models.DeliveryFilter{EventTypes: []string{"message.sent", "participant.created"}}, every},
			"succeeded":      {models.DeliveryFilter{Statuses: statuses{models.DeliverySucceeded}}, []string{"no content", "ok"}},
			"failed":         {models.DeliveryFilter{Statuses: statuses{models.DeliveryFailed}}, []string{"timeout"}},
			"statuses":       {models.DeliveryFilter{Statuses: statuses{models.DeliverySucceeded, models.DeliveryPending, models.DeliveryFailed}}, []string{"test", "new", "timeout", "no content", "ok"}},
			"outcome":        {models.DeliveryFilter{Outcomes: []models.Outcome{models.OutcomeTimeout}}, []string{"timeout"}},
			"outcomes":       {models.DeliveryFilter{Outcomes: []models.Outcome{models.OutcomeTimeout, models.OutcomeSuccess}}, []string{"timeout", "no content", "ok"}},
			"two lists":      {models.DeliveryFilter{Outcomes: []models.Outcome{models.OutcomeTimeout, models.OutcomeSuccess}, Statuses: statuses{models.DeliverySucceeded, models.DeliveryHeld}}, []string{"no content", "ok"}},
			"trigger":        {models.DeliveryFilter{Triggers: []models.Trigger{models.TriggerTest}}, []string{"test"}},
			"automatic":      {models.DeliveryFilter{Triggers: []models.Trigger{models.TriggerAutomatic}}, every[1:]},
			"triggers":       {models.DeliveryFilter{Triggers: []models.Trigger{models.TriggerTest, models.TriggerReplay}}, []string{"test"}},
			"response 2xx":   {models.DeliveryFilter{ResponseMin: new(200), ResponseMax: new(299)}, []string{"no content", "ok"}},
			"response up":    {models.DeliveryFilter{ResponseMin: new(204)}, []string{"500", "no content"}},
			"response down":  {models.DeliveryFilter{ResponseMax: new(199)}, nil},
			"response none":  {models.DeliveryFilter{ResponseMin: new(1)}, []string{"500", "no content", "ok"}},
			"since the past": {models.DeliveryFilter{Since: new(time.Now().Add(-time.Hour))}, every},
			"until the past": {models.DeliveryFilter{Until: new(time.Now().Add(-time.Hour))}, nil},
		} {
			got, err := r.Deliveries(ctx, test.filter, models.Page{})
			require.NoError(t, err, name)
			require.Equal(t, test.want, ids(got.Items, func(d models.Delivery) string { return names[d.ID] }), name)
			each, err := r.DeliveriesOfWebhooks(ctx, []string{crm.ID, mail.ID}, test.filter, models.Page{})
			require.NoError(t, err, name)
			both := slices.Concat(each[crm.ID].Items, each[mail.ID].Items)
			require.ElementsMatch(t, test.want, ids(both, func(d models.Delivery) string { return names[d.ID] }), name)
		}
		// Two lists of several values, split by one, over pages in both directions.
		f := models.DeliveryFilter{Statuses: statuses{models.DeliverySucceeded, models.DeliveryPending, models.DeliveryFailed}, EventTypes: []string{"message.sent", "participant.created"}}
		first, err := r.Deliveries(ctx, f, models.Page{First: new(2)})
		require.NoError(t, err)
		second, err := r.Deliveries(ctx, f, models.Page{First: new(9), After: &first.Cursors[1]})
		require.NoError(t, err)
		require.Equal(t, []string{"timeout", "no content", "ok"}, ids(second.Items, func(d models.Delivery) string { return names[d.ID] }))
		back, err := r.Deliveries(ctx, f, models.Page{Last: new(2), Before: &second.Cursors[0]})
		require.NoError(t, err)
		require.Equal(t, first.Items, back.Items)
		require.True(t, back.HasNext)
		require.False(t, back.HasPrevious)
	})
}

func TestTenant_Attempts(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		w := newWebhook(t, store, "acme", nil)
		e := newEvent(t, store, "acme", nil)
		many, few, none := newDelivery(t, store, e, w, nil), newDelivery(t, store, e, w, nil), newDelivery(t, store, e, w, nil)
		for n := 1; n <= models.MaxAttemptsShown+3; n++ {
			newAttempt(t, store, many, n)
		}
		only := newAttempt(t, store, few, 1)
		r := store.Tenant(models.Reach{Tenant: "acme"})
		asked := []string{many.ID, few.ID, none.ID}
		got, err := r.AttemptsOf(ctx, asked)
		require.NoError(t, err)
		require.Len(t, got, 2)
		require.Len(t, got[many.ID], models.MaxAttemptsShown)
		require.Equal(t, 4, got[many.ID][0].Number, "the newest hundred")
		require.Equal(t, models.MaxAttemptsShown+3, got[many.ID][models.MaxAttemptsShown-1].Number, "oldest first")
		require.Equal(t, []models.Attempt{only}, got[few.ID])
		last, err := r.LastAttempts(ctx, asked)
		require.NoError(t, err)
		require.Len(t, last, 2)
		require.Equal(t, models.MaxAttemptsShown+3, last[many.ID].Number)
		require.Equal(t, only, last[few.ID])
		one, err := r.Attempt(ctx, only.ID())
		require.NoError(t, err)
		require.Equal(t, only, one)
		_, err = r.Attempt(ctx, models.AttemptID(few.ID, 2))
		require.ErrorIs(t, err, models.ErrNotFound)
	})
}

// What explain asks: whom the tenant had at the event's epoch, and whom it has now.
func TestTenant_RevisionsInForce(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, store *models.Store) {
		ctx := t.Context()
		before := newWebhook(t, store, "acme", func(w *models.Webhook) { w.Name = "deleted before" })
		require.NoError(t, store.DeleteWebhook(ctx, all, before.ID))
		edited := newWebhook(t, store, "acme", func(w *models.Webhook) { w.Name = "edited since" })
		deleted := newWebhook(t, store, "acme", func(w *models.Webhook) { w.Name = "deleted since" })
		newWebhook(t, store, "rival", nil)
		epoch, err := store.ConfigEpoch(ctx)
		require.NoError(t, err)
		_, err = store.UpdateWebhook(ctx, all, edited.ID, nil, func(w *models.Webhook) error {
			w.Filter, w.EventTypes = new("false"), models.StringList{"message.sent"}
			return nil
		})
		require.NoError(t, err)
		require.NoError(t, store.DeleteWebhook(ctx, all, deleted.ID))
		later := newWebhook(t, store, "acme", func(w *models.Webhook) { w.Name = "created later" })
		gone := newWebhook(t, store, "acme", func(w *models.Webhook) { w.Name = "came and went" })
		require.NoError(t, store.DeleteWebhook(ctx, all, gone.ID))

		for _, reach := range []models.Reach{all, {Tenant: "acme"}} {
			first, err := store.Tenant(reach).RevisionsInForce(ctx, "acme", "evt", epoch, models.Page{First: new(2)})
			require.NoError(t, err)
			require.True(t, first.HasNext)
			require.Equal(t, later.ID, first.Items[0].Webhook.ID)
			require.Nil(t, first.Items[0].Revision)
			require.Equal(t, "deleted since", first.Items[1].Webhook.Name)
			require.NotNil(t, first.Items[1].Webhook.DeletedAt)
			require.False(t, first.Items[1].Revision.Deleted)
			second, err := store.Tenant(reach).RevisionsInForce(ctx, "acme", "evt", epoch, models.Page{After: &first.Cursors[1]})
			require.NoError(t, err)
			require.Len(t, second.Items, 1)
			require.True(t, second.HasPrevious)
			require.Equal(t, new("false"), second.Items[0].Webhook.Filter, "now")
			require.Equal(t, &models.Revision{
				WebhookID: edited.ID, Revision: 1, Epoch: edited.Epoch, Tenant: "acme", EventTypes: edited.EventTypes,
				Status: models.WebhookActive, CreatedAt: edited.CreatedAt,
			}, second.Items[0].Revision, "then")
			_, err = store.Tenant(reach).RevisionsInForce(ctx, "acme", "other", epoch, models.Page{After: &first.Cursors[1]})
			require.ErrorIs(t, err, models.ErrInvalidCursor)
		}
		got, err := store.Tenant(models.Reach{Tenant: "rival"}).RevisionsInForce(ctx, "acme", "evt", epoch, models.Page{})
		require.NoError(t, err)
		require.Empty(t, got.Items)
	})
}
