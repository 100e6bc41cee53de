package e2e

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
)

// devLines waits until `dev` has said all that it says by itself, as log lines.
func devLines(t *testing.T, p *process) []map[string]any {
	t.Helper()
	var entries []map[string]any
	apptest.Eventually(t, func() (bool, string) {
		if p.ended() {
			t.Fatalf("dev ended; stderr:\n%s", p.stderr.tail())
		}
		entries = entries[:0]
		for _, line := range p.stdout.all() {
			var entry map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &entry), "a log line: %q", line)
			entries = append(entries, entry)
		}
		return slices.ContainsFunc(entries, func(e map[string]any) bool { return e["msg"] == "try next" }), p.stdout.tail()
	})
	return entries
}

func named(entries []map[string]any, msg string) []map[string]any {
	var out []map[string]any
	for _, e := range entries {
		if strings.HasPrefix(e["msg"].(string), msg) { //nolint:forcetypeassert // slog's own
			out = append(out, e)
		}
	}
	return out
}

func TestU1_DevShowsVerifiedDeliveries(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", freeAddr(t))
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	env := map[string]string{"LISTEN_ADDR": taken.Addr().String(), "DATA_DIR": dir}

	dev := start(t, env, "dev")
	entries := devLines(t, dev)
	require.Len(t, named(entries, "address taken"), 1, "says that it moved to another port (U2)")

	sent, delivered := named(entries, "-->"), named(entries, "<-- delivered, signature ok")
	var types []string
	for n, e := range sent {
		types = append(types, e["event_type"].(string)) //nolint:forcetypeassert // checked by the comparison
		require.Equal(t, e["event_id"], delivered[n]["event_id"])
		require.EqualValues(t, 1, e["matched"])
		require.Equal(t, "200", delivered[n]["status"])
		require.Positive(t, delivered[n]["ms"])
	}
	require.Equal(t, []string{"participant.created", "participant.profile_updated", "participant.tags_added", "message.sent"}, types)
	require.Len(t, delivered, 4)
	require.Equal(t, "127.0.0.1/32", named(entries, "egress exception")[0]["egress_allow"])
	require.NotContains(t, dev.stdout.String(), "\x1b[", "no colour where there is no terminal")

	key, _ := named(entries, "admin API key")[0]["key"].(string)
	require.Regexp(t, `^iwk_`, key)
	addresses := named(entries, "addresses")[0]
	graphql, _ := addresses["graphql"].(string)
	base := strings.TrimSuffix(graphql, "/graphql")
	api := apptest.NewClient(base, key)
	var out struct {
		Deliveries struct{ Nodes []struct{ Status string } }
	}
	apptest.Eventually(t, func() (bool, string) {
		api.Query(t, `{ deliveries { nodes { status } } }`, nil, &out)
		for _, d := range out.Deliveries.Nodes {
			if d.Status != "SUCCEEDED" {
				return false, d.Status
			}
		}
		return len(out.Deliveries.Nodes) == 4, "not all there"
	})

	login, _ := named(entries, "console login link")[0]["url"].(string)
	signsInOnce(t, base, login)
	status, page := get(t, base+"/inbox", nil)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, page, "participant.tags_added")
	require.Empty(t, named(entries, "panic"))
	dev.stop()

	// A second start finds its webhook again, and shows no key: only its hash is kept.
	again := start(t, env, "dev")
	entries = devLines(t, again)
	require.Len(t, named(entries, "<-- delivered, signature ok"), 4)
	require.Empty(t, named(entries, "admin API key"))
	again.stop()
}

// signsInOnce exchanges the link's token for a session, which opens the operators' pages, and
// checks that it works once only.
func signsInOnce(t *testing.T, base, link string) {
	t.Helper()
	u, err := url.Parse(link)
	require.NoError(t, err)
	token := strings.TrimPrefix(u.Fragment, "token=")
	exchange := func() *http.Response {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/login", strings.NewReader(`{"token":"`+token+`"}`))
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/json")
		response, err := (&http.Client{}).Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response
	}
	first := exchange()
	require.Equal(t, http.StatusOK, first.StatusCode)
	require.Len(t, first.Cookies(), 1)
	cookie := first.Cookies()[0]
	require.True(t, cookie.HttpOnly)
	require.Equal(t, http.SameSiteStrictMode, cookie.SameSite)
	require.Equal(t, http.StatusUnauthorized, exchange().StatusCode, "the link works once")
	status, page := get(t, base+"/asynq/", http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}})
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, page, "<div id=\"root\">")
	status, _ = get(t, base+"/asynq/", nil)
	require.Equal(t, http.StatusUnauthorized, status)
}
