package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// naming is every place in the API where a caller can name something that belongs to a tenant, with
// an operation that does so. $webhook, $event, $delivery, $attempt, $replay, $externalId, $key and
// $tenant stand for what is named; $cursor… for a place in a list. %own… are the caller's own.
var naming = map[string]string{
	"Query.node(id)":                                    `{ a: node(id: "$webhook") { id } b: node(id: "$event") { id } c: node(id: "$delivery") { id } d: node(id: "$attempt") { id } e: node(id: "$replay") { id } }`,
	"Query.nodes(ids)":                                  `{ nodes(ids: ["$webhook", "$event", "$delivery", "$attempt", "$replay", "%ownWebhook"]) { id } }`,
	"Query.webhook(id)":                                 `{ webhook(id: "$webhook") { id name health { successRate } deliveries { nodes { id } } } }`,
	"Query.webhook(externalId)":                         `{ webhook(externalId: "$externalId") { id } }`,
	"Query.event(id)":                                   `{ event(id: "$event") { id data deliveries { nodes { id } } explain { nodes { verdict } } } }`,
	"Query.delivery(id)":                                `{ delivery(id: "$delivery") { id attempts { id } } }`,
	"Query.replay(id)":                                  `{ replay(id: "$replay") { id total } }`,
	"Query.replays(webhookId)":                          `{ replays(webhookId: "$webhook") { nodes { id } pageInfo { hasNextPage hasPreviousPage } } }`,
	"Query.deliveryStats(webhookId)":                    `{ deliveryStats(webhookId: "$webhook") { total succeeded failed open attempts successRate } }`,
	"Query.deliveryStats(tenant)":                       `{ deliveryStats(tenant: "$tenant") { total } }`,
	"Query.deliveries(filter.webhookId)":                `{ deliveries(filter: {webhookId: "$webhook"}) { nodes { id } pageInfo { hasNextPage hasPreviousPage } } }`,
	"Query.deliveries(filter.eventId)":                  `{ deliveries(filter: {eventId: "$event"}) { nodes { id } pageInfo { hasNextPage hasPreviousPage } } }`,
	"Query.deliveries(filter.tenant)":                   `{ deliveries(filter: {tenant: "$tenant"}) { nodes { id } } }`,
	"Query.deliveries(after)":                           `{ deliveries(after: "$cursorDeliveries") { nodes { id } pageInfo { hasNextPage hasPreviousPage } } }`,
	"Query.deliveries(before)":                          `{ deliveries(before: "$cursorDeliveries") { nodes { id } pageInfo { hasNextPage hasPreviousPage } } }`,
	"Query.webhooks(filter.tenant)":                     `{ webhooks(filter: {tenant: "$tenant"}) { totalCount } }`,
	"Query.webhooks(after)":                             `{ webhooks(after: "$cursorWebhooks") { nodes { id } totalCount pageInfo { hasNextPage hasPreviousPage } } }`,
	"Query.webhooks(before)":                            `{ webhooks(before: "$cursorWebhooks") { nodes { id } totalCount pageInfo { hasNextPage hasPreviousPage } } }`,
	"Query.events(filter.tenant)":                       `{ events(filter: {tenant: "$tenant"}) { nodes { id } } }`,
	"Query.events(filter.idempotencyKey)":               `{ events(filter: {idempotencyKey: "$key"}) { nodes { id } } }`,
	"Query.events(after)":                               `{ events(after: "$cursorEvents") { nodes { id } pageInfo { hasNextPage hasPreviousPage } } }`,
	"Query.events(before)":                              `{ events(before: "$cursorEvents") { nodes { id } pageInfo { hasNextPage hasPreviousPage } } }`,
	"Query.replays(after)":                              `{ replays(after: "$cursorReplays") { nodes { id } pageInfo { hasNextPage hasPreviousPage } } }`,
	"Query.replays(before)":                             `{ replays(before: "$cursorReplays") { nodes { id } pageInfo { hasNextPage hasPreviousPage } } }`,
	"Query.previewDelivery(input.webhookId)":            `{ previewDelivery(input: {webhookId: "$webhook", event: {eventType: "message.sent", data: {}}}) { verdict curl userErrors { code message field } } }`,
	"Query.previewDelivery(input.eventId)":              `{ previewDelivery(input: {webhookId: "%ownWebhook", eventId: "$event"}) { verdict request { body } userErrors { code message field } } }`,
	"Query.previewDelivery(input.webhook.externalId)":   `{ previewDelivery(input: {webhook: {name: "w", targetUrl: "https://example.com", eventTypes: ["*"], externalId: "$externalId"}, event: {eventType: "message.sent", data: {}}}) { verdict userErrors { code message field conflictingId } } }`,
	"Query.previewDelivery(input.webhook.tenant)":       `{ previewDelivery(input: {webhook: {name: "w", targetUrl: "https://example.com", eventTypes: ["*"], tenant: "$tenant"}, event: {eventType: "message.sent", data: {}}}) { verdict userErrors { code message field } } }`,
	"Query.previewDelivery(input.event.tenant)":         `{ previewDelivery(input: {webhookId: "%ownWebhook", event: {eventType: "message.sent", data: {}, tenant: "$tenant"}}) { verdict userErrors { code message field } } }`,
	"Query.previewDelivery(input.event.idempotencyKey)": `{ previewDelivery(input: {webhookId: "%ownWebhook", event: {eventType: "message.sent", data: {x: 1}, idempotencyKey: "$key"}}) { verdict userErrors { code message field } } }`,
	"Webhook.deliveries(filter.webhookId)":              `{ webhook(id: "%ownWebhook") { deliveries(filter: {webhookId: "$webhook"}) { nodes { id } } } }`,
	"Webhook.deliveries(filter.eventId)":                `{ webhook(id: "%ownWebhook") { deliveries(filter: {eventId: "$event"}) { nodes { id } } } }`,
	"Webhook.deliveries(filter.tenant)":                 `{ webhook(id: "%ownWebhook") { deliveries(filter: {tenant: "$tenant"}) { nodes { id } } } }`,
	"Webhook.deliveries(after)":                         `{ webhook(id: "%ownWebhook") { deliveries(after: "$cursorOfWebhook") { nodes { id } } } }`,
	"Webhook.deliveries(before)":                        `{ webhook(id: "%ownWebhook") { deliveries(before: "$cursorOfWebhook") { nodes { id } } } }`,
	"Event.deliveries(filter.webhookId)":                `{ event(id: "%ownEvent") { deliveries(filter: {webhookId: "$webhook"}) { nodes { id } } } }`,
	"Event.deliveries(filter.eventId)":                  `{ event(id: "%ownEvent") { deliveries(filter: {eventId: "$event"}) { nodes { id } } } }`,
	"Event.deliveries(filter.tenant)":                   `{ event(id: "%ownEvent") { deliveries(filter: {tenant: "$tenant"}) { nodes { id } } } }`,
	"Event.deliveries(after)":                           `{ event(id: "%ownEvent") { deliveries(after: "$cursorOfEvent") { nodes { id } } } }`,
	"Event.deliveries(before)":                          `{ event(id: "%ownEvent") { deliveries(before: "$cursorOfEvent") { nodes { id } } } }`,
	"Event.explain(after)":                              `{ event(id: "%ownEvent") { explain(after: "$cursorExplain") { nodes { verdict } } } }`,
	"Event.explain(before)":                             `{ event(id: "%ownEvent") { explain(before: "$cursorExplain") { nodes { verdict } } } }`,
	"EmitEventPayload.deliveries(after)":                `mutation { emitEvent(input: {eventType: "message.sent", data: {}, idempotencyKey: "%ownKey"}) { deliveries(after: "$cursorOfEvent") { nodes { id } } } }`,
	"Mutation.updateWebhook(id)":                        `mutation { a: updateWebhook(id: "$webhook", input: {name: "x"}) { webhook { id } userErrors { code message field } } b: updateWebhook(id: "$webhook", input: {name: "", targetUrl: "ftp://x"}, expectedVersion: 7) { webhook { id } userErrors { code message field conflictingId } } }`,
	"Mutation.updateWebhook(input.externalId)":          `mutation { updateWebhook(id: "%ownWebhook", input: {externalId: "$externalId"}) { userErrors { code message field conflictingId } } }`,
	"Mutation.deleteWebhook(id)":                        `mutation { deleteWebhook(id: "$webhook") { deletedId userErrors { code message field } } }`,
	"Mutation.pauseWebhook(id)":                         `mutation { pauseWebhook(id: "$webhook") { webhook { id } userErrors { code message field } } }`,
	"Mutation.resumeWebhook(id)":                        `mutation { resumeWebhook(id: "$webhook") { webhook { id } userErrors { code message field } } }`,
	"Mutation.disableWebhook(id)":                       `mutation { disableWebhook(id: "$webhook") { webhook { id } userErrors { code message field } } }`,
	"Mutation.rotateWebhookSecretKey(id)":               `mutation { a: rotateWebhookSecretKey(id: "$webhook") { secretKey userErrors { code message field } } b: rotateWebhookSecretKey(id: "$webhook", overlap: "x", expectedVersion: 9) { secretKey userErrors { code message field conflictingId } } }`,
	"Mutation.testWebhook(id)":                          `mutation { testWebhook(id: "$webhook") { delivery { id } userErrors { code message field } } }`,
	"Mutation.cancelEvent(id)":                          `mutation { cancelEvent(id: "$event") { cancelled event { id } userErrors { code message field } } }`,
	"Mutation.eraseEvent(id)":                           `mutation { eraseEvent(id: "$event") { event { id } userErrors { code message field } } }`,
	"Mutation.redeliver(deliveryId)":                    `mutation { redeliver(deliveryId: "$delivery") { delivery { id } userErrors { code message field } } }`,
	"Mutation.cancelDelivery(deliveryId)":               `mutation { cancelDelivery(deliveryId: "$delivery") { delivery { id } userErrors { code message field } } }`,
	"Mutation.replayDeliveries(input.webhookId)":        `mutation { a: replayDeliveries(input: {webhookId: "$webhook", since: "2020-01-01T00:00:00Z"}) { count replay { id } userErrors { code message field } } b: replayDeliveries(input: {webhookId: "$webhook", since: "2020-01-01T00:00:00Z"}, dryRun: true) { count userErrors { code message field } } }`,
	"Mutation.replayDeliveries(input.idempotencyKey)":   `mutation { replayDeliveries(input: {webhookId: "%ownPaused", since: "2020-01-01T00:00:00Z", eventTypes: ["participant.profile_updated"], idempotencyKey: "$key"}) { count replay { total } userErrors { code message field conflictingId } } }`,
	"Mutation.cancelReplay(id)":                         `mutation { cancelReplay(id: "$replay") { replay { id } userErrors { code message field } } }`,
	"Mutation.createWebhook(input.externalId)":          `mutation { createWebhook(input: {name: "w", targetUrl: "https://example.com", eventTypes: ["no.such"], externalId: "$externalId"}) { userErrors { code message field conflictingId } } }`,
	"Mutation.createWebhook(input.tenant)":              `mutation { createWebhook(input: {name: "w", targetUrl: "https://example.com", eventTypes: ["*"], tenant: "$tenant"}) { userErrors { code message field } } }`,
	"Mutation.emitEvent(input.idempotencyKey)":          `mutation { emitEvent(input: {eventType: "message.sent", data: {other: 1}, idempotencyKey: "$key"}) { duplicate matched userErrors { code message field conflictingId } } }`,
	"Mutation.emitEvent(input.tenant)":                  `mutation { emitEvent(input: {eventType: "message.sent", data: {}, tenant: "$tenant"}) { matched userErrors { code message field } } }`,
	"Mutation.emitEvents(inputs.idempotencyKey)":        `mutation { emitEvents(inputs: [{eventType: "message.sent", data: {another: 1}, idempotencyKey: "$key2"}]) { results { duplicate matched userErrors { code message field } } userErrors { code } } }`,
	"Mutation.emitEvents(inputs.tenant)":                `mutation { emitEvents(inputs: [{eventType: "message.sent", data: {}, tenant: "$tenant"}]) { results { matched userErrors { code message field } } userErrors { code message } } }`,
	"Mutation.revokeApiKey(id)":                         `mutation { revokeApiKey(id: "$apiKey") { apiKey { id } userErrors { code message field } } }`,
}

