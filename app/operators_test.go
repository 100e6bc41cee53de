package app_test

import (
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app"
	"github.com/intervengine/webhooks/app/apptest"
)

// page is an answer as a browser gets it.
type page struct {
	status int
	header http.Header
	body   string
}

// browse sends a request as it is; a POST's body is a form.
func browse(t testing.TB, method, address, body string, header map[string]string) page {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	require.NoError(t, err)
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return page{response.StatusCode, response.Header, string(text)}
}

// signIn gives the cookie that a key is exchanged for.
func signIn(t testing.TB, address, key string, header map[string]string) *http.Cookie {
	t.Helper()
	p := browse(t, http.MethodPost, address+"/login", url.Values{"key": {key}, "next": {"/asynq/"}}.Encode(), header)
	require.Equal(t, http.StatusSeeOther, p.status, p.body)
	require.Equal(t, "/asynq/", p.header.Get("Location"))
	cookies := (&http.Response{Header: p.header}).Cookies()
	require.Len(t, cookies, 1)
	return cookies[0]
}

func TestA5_EveryAnswerIsBoundByAPolicy(t *testing.T) {
	t.Parallel()
	server := apptest.Start(t, apptest.Embedded, nil)
	admin := map[string]string{"Authorization": "Bearer " + server.Key}
	for path, kind := range map[string]string{
		"/": "page", "/login": "page", "/asynq/": "queue", "/asynq/queues/deliveries": "queue",
		"/asynq/api/queues": "data", "/asynq/static/none.js": "data", "/metrics": "data", "/healthz": "data", "/readyz": "data", "/graphql": "data",
		"/console/console.css": "data", "/.well-known/webhook-keys/wh_x": "data", "/none": "data",
	} {
		for _, forwarded := range []string{"", "https"} {
			header := map[string]string{"Authorization": admin["Authorization"], "X-Forwarded-Proto": forwarded}
			p := browse(t, http.MethodGet, server.URL+path, "", header)
			assert.Equal(t, "nosniff", p.header.Get("X-Content-Type-Options"), path)
			assert.Equal(t, "DENY", p.header.Get("X-Frame-Options"), path)
			assert.Equal(t, "no-referrer", p.header.Get("Referrer-Policy"), path)
			assert.Equal(t, forwarded == "https", p.header.Get("Strict-Transport-Security") != "", "%s: HSTS behind TLS alone", path)
			policy := p.header.Get("Content-Security-Policy")
			assert.Contains(t, policy, "frame-ancestors 'none'", path)
			assert.NotContains(t, policy, "unsafe", path)
			assert.NotContains(t, policy, "http", path)
			switch kind {
			case "data":
				assert.Equal(t, "default-src 'none'; frame-ancestors 'none'", policy, path)
			case "page":
				assert.Contains(t, policy, "script-src 'self';", path)
				assert.NotRegexp(t, `<script>|<style|\sstyle=|\son[a-z]+=`, p.body, "%s: nothing inline", path)
			case "queue":
				nonce := regexp.MustCompile(`script-src 'self' 'nonce-([A-Z0-9]{20,})'`).FindStringSubmatch(policy)
				require.NotNil(t, nonce, policy)
				assert.Contains(t, policy, "style-src 'self' 'nonce-"+nonce[1]+"'", path)
				assert.Contains(t, p.body, `<meta property="csp-nonce" content="`+nonce[1]+`"/>`, path)
				assert.Contains(t, p.body, `<script nonce="`+nonce[1]+`">`, path)
				assert.NotContains(t, p.body, "<script>", path)
				again := browse(t, http.MethodGet, server.URL+path, "", header)
				assert.NotContains(t, again.header.Get("Content-Security-Policy"), nonce[1], "a nonce is used once")
			}
		}
	}
	p := browse(t, http.MethodGet, server.URL+"/asynq/", "", map[string]string{"Accept": "text/html"})
	assert.Equal(t, http.StatusUnauthorized, p.status)
	assert.Contains(t, p.header.Get("Content-Security-Policy"), "script-src 'self';", "the login page in its place")
}

