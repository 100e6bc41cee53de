package catalogue_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

func TestMatch_DecidesInOrder(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t)
	yes, no, fails := `data.participant.id == "p1"`, `data.participant.id == "p2"`, `data.participant.phone == "x"`
	query := `subscription { event { ... on ParticipantCreated { participant { id } } } }`
	shaped := `{"participant":{"id":"p1"}}`
	tests := map[string]struct {
		webhook models.Webhook
		verdict catalogue.Verdict
		detail  string
		body    *string
	}{
		"matched":                        {models.Webhook{EventTypes: models.StringList{"participant.created"}}, catalogue.Matched, "", nil},
		"by a prefix":                    {models.Webhook{EventTypes: models.StringList{"participant.*"}}, catalogue.Matched, "", nil},
		"by a star":                      {models.Webhook{EventTypes: models.StringList{"*"}}, catalogue.Matched, "", nil},
		"by several at once":             {models.Webhook{EventTypes: models.StringList{"*", "participant.created", "participant.*"}}, catalogue.Matched, "", nil},
		"filter true":                    {models.Webhook{EventTypes: models.StringList{"*"}, Filter: &yes}, catalogue.Matched, "", nil},
		"filter false":                   {models.Webhook{EventTypes: models.StringList{"*"}, Filter: &no}, catalogue.FilteredOut, `The clause data.participant.id == "p2" was false.`, nil},
		"filter fails":                   {models.Webhook{EventTypes: models.StringList{"*"}, Filter: &fails}, catalogue.FilterError, "The filter failed: the event has no field phone", nil},
		"paused":                         {models.Webhook{EventTypes: models.StringList{"*"}, Status: models.WebhookPaused, PayloadQuery: &query}, catalogue.Paused, "paused", &shaped},
		"disabled":                       {models.Webhook{EventTypes: models.StringList{"*"}, Status: models.WebhookDisabled}, catalogue.Disabled, "disabled", nil},
		"filtered out comes first":       {models.Webhook{EventTypes: models.StringList{"*"}, Status: models.WebhookDisabled, Filter: &no}, catalogue.FilteredOut, "", nil},
		"a filter's fault comes first":   {models.Webhook{EventTypes: models.StringList{"*"}, Status: models.WebhookPaused, Filter: &fails}, catalogue.FilterError, "", nil},
		"shaped":                         {models.Webhook{EventTypes: models.StringList{"*"}, PayloadQuery: &query}, catalogue.Matched, "", &shaped},
		"stored filter does not compile": {models.Webhook{EventTypes: models.StringList{"*"}, Filter: new("data.(")}, catalogue.FilterError, "The filter no longer compiles: ", nil},
		"stored filter has a lost field": {models.Webhook{EventTypes: models.StringList{"participant.created"}, Filter: new(`has(data.lost)`)}, catalogue.FilterError, `no field "lost"`, nil},
		"stored query does not compile":  {models.Webhook{EventTypes: models.StringList{"*"}, PayloadQuery: new("{")}, catalogue.FilterError, "The payload query no longer compiles: ", nil},
		"query fails":                    {models.Webhook{EventTypes: models.StringList{"*"}, PayloadQuery: new(manyAliases(400))}, catalogue.FilterError, "The payload query failed: the shaped data is larger", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.webhook.Status == "" {
				tt.webhook.Status = models.WebhookActive
			}
			data := `{"participant":{"id":"p1"}}`
			if strings.HasPrefix(name, "query fails") {
				data = `{"participant":{"id":"` + strings.Repeat("x", 10_000) + `"}}`
			}
			matches := c.Index([]models.Webhook{tt.webhook}).Match(event("participant.created", data))
			require.Len(t, matches, 1)
			require.Equal(t, tt.verdict, matches[0].Verdict, matches[0].Detail)
			require.Contains(t, matches[0].Detail, tt.detail)
			require.Equal(t, tt.body, matches[0].Body)
			require.LessOrEqual(t, len(matches[0].Detail), 400)
			require.Equal(t, matches[0].Decision, c.Decide(&tt.webhook, catalogue.NewSubject(event("participant.created", data))))
		})
	}
}

// manyAliases asks for one text n times.
func manyAliases(n int) string {
	var b strings.Builder
	b.WriteString("subscription { event { ")
	for i := 0; i < n; i += 100 {
		fmt.Fprintf(&b, "... on ParticipantCreated { p%d: participant {", i)
		for j := range 100 {
			fmt.Fprintf(&b, " a%d: id", j)
		}
		b.WriteString("} } ")
	}
	b.WriteString("} }")
	return b.String()
}

func TestMatch_GivesSubscribedWebhooksOnceInOrder(t *testing.T) {
	t.Parallel()
	deleted := time.Now()
	webhooks := []models.Webhook{
		{ID: "wh_1", EventTypes: models.StringList{"*", "participant.*"}, Status: models.WebhookActive},
		{ID: "wh_2", EventTypes: models.StringList{"message.sent"}, Status: models.WebhookActive},
		{ID: "wh_3", EventTypes: models.StringList{"participant.created", "participant.created"}, Status: models.WebhookActive},
		{ID: "wh_4", EventTypes: models.StringList{"participant.created"}, Status: models.WebhookActive, DeletedAt: &deleted},
		{ID: "wh_5", EventTypes: models.StringList{"participant.*"}, Status: models.WebhookPaused},
		{ID: "wh_6", EventTypes: models.StringList{"webhook.failing"}, Status: models.WebhookActive},
		{ID: "wh_7", EventTypes: models.StringList{"participants.*"}, Status: models.WebhookActive},
	}
	ix := newCatalogue(t).Index(webhooks)
	ids := func(eventType string) (ids []string) {
		for _, m := range ix.Match(event(eventType, `{}`)) {
			ids = append(ids, m.Webhook.ID)
		}
		return ids
	}
	require.Equal(t, []string{"wh_1", "wh_3", "wh_5"}, ids("participant.created"))
	require.Equal(t, []string{"wh_1", "wh_5"}, ids("participant.tag.added"))
	require.Equal(t, []string{"wh_1", "wh_2"}, ids("message.sent"))
	require.Equal(t, []string{"wh_6"}, ids("webhook.failing"))
	require.Equal(t, []string{"wh_1"}, ids("order.paid"))
}