// elsewhere are places that name something, and why they need no case here.
var elsewhere = map[string]string{
	"Query.eventTypes(after)": "all tenants share the catalogue", "Query.eventTypes(before)": "all tenants share the catalogue",
	"Query.apiKeys(after)": "ADMIN sees all tenants", "Query.apiKeys(before)": "ADMIN sees all tenants",
	"Mutation.createApiKey(input.tenant)": "ADMIN sees all tenants",
}

// namesSomething are the arguments and input fields that name something of a tenant's, beside ids.
var namesSomething = []string{"after", "before", "externalId", "idempotencyKey", "tenant"}

// places lists every place of the schema where a caller can name something.
func places(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../schema.graphqls")
	require.NoError(t, err)
	s, err := gqlparser.LoadSchema(&ast.Source{Name: "schema.graphqls", Input: string(text)})
	require.NoError(t, err)
	var found []string
	var look func(place, name string, typ *ast.Type)
	look = func(place, name string, typ *ast.Type) {
		if typ.Name() == "ID" || typ.Name() == "String" && slices.Contains(namesSomething, name) {
			found = append(found, place+")")
		}
		if def := s.Types[typ.Name()]; def.Kind == ast.InputObject {
			for _, f := range def.Fields {
				look(place+"."+f.Name, f.Name, f.Type)
			}
		}
	}
	for _, def := range s.Types {
		// Subscriptions never end: their tests are where their transports are.
		if def.Kind != ast.Object || def.BuiltIn || s.Subscription != nil && def.Name == s.Subscription.Name {
			continue
		}
		for _, field := range def.Fields {
			for _, arg := range field.Arguments {
				if !strings.HasPrefix(field.Name, "__") {
					look(def.Name+"."+field.Name+"("+arg.Name, arg.Name, arg.Type)
				}
			}
		}
	}
	slices.Sort(found)
	return found
}