func TestA5_TheSessionCookie(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		for proto, secure := range map[string]bool{"": false, "http": false, "https": true} {
			cookie := signIn(t, server.URL, server.Key, map[string]string{"X-Forwarded-Proto": proto})
			assert.True(t, cookie.HttpOnly)
			assert.Equal(t, http.SameSiteStrictMode, cookie.SameSite)
			assert.Equal(t, secure, cookie.Secure)
			assert.Equal(t, "/", cookie.Path)
			assert.Empty(t, cookie.Domain)
			assert.NotContains(t, cookie.Value, server.Key)
		}
		cookie := signIn(t, server.URL, server.Key, nil)
		with := func(value string) map[string]string { return map[string]string{"Cookie": cookie.Name + "=" + value} }
		assert.Equal(t, http.StatusOK, browse(t, http.MethodGet, server.URL+"/asynq/", "", with(cookie.Value)).status)
		for name, value := range map[string]string{
			"changed": cookie.Value[:len(cookie.Value)-2] + "AA", "cut off": cookie.Value[:40], "empty": "", "the key": server.Key, "nonsense": "v1.00000000.AAAA",
		} {
			assert.Equal(t, http.StatusUnauthorized, browse(t, http.MethodGet, server.URL+"/asynq/", "", with(value)).status, name)
		}

		// It is worth what its key is worth, for as long.
		p := browse(t, http.MethodPost, server.URL+"/login", url.Values{"key": {tenantKey(t, server.Client, "acme", "READ").Key}, "next": {"/metrics"}}.Encode(), nil)
		assert.Equal(t, http.StatusForbidden, p.status, "operators' pages are for ADMIN")
		reader := tenantKey(t, server.Client, "acme", "READ")
		p = browse(t, http.MethodPost, server.URL+"/login", url.Values{"key": {reader.Key}}.Encode(), nil)
		require.Equal(t, http.StatusSeeOther, p.status)
		session := with((&http.Response{Header: p.header}).Cookies()[0].Value)
		assert.Equal(t, http.StatusForbidden, browse(t, http.MethodGet, server.URL+"/asynq/", "", session).status)
		var keys struct {
			APIKeys struct{ Nodes []struct{ ID, Prefix string } } `json:"apiKeys"`
		}
		server.Query(t, `{ apiKeys { nodes { id prefix } } }`, nil, &keys)
		for _, k := range keys.APIKeys.Nodes {
			if strings.HasPrefix(reader.Key, k.Prefix) {
				server.Query(t, `mutation($id: ID!) { revokeApiKey(id: $id) { userErrors { message } } }`, map[string]any{"id": k.ID}, nil)
			}
		}
		session["Content-Type"] = "application/json"
		p = browse(t, http.MethodPost, server.URL+"/graphql", `{"query":"{ viewer { tenant } }"}`, session)
		assert.Equal(t, http.StatusUnauthorized, p.status, "a revoked key ends its sessions")
		p = browse(t, http.MethodPost, server.URL+"/logout", "", with(cookie.Value))
		assert.Equal(t, http.StatusSeeOther, p.status)
		assert.Contains(t, p.header.Get("Set-Cookie"), "Max-Age=0")
	})
}