func TestMatch_IsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t)
	query := `subscription { event { ... on ParticipantCreated { participant { id } } } }`
	var webhooks []models.Webhook
	for i := range 50 {
		filter := fmt.Sprintf(`data.participant.id == "p%d" && data.participant.tags.exists(t, t.id != "x")`, i)
		webhooks = append(webhooks, models.Webhook{EventTypes: models.StringList{"participant.created"}, Filter: &filter, PayloadQuery: &query, Status: models.WebhookActive})
	}
	ix := c.Index(webhooks)
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 20 {
				n := (worker*20 + i) % len(webhooks)
				data := fmt.Sprintf(`{"participant":{"id":"p%d","tags":[{"id":"y"}]}}`, n)
				for k, m := range ix.Match(event("participant.created", data)) {
					if (m.Verdict == catalogue.Matched) != (k == n) {
						t.Errorf("webhook %d, event %d: %s %s", k, n, m.Verdict, m.Detail)
					}
				}
			}
		})
	}
	group.Wait()
}

// What a revision decided stays true when the schema has lost the field that it asks for.
func TestExplain_OutlivesSchemas(t *testing.T) {
	t.Parallel()
	c := newCatalogue(t)
	explain := func(rev models.Revision, eventType, data string) catalogue.Decision {
		return c.Explain(rev, catalogue.NewSubject(event(eventType, data)))
	}
	rev := models.Revision{
		EventTypes: models.StringList{"participant.created"}, Filter: new(`data.lost == 1 && data.participant.id == "p1"`),
		PayloadQuery: new(`subscription { event { ... on ParticipantCreated { lost } } }`), Status: models.WebhookActive,
	}
	require.Equal(t, catalogue.Matched, explain(rev, "participant.created", `{"lost":1,"participant":{"id":"p1"}}`).Verdict)
	out := explain(rev, "participant.created", `{"lost":2,"participant":{"id":"p1"}}`)
	require.Equal(t, catalogue.FilteredOut, out.Verdict)
	require.Equal(t, "The clause data.lost == 1 was false.", out.Detail)
	require.Equal(t, catalogue.FilterError, explain(rev, "participant.created", `{"participant":{"id":"p1"}}`).Verdict)
	require.Equal(t, catalogue.Decision{Verdict: catalogue.NotSubscribed, Detail: "The webhook was not subscribed to message.sent."}, explain(rev, "message.sent", `{}`))

	rev.Status = models.WebhookPaused
	require.Equal(t, catalogue.Paused, explain(rev, "participant.created", `{"lost":1,"participant":{"id":"p1"}}`).Verdict)
	rev.Deleted = true
	require.Equal(t, catalogue.NotSubscribed, explain(rev, "participant.created", `{"lost":1,"participant":{"id":"p1"}}`).Verdict)
	rev = models.Revision{EventTypes: models.StringList{"*"}, Filter: new("data.("), Status: models.WebhookActive}
	require.Equal(t, catalogue.FilterError, explain(rev, "a.b", `{}`).Verdict)
}

func TestBroken_ListsWhatAChangeBreaks(t *testing.T) {
	t.Parallel()
	before := newCatalogue(t, typed("order.paid", `{"properties":{"total":{"type":"number"},"note":{"type":"string"}}}`))
	after, err := before.With(append(catalogue.Builtin(), typed("order.paid", `{"properties":{"total":{"type":"number"},"memo":{"type":"string"}}}`)))
	require.NoError(t, err)
	deleted := time.Now()
	webhooks := []models.Webhook{
		{ID: "keeps", EventTypes: models.StringList{"order.paid"}, Filter: new("data.total > 1"), PayloadQuery: new("subscription { event { ... on OrderPaid { total } } }")},
		{ID: "filter", EventTypes: models.StringList{"order.paid"}, Filter: new(`data.note == "x"`)},
		{ID: "query", EventTypes: models.StringList{"order.paid"}, PayloadQuery: new("subscription { event { ... on OrderPaid { note } } }")},
		{ID: "both", EventTypes: models.StringList{"order.paid"}, Filter: new(`data.note == "x"`), PayloadQuery: new("subscription { event { ... on OrderPaid { note } } }")},
		{ID: "of any form", EventTypes: models.StringList{"order.*"}, Filter: new(`data.note == "x"`)},
		{ID: "broken before", EventTypes: models.StringList{"order.paid"}, Filter: new(`data.gone == 1`)},
		{ID: "deleted", EventTypes: models.StringList{"order.paid"}, Filter: new(`data.note == "x"`), DeletedAt: &deleted},
		{ID: "plain", EventTypes: models.StringList{"order.paid"}},
	}
	got := map[string][]models.ProblemCode{}
	for _, b := range before.Broken(after, webhooks) {
		for _, p := range b.Problems {
			got[b.Webhook.ID] = append(got[b.Webhook.ID], p.Code)
		}
	}
	require.Equal(t, map[string][]models.ProblemCode{
		"filter": {models.CodeInvalidFilter}, "query": {models.CodeInvalidPayloadQuery},
		"both": {models.CodeInvalidFilter, models.CodeInvalidPayloadQuery},
	}, got)
}