// thing is what an operation may name: by placeholder.
type thing map[string]string

func (th thing) in(query string) string {
	// Longest first: $key2 before $key.
	names := make([]string, 0, len(th))
	for name := range th {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) })
	for _, name := range names {
		query = strings.ReplaceAll(query, name, th[name])
	}
	return query
}

// A2, I11: wherever another tenant names something of acme's, it gets what it gets for something that
// does not exist: the same status, the same text, but for the name that it gave itself.
func TestA2_AnotherTenantsThingsAreAsIfTheyDidNotExist(t *testing.T) {
	t.Parallel()
	for _, place := range places(t) {
		_, here := naming[place]
		_, there := elsewhere[place]
		assert.NotEqualf(t, here, there, "%s names something of a tenant's and has no case", place)
	}
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, map[string]string{"RETRY_SCHEDULE": "1h"})
		other := tenantClient(t, server.Client, "other", "MANAGE", "EMIT")
		acme := tenantClient(t, server.Client, "acme", "MANAGE", "EMIT")
		own := ownThings(t, other)
		states := acmeThings(t, server.Client, acme)
		before := snapshot(t, acme)
		compare := func(place, state string, real thing) {
			missing := missingLike(real)
			query := own.in(naming[place])
			theirs, err := other.Post(t.Context(), real.in(query), nil)
			require.NoError(t, err)
			nobodys, err := other.Post(t.Context(), missing.in(query), nil)
			require.NoError(t, err)
			assert.Equalf(t, nobodys.Status, theirs.Status, "%s, %s", place, state)
			assert.Equalf(t, unnamed(nobodys.Body, missing), unnamed(theirs.Body, real), "%s, %s: %s", place, state, query)
			assert.NotContainsf(t, string(theirs.Body), "INTERNAL", "%s, %s", place, state)
			for _, code := range theirs.Codes() {
				assert.NotContainsf(t, []string{"GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED", "UNAUTHENTICATED"}, code, "%s: %s", place, theirs.Body)
			}
		}
		// What reads comes first: what changes gives the asking tenant more of its own.
		for _, changes := range []bool{false, true} {
			for state, real := range states {
				for place, query := range naming {
					if strings.HasPrefix(query, "mutation") == changes {
						compare(place, state, real)
					}
				}
			}
		}
		assert.Equal(t, before, snapshot(t, acme), "nothing of acme's was touched")
	})
}

