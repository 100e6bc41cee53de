package app_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// explained is why a webhook got an event.
type explained struct {
	Webhook  struct{ ID, Name string }
	Verdict  string
	Detail   *string
	Delivery *struct{ Status string }
}

type explanations struct {
	Nodes    []explained
	PageInfo struct {
		HasNextPage, HasPreviousPage bool
		StartCursor, EndCursor       *string
	}
}

// explain asks with these arguments beside the event's id.
func explain(t testing.TB, api *apptest.Client, id string, arguments map[string]any) explanations {
	t.Helper()
	variables := map[string]any{"id": id}
	maps.Copy(variables, arguments)
	var out struct {
		Event struct{ Explain explanations }
	}
	api.Query(t, `query($id: ID!, $first: Int, $after: String, $last: Int, $before: String, $verdicts: [MatchVerdict!]) {
		event(id: $id) { explain(first: $first, after: $after, last: $last, before: $before, verdicts: $verdicts) {
			nodes { webhook { id name } verdict detail delivery { status } }
			pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } } }`, variables, &out)
	return out.Event.Explain
}

// byName are the explanations by the webhooks' names as they were at creation.
func byName(e explanations, names map[string]string) map[string]explained {
	found := map[string]explained{}
	for _, x := range e.Nodes {
		found[names[x.Webhook.ID]] = x
	}
	return found
}

func TestE8_Explain(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		require.Empty(t, upsert(t, s.Client, map[string]any{"name": "order.placed", "schema": orderSchema}, nil).UserErrors)
		names := map[string]string{}
		add := func(name string, more map[string]any) string {
			more["name"] = name
			id := create(t, s.Client, receiver.URL(), more).Webhook.ID
			names[id] = name
			return id
		}
		order := []string{"order.placed"}
		matched := add("matched", map[string]any{"eventTypes": order, "filter": "data.total > 5.0 && data.note == 'a'"})
		add("not subscribed", map[string]any{"eventTypes": []string{"message.sent"}})
		filtered := add("filtered", map[string]any{"eventTypes": order, "filter": "data.total > 5.0 && data.note == 'b'"})
		add("failed", map[string]any{"eventTypes": []string{"order.*"}, "filter": "data.missing.deep == 1"})
		paused := add("paused", map[string]any{"eventTypes": order})
		disabled := add("disabled", map[string]any{"eventTypes": order})
		deleted := add("deleted", map[string]any{"eventTypes": order})
		gone := add("gone before", map[string]any{"eventTypes": order})
		s.Query(t, `mutation($id: ID!) { pauseWebhook(id: $id) { userErrors { message } } }`, map[string]any{"id": paused}, nil)
		s.Query(t, `mutation($id: ID!) { disableWebhook(id: $id) { userErrors { message } } }`, map[string]any{"id": disabled}, nil)
		s.Query(t, `mutation($id: ID!) { deleteWebhook(id: $id) { deletedId } }`, map[string]any{"id": gone}, nil)

		id := emit(t, s.Client, "order.placed", `{"total":10,"note":"a"}`)
		check := func(when string) {
			all := explain(t, s.Client, id, nil)
			got := byName(all, names)
			require.Equal(t, "MATCHED", got["matched"].Verdict, when)
			require.Equal(t, "NOT_SUBSCRIBED", got["not subscribed"].Verdict, when)
			require.Equal(t, "FILTERED_OUT", got["filtered"].Verdict, when)
			require.Contains(t, *got["filtered"].Detail, `data.note == "b"`, when)
			require.NotContains(t, *got["filtered"].Detail, "total", when)
			require.Nil(t, got["filtered"].Delivery, when)
			require.Equal(t, "FILTER_ERROR", got["failed"].Verdict, when)
			require.Equal(t, "SKIPPED", got["failed"].Delivery.Status, when)
			require.Equal(t, "PAUSED", got["paused"].Verdict, when)
			require.Equal(t, "DISABLED", got["disabled"].Verdict, when)
			require.Equal(t, "SKIPPED", got["disabled"].Delivery.Status, when)
			require.Equal(t, "MATCHED", got["deleted"].Verdict, when)
			require.NotContains(t, got, "gone before", when)
			require.True(t, slices.IsSortedFunc(all.Nodes, func(a, b explained) int {
				if a.Webhook.ID > b.Webhook.ID {
					return -1
				}
				return 1
			}), when)
		}
		check("at once")

		// Everything changes afterwards, and what happened stays what it was.
		receiver.Wait(t, 2)
		for _, change := range []struct {
			id    string
			input map[string]any
		}{
			{matched, map[string]any{"eventTypes": []string{"message.sent"}, "filter": nil, "name": "renamed"}},
			{filtered, map[string]any{"filter": nil}},
		} {
			s.Query(t, `mutation($id: ID!, $input: UpdateWebhookInput!) { updateWebhook(id: $id, input: $input) { userErrors { message } } }`,
				map[string]any{"id": change.id, "input": change.input}, nil)
		}
		for _, resumed := range []string{paused, disabled} {
			s.Query(t, `mutation($id: ID!) { resumeWebhook(id: $id) { userErrors { message } } }`, map[string]any{"id": resumed}, nil)
		}
		s.Query(t, `mutation($id: ID!) { deleteWebhook(id: $id) { deletedId } }`, map[string]any{"id": deleted}, nil)
		require.Empty(t, upsert(t, s.Client, map[string]any{
			"name": "order.placed", "schema": json.RawMessage(`{"type":"object","properties":{"other":{"type":"string"}},"additionalProperties":false}`),
		}, map[string]any{"force": true}).UserErrors)
		late := add("late", map[string]any{"eventTypes": order})
		check("after the changes")
		got := byName(explain(t, s.Client, id, nil), names)
		require.Equal(t, "CREATED_LATER", got["late"].Verdict)
		require.Equal(t, "renamed", got["matched"].Webhook.Name, "the webhook is shown as it is now")
		s.Query(t, `mutation($id: ID!) { deleteWebhook(id: $id) { deletedId } }`, map[string]any{"id": late}, nil)
		require.NotContains(t, byName(explain(t, s.Client, id, nil), names), "late", "came and went since")

		var out erased
		s.Query(t, eraseEvent, map[string]any{"id": id}, &out)
		got = byName(explain(t, s.Client, id, nil), names)
		require.Equal(t, "FILTERED_OUT", got["filtered"].Verdict)
		require.Equal(t, "MATCHED", got["matched"].Verdict)
		require.Equal(t, "FILTER_ERROR", got["failed"].Verdict)
	})
}