// A page of another site, in the browser of an operator who is signed in, can change nothing, and
// cannot open a stream that it would read.
func TestA5_OtherSitesCannotRideOnASession(t *testing.T) {
	t.Parallel()
	server := apptest.Start(t, apptest.Embedded, map[string]string{"ASYNQ_UI_WRITE": "true"})
	cookie := signIn(t, server.URL, server.Key, nil)
	browsers := map[string]map[string]string{
		"a session":         {"Cookie": cookie.Name + "=" + cookie.Value},
		"Basic credentials": {"Authorization": "Basic " + basic("operator", server.Key)},
	}
	elsewhere := []map[string]string{
		{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"}, {"Origin": "null"},
	}
	here := []map[string]string{{}, {"Sec-Fetch-Site": "same-origin", "Origin": server.URL}, {"Origin": server.URL}, {"Sec-Fetch-Site": "none"}}
	send := func(method, path, body string, headers ...map[string]string) page {
		all := map[string]string{}
		for _, h := range headers {
			maps.Copy(all, h)
		}
		return browse(t, method, server.URL+path, body, all)
	}
	for name, browser := range browsers {
		for _, from := range elsewhere {
			p := send(http.MethodPost, "/asynq/api/queues/deliveries:pause", "", browser, from)
			assert.Equal(t, http.StatusForbidden, p.status, "%s from %v", name, from)
		}
		for _, from := range here {
			p := send(http.MethodPost, "/asynq/api/queues/deliveries:pause", "", browser, from)
			assert.NotEqual(t, http.StatusForbidden, p.status, "%s from %v", name, from)
			p = send(http.MethodPost, "/asynq/api/queues/deliveries:resume", "", browser, from)
			assert.NotEqual(t, http.StatusForbidden, p.status, "%s from %v", name, from)
		}
	}
	session, asJSON := browsers["a session"], map[string]string{"Content-Type": "application/json"}
	stream := map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": "graphql-transport-ws"}
	const query = `{"query":"{ viewer { tenant } }"}`
	for _, from := range elsewhere {
		assert.Equal(t, http.StatusForbidden, send(http.MethodPost, "/graphql", query, session, asJSON, from).status, "%v", from)
		assert.Equal(t, http.StatusForbidden, send(http.MethodGet, "/graphql", "", session, stream, from).status, "%v", from)
		assert.Equal(t, http.StatusForbidden, send(http.MethodPost, "/login", "key="+server.Key, from).status, "%v: nor sign a browser in", from)
		assert.Equal(t, http.StatusForbidden, send(http.MethodPost, "/logout", "", session, from).status, "%v", from)
		key := map[string]string{"Authorization": "Bearer " + server.Key}
		assert.Equal(t, http.StatusOK, send(http.MethodPost, "/graphql", query, key, asJSON, from).status, "%v: a key in the header is no session", from)
	}
	for _, from := range here {
		assert.Equal(t, http.StatusOK, send(http.MethodPost, "/graphql", query, session, asJSON, from).status, "%v", from)
	}
	p := send(http.MethodPost, "/graphql", "query="+url.QueryEscape("{ viewer { tenant } }"), session)
	assert.Equal(t, http.StatusUnsupportedMediaType, p.status, "nor is a form a request")
}

func TestA5_ALoginLeadsToOurOwnPagesAlone(t *testing.T) {
	t.Parallel()
	server := apptest.Start(t, apptest.Embedded, nil)
	for next, want := range map[string]string{
		"/asynq/?x=1": "/asynq/?x=1", "": "/", "https://evil.example/": "/", "//evil.example/": "/", `/\evil.example`: "/", "javascript:alert(1)": "/",
		"\t//evil.example": "/", "evil": "/", "/%2f/evil.example": "/%2f/evil.example",
	} {
		p := browse(t, http.MethodPost, server.URL+"/login", url.Values{"key": {server.Key}, "next": {next}}.Encode(), nil)
		require.Equal(t, http.StatusSeeOther, p.status)
		assert.Equal(t, want, p.header.Get("Location"), next)
	}
	p := browse(t, http.MethodGet, server.URL+"/login?next="+url.QueryEscape(`/"><script>alert(1)</script>`), "", nil)
	assert.NotContains(t, p.body, "<script>alert")
}

// With a listener of their own, the operators' pages are nowhere else, and closed there as well.
func TestA5_AListenerOfTheirOwn(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, map[string]string{"ADMIN_LISTEN_ADDR": "127.0.0.1:0"})
		own := "http://" + server.App.AdminAddr().String()
		admin := map[string]string{"Authorization": "Bearer " + server.Key}
		reader := map[string]string{"Authorization": "Bearer " + tenantKey(t, server.Client, "acme", "READ", "MANAGE").Key}
		assert.Equal(t, http.StatusUnauthorized, browse(t, http.MethodGet, own+"/asynq", "", nil).status)
		assert.Equal(t, http.StatusMovedPermanently, browse(t, http.MethodGet, own+"/asynq", "", admin).status)
		for _, path := range []string{"/metrics", "/asynq/", "/asynq/api/queues"} {
			assert.Equal(t, http.StatusNotFound, browse(t, http.MethodGet, server.URL+path, "", admin).status, path)
			assert.Equal(t, http.StatusUnauthorized, browse(t, http.MethodGet, own+path, "", nil).status, path)
			assert.Equal(t, http.StatusForbidden, browse(t, http.MethodGet, own+path, "", reader).status, path)
			assert.Equal(t, http.StatusOK, browse(t, http.MethodGet, own+path, "", admin).status, path)
		}
		assert.Equal(t, http.StatusNotFound, browse(t, http.MethodPost, own+"/graphql", "", admin).status, "and nothing else is there")
		cookie := signIn(t, own, server.Key, nil)
		assert.Equal(t, http.StatusOK, browse(t, http.MethodGet, own+"/asynq/", "", map[string]string{"Cookie": cookie.Name + "=" + cookie.Value}).status)
	})
}

// A worker shows its figures to operators, and has no pages.
func TestA5_AWorkerShowsItsFiguresToOperators(t *testing.T) {
	t.Parallel()
	env := apptest.Environment(t, apptest.Production)
	server := apptest.StartWith(t, app.RoleWorker, env)
	assert.Equal(t, http.StatusUnauthorized, browse(t, http.MethodGet, server.URL+"/metrics", "", map[string]string{"Accept": "text/html"}).status)
	assert.Equal(t, http.StatusOK, browse(t, http.MethodGet, server.URL+"/metrics", "", map[string]string{"Authorization": "Bearer " + server.Key}).status)
	for _, path := range []string{"/asynq/", "/login", "/", "/graphql"} {
		assert.Equal(t, http.StatusNotFound, browse(t, http.MethodGet, server.URL+path, "", nil).status, path)
	}
}

func basic(user, password string) string {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
}