// I11: nor does the time that an answer takes tell whether there is such an object.
func TestI11_TheTimeOfAnAnswerDoesNotTellEither(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, map[string]string{"RETRY_SCHEDULE": "1h"})
		other := tenantClient(t, server.Client, "other", "MANAGE", "EMIT")
		acme := tenantClient(t, server.Client, "acme", "MANAGE", "EMIT")
		real := acmeThings(t, server.Client, acme)["a retrying delivery"]
		missing := missingLike(real)
		for _, place := range []string{"Query.webhook(id)", "Query.event(id)", "Query.delivery(id)", "Mutation.pauseWebhook(id)", "Mutation.cancelDelivery(deliveryId)"} {
			const rounds = 40
			var there, nowhere []time.Duration
			for range rounds {
				for _, th := range []thing{real, missing} {
					began := time.Now()
					_, err := other.Post(t.Context(), th.in(naming[place]), nil)
					require.NoError(t, err)
					took := time.Since(began)
					if th["$webhook"] == real["$webhook"] {
						there = append(there, took)
					} else {
						nowhere = append(nowhere, took)
					}
				}
			}
			slices.Sort(there)
			slices.Sort(nowhere)
			ratio := float64(there[rounds/2]) / float64(nowhere[rounds/2])
			t.Logf("%s: %.2f", place, ratio)
			// Noise of a loaded machine is far below what a wait or a scan would add.
			require.InDeltaf(t, 1, ratio, 2, "%s: %s against %s", place, there[rounds/2], nowhere[rounds/2])
			require.Greaterf(t, ratio, 1.0/3, "%s: %s against %s", place, there[rounds/2], nowhere[rounds/2])
		}
	})
}

