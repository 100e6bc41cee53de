package graph_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/graph"
	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/models/modelstest"
)

func TestE5_DatabaseAway(t *testing.T) {
	t.Parallel()
	proxy := testenv.NewProxy(t, testenv.PostgresURL(t))
	f := setupOn(t, proxy.URL(modelstest.PostgresURL(t)))
	id := f.create(t, f.all, "w")
	// Keys that were used are known without the database.
	for _, key := range []string{f.read, f.emit} {
		require.Empty(t, f.do(t, key, `{ viewer { tenant } }`, nil).Errors)
	}
	proxy.Down()
	for query, key := range map[string]string{
		`{ webhook(id: "` + id + `") { id } }`:                                                             f.read,
		`{ webhooks { nodes { id } totalCount } }`:                                                         f.read,
		`{ nodes(ids: ["` + id + `"]) { id } }`:                                                            f.read,
		`mutation { pauseWebhook(id: "` + id + `") { userErrors { code } } }`:                              f.all,
		`mutation { emitEvent(input: {eventType: "message.sent", data: {}}) { event { id } } }`:            f.emit,
		`mutation { emitEvents(inputs: [{eventType: "message.sent", data: {}}]) { results { matched } } }`: f.emit,
	} {
		start := time.Now()
		r := f.do(t, key, query, nil)
		assert.Equal(t, http.StatusOK, r.status)
		for _, e := range r.Errors {
			assert.Equalf(t, "UNAVAILABLE", e.Extensions["code"], "%s", query)
			assert.NotContains(t, e.Message, "127.0.0.1")
		}
		assert.NotEmpty(t, r.Errors)
		assert.Less(t, time.Since(start), 5*time.Second)
	}
	r := f.do(t, f.otherRead, `{ viewer { tenant } }`, nil) // a key that is not known yet
	requireCode(t, r, "UNAVAILABLE")
	assert.Equal(t, http.StatusServiceUnavailable, r.status)
	require.NoError(t, proxy.Up())
	require.Eventually(t, func() bool { return len(f.do(t, f.read, `{ webhooks { totalCount } }`, nil).Errors) == 0 }, 10*time.Second, 20*time.Millisecond)
}

// A fault that nobody foresaw is INTERNAL, with a reference that leads to it in the log, and neither
// the answer nor the log has anything of the request in it.
func TestPanicsAreInternal(t *testing.T) {
	t.Parallel()
	f := setup(t, func(o *graph.Options) { o.Now = func() time.Time { panic(canary) } })
	r := f.do(t, f.read, `query($t: String) { `+"canaryAlias"+`: deliveryStats(eventType: $t) { total } viewer { tenant } }`, variables{"t": canary})
	e := requireCode(t, r, "INTERNAL")
	assert.Equal(t, http.StatusOK, r.status)
	assert.Equal(t, []any{"canaryAlias"}, e.Path)
	reference, _ := e.Extensions["reference"].(string)
	require.NotEmpty(t, reference)
	assert.JSONEq(t, `{"canaryAlias":null,"viewer":{"tenant":"acme"}}`, string(r.Data), "the fault of one field is not the other's")
	log := f.log.String()
	assert.Contains(t, log, reference)
	assert.Contains(t, log, `"field":"Query.deliveryStats"`)
	assert.NotContains(t, log, canary)
	assert.NotContains(t, log, "canaryAlias")
	assert.NotContains(t, r.body, canary)
}