func TestE8_ExplainPages(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		var want, matched []string // newest first
		for n := range 12 {
			types := []string{"message.sent"}
			if n%3 == 0 {
				types = []string{"participant.created"}
			}
			id := create(t, s.Client, receiver.URL(), map[string]any{"eventTypes": types}).Webhook.ID
			want = append([]string{id}, want...)
			if n%3 == 0 {
				matched = append([]string{id}, matched...)
			}
		}
		id := emit(t, s.Client, "participant.created", `{}`)
		walk := func(arguments map[string]any, forward bool) []string {
			var ids []string
			for {
				page := explain(t, s.Client, id, arguments)
				var part []string
				for _, n := range page.Nodes {
					part = append(part, n.Webhook.ID)
				}
				if forward {
					ids = append(ids, part...)
					arguments["after"] = page.PageInfo.EndCursor
				} else {
					ids = append(part, ids...)
					arguments["before"] = page.PageInfo.StartCursor
				}
				if forward && !page.PageInfo.HasNextPage || !forward && !page.PageInfo.HasPreviousPage {
					return ids
				}
			}
		}
		only := []string{"MATCHED"}
		require.Equal(t, want, walk(map[string]any{"first": 5}, true))
		require.Equal(t, want, walk(map[string]any{"last": 5}, false))
		require.Equal(t, matched, walk(map[string]any{"first": 1, "verdicts": only}, true))
		require.Equal(t, matched, walk(map[string]any{"first": 4, "verdicts": only}, true))
		require.Equal(t, matched, walk(map[string]any{"last": 3, "verdicts": only}, false))
		require.Empty(t, walk(map[string]any{"first": 3, "verdicts": []string{"PAUSED", "DISABLED"}}, true))

		other := emit(t, s.Client, "participant.created", `{}`)
		cursor := explain(t, s.Client, id, map[string]any{"first": 1}).PageInfo.EndCursor
		for _, arguments := range []string{`first: 1, after: "` + *cursor + `"`, `first: -1`, `first: 101`, `first: 1, last: 1`} {
			for _, verdicts := range []string{"", ", verdicts: [MATCHED]"} {
				a, err := s.Post(t.Context(), `{ event(id: "`+other+`") { explain(`+arguments+verdicts+`) { nodes { verdict } } } }`, nil)
				require.NoError(t, err)
				require.Equal(t, []string{"BAD_REQUEST"}, a.Codes(), arguments)
			}
		}
	})
}

// A tenant is told of its own webhooks alone, and a test event of the one that was tested.
func TestE8_ExplainTenantsAndTests(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Embedded, nil)
	receiver := receivertest.New(t)
	acme, rival := tenantKey(t, s.Client, "acme", "MANAGE", "EMIT"), tenantKey(t, s.Client, "rival", "MANAGE", "EMIT")
	mine := create(t, acme, receiver.URL(), nil).Webhook.ID
	second := create(t, acme, receiver.URL(), nil).Webhook.ID
	create(t, rival, receiver.URL(), nil)
	id := emit(t, acme, "message.sent", `{}`)
	require.Len(t, explain(t, acme, id, nil).Nodes, 2)
	require.Len(t, explain(t, s.Client, id, nil).Nodes, 2, "a platform key is told of the event's tenant")
	var none struct{ Event *struct{} }
	rival.Query(t, `query($id: ID!) { event(id: $id) { explain { nodes { verdict } } } }`, map[string]any{"id": id}, &none)
	require.Nil(t, none.Event)

	var tested struct {
		TestWebhook struct {
			Delivery struct{ Event struct{ ID string } }
		}
	}
	acme.Query(t, `mutation($id: ID!) { testWebhook(id: $id, eventType: "message.sent") { delivery { event { id } } } }`, map[string]any{"id": mine}, &tested)
	verdicts := map[string]string{}
	for _, n := range explain(t, acme, tested.TestWebhook.Delivery.Event.ID, nil).Nodes {
		verdicts[n.Webhook.ID] = n.Verdict
	}
	require.Equal(t, map[string]string{mine: "MATCHED", second: "NOT_SUBSCRIBED"}, verdicts)
}