// tenantClient is the API under a new key of a tenant.
func tenantClient(t testing.TB, api *apptest.Client, tenant string, scopes ...string) *apptest.Client {
	t.Helper()
	var out struct {
		CreateAPIKey struct{ Key string } `json:"createApiKey"`
	}
	api.Query(t, `mutation($input: CreateApiKeyInput!) { createApiKey(input: $input) { key } }`,
		map[string]any{"input": map[string]any{"name": tenant, "tenant": tenant, "scopes": scopes}}, &out)
	return api.As(out.CreateAPIKey.Key)
}

// ownThings gives the asking tenant some things of its own, older than acme's.
func ownThings(t testing.TB, api *apptest.Client) thing {
	t.Helper()
	w := subscribe(t, api, receivertest.New(t), nil)
	paused := subscribe(t, api, receivertest.New(t), map[string]any{"eventTypes": []string{"participant.created"}})
	change(t, api, "pauseWebhook", paused.ID)
	e := emit(t, api, map[string]any{"eventType": "message.sent", "data": map[string]any{}, "idempotencyKey": "own-key"})
	until(t, api, e.Event.ID, "SUCCEEDED")
	return thing{"%ownWebhook": w.ID, "%ownPaused": paused.ID, "%ownEvent": e.Event.ID, "%ownKey": "own-key"}
}

// acmeThings are acme's: a set of things for each state that they can be in.
func acmeThings(t testing.TB, admin, api *apptest.Client) map[string]thing {
	t.Helper()
	var key struct {
		CreateAPIKey struct {
			APIKey struct{ ID string } `json:"apiKey"`
		} `json:"createApiKey"`
	}
	admin.Query(t, `mutation { createApiKey(input: {name: "k", tenant: "acme", scopes: [READ]}) { apiKey { id } } }`, nil, &key)
	states := map[string]thing{}
	for state, answer := range map[string]receivertest.Answer{
		"a retrying delivery": receivertest.Status(http.StatusInternalServerError), "a finished delivery": receivertest.Status(http.StatusOK),
		"a paused webhook": receivertest.Status(http.StatusOK), "a deleted webhook": receivertest.Status(http.StatusInternalServerError),
	} {
		external := "acme-" + strings.ReplaceAll(state, " ", "-")
		w := subscribe(t, api, receivertest.New(t, receivertest.Default(answer)), map[string]any{"externalId": external})
		e := emit(t, api, map[string]any{"eventType": "message.sent", "data": map[string]any{"of": state}, "idempotencyKey": "key-" + external})
		emit(t, api, map[string]any{"eventType": "participant.tags_added", "data": map[string]any{}, "idempotencyKey": "key-2-" + external})
		var list struct {
			Deliveries struct {
				Nodes    []struct{ ID, Status string }
				PageInfo struct{ EndCursor string }
			}
		}
		apptest.Eventually(t, func() (bool, string) {
			api.Query(t, `query($w: ID!, $e: ID!) { deliveries(filter: {webhookId: $w, eventId: $e}) { nodes { id status attempts { id } } pageInfo { endCursor } } }`,
				map[string]any{"w": w.ID, "e": e.Event.ID}, &list)
			return len(list.Deliveries.Nodes) == 1 && list.Deliveries.Nodes[0].Status != "PENDING", fmt.Sprint(list)
		})
		var replay struct {
			ReplayDeliveries struct{ Replay *struct{ ID string } }
		}
		api.Query(t, `mutation($w: ID!, $k: String!) { replayDeliveries(input: {webhookId: $w, since: "2020-01-01T00:00:00Z", eventTypes: ["participant.profile_updated"], idempotencyKey: $k}) { replay { id } } }`,
			map[string]any{"w": w.ID, "k": "key-" + external}, &replay)
		require.NotNil(t, replay.ReplayDeliveries.Replay)
		var cursors struct {
			Webhooks, Events, Replays struct{ PageInfo struct{ EndCursor string } }
			Webhook                   struct {
				Deliveries struct{ PageInfo struct{ EndCursor string } }
			}
			Event struct {
				Deliveries, Explain struct{ PageInfo struct{ EndCursor string } }
			}
		}
		api.Query(t, `query($w: ID!, $e: ID!) { webhooks(first: 1) { pageInfo { endCursor } } events(first: 1) { pageInfo { endCursor } } replays(first: 1) { pageInfo { endCursor } }
			webhook(id: $w) { deliveries(first: 1) { pageInfo { endCursor } } }
			event(id: $e) { deliveries(first: 1) { pageInfo { endCursor } } explain(first: 1) { pageInfo { endCursor } } } }`,
			map[string]any{"w": w.ID, "e": e.Event.ID}, &cursors)
		delivery := list.Deliveries.Nodes[0].ID
		states[state] = thing{
			"$webhook": w.ID, "$event": e.Event.ID, "$delivery": delivery, "$attempt": models.AttemptID(delivery, 1), "$replay": replay.ReplayDeliveries.Replay.ID,
			"$externalId": external, "$key": "key-" + external, "$key2": "key-2-" + external, "$tenant": "acme", "$apiKey": key.CreateAPIKey.APIKey.ID,
			"$cursorDeliveries": list.Deliveries.PageInfo.EndCursor, "$cursorWebhooks": cursors.Webhooks.PageInfo.EndCursor,
			"$cursorEvents": cursors.Events.PageInfo.EndCursor, "$cursorReplays": cursors.Replays.PageInfo.EndCursor,
			"$cursorOfWebhook": cursors.Webhook.Deliveries.PageInfo.EndCursor, "$cursorOfEvent": cursors.Event.Deliveries.PageInfo.EndCursor,
			"$cursorExplain": cursors.Event.Explain.PageInfo.EndCursor,
		}
		switch state {
		case "a paused webhook":
			change(t, api, "pauseWebhook", w.ID)
		case "a deleted webhook":
			api.Query(t, `mutation($id: ID!) { deleteWebhook(id: $id) { deletedId } }`, map[string]any{"id": w.ID}, nil)
		default:
			// Its receiver gets no more of what the other states' sets need.
			api.Query(t, `mutation($id: ID!) { updateWebhook(id: $id, input: {eventTypes: ["participant.created"]}) { userErrors { message } } }`, map[string]any{"id": w.ID}, nil)
		}
	}
	return states
}

