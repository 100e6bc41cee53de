package graph_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
)

// Whatever another tenant's key asks for, it gets what it would get if nothing of acme existed: the
// same text, but for the id that it named itself.
func TestA2_AnotherTenantsObjectsDoNotExist(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		t.Helper()
		webhook := f.create(t, f.manage, "acme's")
		require.Empty(t, f.do(t, f.manage, `mutation { updateWebhook(id: "`+webhook+`", input: {externalId: "shared"}) { userErrors { code } } }`, nil).Errors)
		event := f.emitted(t, f.emit, "message.sent", `{}`)
		v := get[tree](t, f, f.read, `{ deliveries { nodes { id } pageInfo { endCursor } } webhooks { pageInfo { endCursor } } }`, nil)
		delivery := v.at("deliveries", "nodes").([]any)[0].(map[string]any)["id"].(string)
		f.attempt(t, delivery, models.OutcomeHTTPError)

		missing := map[string]string{
			webhook: models.NewID(models.PrefixWebhook), event: models.NewID(models.PrefixEvent), delivery: models.NewID(models.PrefixDelivery),
			models.AttemptID(delivery, 1): models.AttemptID(models.NewID(models.PrefixDelivery), 1), "shared": "none",
		}
		for _, q := range []string{
			`{ webhook(id: "` + webhook + `") { id } }`,
			`{ webhook(externalId: "shared") { id } }`,
			`{ event(id: "` + event + `") { id data } }`,
			`{ delivery(id: "` + delivery + `") { id } }`,
			`{ node(id: "` + webhook + `") { id } }`,
			`{ node(id: "` + models.AttemptID(delivery, 1) + `") { id } }`,
			`{ nodes(ids: ["` + webhook + `", "` + event + `", "` + delivery + `", "` + models.AttemptID(delivery, 1) + `"]) { id } }`,
			`{ deliveries(filter: {webhookId: "` + webhook + `"}) { nodes { id } pageInfo { hasNextPage } } }`,
			`{ deliveries(filter: {eventId: "` + event + `"}) { nodes { id } } }`,
			`{ deliveryStats(webhookId: "` + webhook + `") { total attempts open } }`,
			`mutation { updateWebhook(id: "` + webhook + `", input: {name: "x"}) { webhook { id } userErrors { code message field } } }`,
			`mutation { updateWebhook(id: "` + webhook + `", input: {name: ""}, expectedVersion: 7) { webhook { id } userErrors { code message field } } }`,
			`mutation { deleteWebhook(id: "` + webhook + `") { deletedId userErrors { code message field } } }`,
			`mutation { pauseWebhook(id: "` + webhook + `") { webhook { id } userErrors { code message field } } }`,
			`mutation { resumeWebhook(id: "` + webhook + `") { webhook { id } userErrors { code message field } } }`,
			`mutation { disableWebhook(id: "` + webhook + `") { webhook { id } userErrors { code message field } } }`,
			`mutation { rotateWebhookSecretKey(id: "` + webhook + `") { secretKey userErrors { code message field } } }`,
			`mutation { testWebhook(id: "` + webhook + `") { delivery { id } userErrors { code message field } } }`,
			`mutation { cancelEvent(id: "` + event + `") { cancelled event { id } userErrors { code message field } } }`,
			`mutation { cancelDelivery(deliveryId: "` + delivery + `") { delivery { id } userErrors { code message field } } }`,
			`mutation { redeliver(deliveryId: "` + delivery + `") { delivery { id } userErrors { code message field } } }`,
		} {
			other := q
			for real, none := range missing {
				other = strings.ReplaceAll(other, real, none)
			}
			theirs, nobodys := f.do(t, f.otherManage, q, nil), f.do(t, f.otherManage, other, nil)
			assert.Equalf(t, nobodys.body, theirs.body, "%s", q)
			assert.Equalf(t, nobodys.status, theirs.status, "%s", q)
		}
		v2 := get[tree](t, f, f.otherRead, `{ webhooks { totalCount nodes { id } } events { nodes { id } } deliveries { nodes { id } } deliveryStats { total open attempts } }`, nil)
		assert.Equal(t, tree{
			"webhooks": map[string]any{"totalCount": 0.0, "nodes": []any{}}, "events": map[string]any{"nodes": []any{}}, "deliveries": map[string]any{"nodes": []any{}},
			"deliveryStats": map[string]any{"total": 0.0, "open": 0.0, "attempts": 0.0},
		}, v2)
		// A cursor of acme's, in the other's list, shows nothing of acme.
		for _, q := range []string{
			`{ deliveries(after: "` + v.text("deliveries", "pageInfo", "endCursor") + `") { nodes { id } pageInfo { hasNextPage hasPreviousPage } } }`,
			`{ webhooks(before: "` + v.text("webhooks", "pageInfo", "endCursor") + `") { nodes { id } pageInfo { hasNextPage hasPreviousPage } } }`,
		} {
			r := f.do(t, f.otherRead, q, nil)
			assert.Contains(t, string(r.Data), `{"nodes":[],"pageInfo":{"hasNextPage":false,"hasPreviousPage":false}}`)
		}
		// The same external id and idempotency key are free in another tenant.
		own := f.create(t, f.otherManage, "the other's")
		w := get[tree](t, f, f.otherManage, `mutation { updateWebhook(id: "`+own+`", input: {externalId: "shared"}) { webhook { externalId } userErrors { code } } }`, nil)
		assert.Equal(t, "shared", w.text("updateWebhook", "webhook", "externalId"))
		assert.Equal(t, "ACTIVE", get[tree](t, f, f.read, `{ webhook(id: "`+webhook+`") { status } }`, nil).text("webhook", "status"))
	})
}

func TestA2_NamingAnotherTenant(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, q := range []string{
		`{ webhooks(filter: {tenant: "other"}) { nodes { id } } }`,
		`{ events(filter: {tenant: "other"}) { nodes { id } } }`,
		`{ deliveries(filter: {tenant: "other"}) { nodes { id } } }`,
		`{ deliveryStats(tenant: "other") { total } }`,
		`mutation { createWebhook(input: {name: "a", targetUrl: "https://a.example", eventTypes: ["*"], tenant: "other"}) { userErrors { code } } }`,
		`mutation { emitEvent(input: {eventType: "message.sent", data: {}, tenant: "other"}) { userErrors { code } } }`,
	} {
		requireCode(t, f.do(t, f.all, q, nil), "FORBIDDEN")
		r := f.do(t, f.all, strings.ReplaceAll(q, `"other"`, `"acme"`), nil)
		assert.Emptyf(t, r.Errors, "naming one's own: %s", q)
		r = f.do(t, f.admin, q, nil)
		assert.Emptyf(t, r.Errors, "a platform key: %s", q)
	}
	f.create(t, f.manage, "w")
	r := f.do(t, f.read, `{ webhooks { nodes { deliveries(filter: {tenant: "other"}) { nodes { id } } } } }`, nil)
	for _, e := range r.Errors {
		assert.Equal(t, "FORBIDDEN", e.Extensions["code"])
	}
	require.NotEmpty(t, r.Errors)
}

func TestA2_PlatformKeys(t *testing.T) {
	t.Parallel()
	f := setup(t)
	acme, other, platform := f.create(t, f.manage, "acme's"), f.create(t, f.otherManage, "the other's"), f.create(t, f.manager, "the platform's")
	v := get[tree](t, f, f.platformRead, `query($ids: [ID!]!) { nodes(ids: $ids) { ... on Webhook { tenant } } webhooks { totalCount } one: webhooks(filter: {tenant: "other"}) { nodes { id } } viewer { tenant scopes } }`,
		variables{"ids": []string{acme, other, platform}})
	assert.Equal(t, []any{map[string]any{"tenant": "acme"}, map[string]any{"tenant": "other"}, map[string]any{"tenant": "default"}}, v.at("nodes"))
	assert.EqualValues(t, 3, v.at("webhooks", "totalCount"))
	assert.Equal(t, []any{map[string]any{"id": other}}, v.at("one", "nodes"))
	assert.Equal(t, map[string]any{"tenant": nil, "scopes": []any{"READ"}}, v.at("viewer"))
	require.Empty(t, f.do(t, f.manager, `mutation { updateWebhook(id: "`+platform+`", input: {externalId: "x"}) { userErrors { code } } }`, nil).Errors)
	v = get[tree](t, f, f.platformRead, `{ webhook(externalId: "x") { id } }`, nil)
	assert.Equal(t, platform, v.text("webhook", "id"))
}

func TestAPIKeys(t *testing.T) {
	t.Parallel()
	f := setup(t)
	v := get[tree](t, f, f.admin, `mutation { createApiKey(input: {name: "k", tenant: "acme", scopes: [ADMIN, READ]}) { key apiKey { id } userErrors { code field } } }`, nil)
	assert.Nil(t, v.at("createApiKey", "key"))
	assert.NotEmpty(t, problemsIn(v.at("createApiKey", "userErrors")), "ADMIN never comes with a tenant")
	v = get[tree](t, f, f.admin, `mutation { createApiKey(input: {name: "k", tenant: "acme", scopes: [EMIT], expiresAt: "2999-01-01T00:00:00Z"}) {
		key apiKey { id name tenant scopes prefix lastUsedAt expiresAt revokedAt createdAt } userErrors { code field } } }`, nil)
	key := v.text("createApiKey", "key")
	assert.True(t, strings.HasPrefix(key, "iwk_"))
	assert.True(t, strings.HasPrefix(key, v.text("createApiKey", "apiKey", "prefix")))
	assert.Equal(t, []any{"EMIT"}, v.at("createApiKey", "apiKey", "scopes"))
	r := f.do(t, f.admin, `{ apiKeys(first: 100) { totalCount nodes { id name tenant scopes prefix lastUsedAt expiresAt revokedAt createdAt } edges { cursor } } }`, nil)
	require.Empty(t, r.Errors)
	assert.NotContains(t, r.body, key)
	assert.NotContains(t, f.log.String(), key)
	assert.Contains(t, r.body, `"totalCount":11`)
}