// missingLike names things that do not exist, each of the same kind as the real one.
func missingLike(real thing) thing {
	delivery := models.NewID(models.PrefixDelivery)
	missing := thing{
		"$webhook": models.NewID(models.PrefixWebhook), "$event": models.NewID(models.PrefixEvent), "$delivery": delivery,
		"$attempt": models.AttemptID(delivery, 1), "$replay": models.NewID(models.PrefixReplay), "$apiKey": models.NewID(models.PrefixAPIKey),
		"$externalId": "none-" + delivery, "$key": "none-" + delivery, "$key2": "none-2-" + delivery, "$tenant": "none-" + delivery,
	}
	// A cursor is a place, not an object: the one of something that never was is spelt like a real one.
	for name, cursor := range real {
		if !strings.HasPrefix(name, "$cursor") {
			continue
		}
		plain, err := base64.RawURLEncoding.DecodeString(cursor)
		if err != nil {
			continue
		}
		parts := strings.Split(string(plain), "\x1f")
		for i, part := range parts {
			if prefix, _, ok := strings.Cut(part, "_"); ok {
				parts[i] = models.NewID(prefix + "_")
			}
		}
		missing[name] = base64.RawURLEncoding.EncodeToString([]byte(strings.Join(parts, "\x1f")))
	}
	return missing
}

// unnamed is an answer without what the question named.
func unnamed(body []byte, named thing) string {
	text := string(body)
	for name, value := range named {
		text = strings.ReplaceAll(text, value, name)
	}
	return text
}

// snapshot is all that a tenant has, as the API shows it.
func snapshot(t testing.TB, api *apptest.Client) string {
	t.Helper()
	var all json.RawMessage
	api.Query(t, `{ webhooks(first: 100) { nodes { id name externalId status statusReason version secretKeyHint previousSecretKeyExpiresAt updatedAt } }
		events(first: 100) { nodes { id data erasedAt } } deliveries(first: 100) { nodes { id status statusReason attemptCount trigger attempts { id } } }
		replays(first: 100) { nodes { id status total } } }`, nil, &all)
	return string(all)
}
