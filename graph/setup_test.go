package graph_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/graph"
	"github.com/intervengine/webhooks/intake"
	"github.com/intervengine/webhooks/live"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
	"github.com/intervengine/webhooks/queue"
	"github.com/intervengine/webhooks/signing"
)

const adminKey = "the administrator's key of this test"

// databasePatience bounds what the database is asked: enough for a machine that is busy with other tests.
const databasePatience = time.Minute

// fixture is the API on a real store, behind real authentication and real HTTP. No worker runs, and
// the queue forgets everything, so deliveries stay as they were made.
type fixture struct {
	url   string
	store *models.Store
	log   *logBook

	control *control.Control
	live    *live.Feed
	// handler is the API without authentication and HTTP.
	handler       *graph.Handler
	authenticator *auth.Authenticator

	admin                               string
	read, manage, emit, all             string // of the tenant acme
	otherRead, otherManage, otherEmit   string // of the tenant other
	platformRead, platformEmit, manager string // of the platform
}

// change adapts the options of a fixture.
type change func(*graph.Options)

// each runs test on the API over each database.
func each(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, setup(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, setupOn(t, modelstest.PostgresURL(t)))
	})
}

func setup(t testing.TB, changes ...change) *fixture {
	t.Helper()
	return setupOn(t, modelstest.SQLiteFile(t), changes...)
}

func setupOn(t testing.TB, dsn string, changes ...change) *fixture {
	t.Helper()
	f := &fixture{log: &logBook{}, admin: adminKey}
	logger := slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	// The tests share two cores, so nobody is in a hurry.
	f.store = modelstest.Open(t, models.Options{DSN: dsn, Logger: logger, StatementTimeout: databasePatience, WorkTimeout: databasePatience})
	require.NoError(t, f.store.EnsureBuiltinTypes(t.Context(), catalogue.Builtin()))
	keyring, err := signing.ParseKeyring(signing.GenerateMasterKey())
	require.NoError(t, err)

	in := intake.New(intake.Options{
		Store: f.store, Queue: forgetful{}, Logger: logger, MaxEventBytes: 256 << 10, MaxBatch: 100,
		IdempotencyWindow: 24 * time.Hour, CommitTimeout: databasePatience, Now: time.Now,
	})
	in.Start(nil)
	t.Cleanup(func() { require.NoError(t, in.Stop(context.Background())) })
	authenticator, err := auth.New(auth.Options{Store: f.store, Logger: logger, AdminKey: adminKey})
	require.NoError(t, err)
	ctl := control.New(control.Options{
		Store: f.store, Keyring: keyring, Guard: egress.NewGuard(nil), Catalogue: in.Catalogue, Queue: forgetful{},
		// Every name leads to a public address that nothing is ever sent to.
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("93.184.215.14")}, nil
		},
		Tester: in, Logger: logger,
		Defaults:    control.Defaults{Timeout: 15 * time.Second, Schedule: models.Schedule{5 * time.Second, 5 * time.Minute}},
		KeysChanged: authenticator.Invalidate,
	})
	feed := live.New(live.Options{Store: f.store, Logger: logger, Retention: time.Hour})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- feed.Run(ctx) }()
	t.Cleanup(func() { stop(); require.NoError(t, <-done) })
	options := graph.Options{Store: f.store, Intake: in, Control: ctl, Live: feed, Auth: authenticator, Logger: logger, DisableAfter: 5 * 24 * time.Hour, Timeout: databasePatience}
	for _, c := range changes {
		c(&options)
	}
	f.control, f.live, f.handler, f.authenticator = ctl, feed, graph.New(options), authenticator
	server := httptest.NewServer(authenticator.Middleware(f.handler))
	t.Cleanup(func() {
		require.NoError(t, f.handler.Stop(context.Background()))
		server.Close()
	})
	f.url = server.URL

	platform := &auth.Principal{ID: auth.AdminID, Scopes: []models.Scope{models.ScopeAdmin}}
	key := func(tenant string, scopes ...models.Scope) string {
		input := control.APIKeyInput{Name: "test", Scopes: scopes}
		if tenant != "" {
			input.Tenant = &tenant
		}
		_, key, err := ctl.CreateAPIKey(t.Context(), platform, input)
		require.NoError(t, err)
		return key
	}
	f.read, f.manage, f.emit = key("acme", models.ScopeRead), key("acme", models.ScopeManage), key("acme", models.ScopeEmit)
	f.all = key("acme", models.ScopeManage, models.ScopeEmit)
	f.otherRead, f.otherManage, f.otherEmit = key("other", models.ScopeRead), key("other", models.ScopeManage), key("other", models.ScopeEmit)
	f.platformRead, f.platformEmit = key("", models.ScopeRead), key("", models.ScopeEmit)
	f.manager = key("", models.ScopeManage)
	return f
}

// forgetful is a queue that keeps nothing.
type forgetful struct{}

func (forgetful) Enqueue(context.Context, []queue.Item) error { return nil }

func (forgetful) EnqueueAsync([]queue.Item) {}

// logBook keeps everything that was logged.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// response is what came back for a request.
type response struct {
	status int
	header http.Header
	body   string
	Data   json.RawMessage
	Errors []responseError
}

type responseError struct {
	Message    string
	Path       []any
	Locations  []map[string]int
	Extensions map[string]any
}

// post sends a body as it is.
func (f *fixture) post(t testing.TB, key string, body []byte, headers map[string]string) response {
	t.Helper()
	return f.request(t, http.MethodPost, key, body, headers)
}

func (f *fixture) request(t testing.TB, method, key string, body []byte, headers map[string]string) response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, f.url, bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	r := response{status: res.StatusCode, header: res.Header, body: string(text)}
	require.NoErrorf(t, json.Unmarshal(text, &r), "the answer is not JSON: %s", text)
	return r
}

// variables are those of a request; a json.RawMessage goes out as it is.
type variables map[string]any

// do sends a document with its variables.
func (f *fixture) do(t testing.TB, key, query string, vars variables) response {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	require.NoError(t, enc.Encode(map[string]any{"query": query, "variables": vars}))
	return f.post(t, key, b.Bytes(), nil)
}

// get answers a request that must succeed, decoded into a value of type T.
func get[T any](t testing.TB, f *fixture, key, query string, vars variables) T {
	t.Helper()
	r := f.do(t, key, query, vars)
	require.Emptyf(t, r.Errors, "%s\n%s", query, r.body)
	var v T
	require.NoError(t, json.Unmarshal(r.Data, &v))
	return v
}

// tree is decoded JSON that a test looks into by path.
type tree map[string]any

func (v tree) at(path ...string) any {
	var x any = map[string]any(v)
	for _, step := range path {
		m, ok := x.(map[string]any)
		if !ok {
			return nil
		}
		x = m[step]
	}
	return x
}

func (v tree) text(path ...string) string { s, _ := v.at(path...).(string); return s }

// requireCode fails unless r has exactly one error, with this code, and returns it.
func requireCode(t testing.TB, r response, code string) responseError {
	t.Helper()
	require.Lenf(t, r.Errors, 1, "%s", r.body)
	require.Equalf(t, code, r.Errors[0].Extensions["code"], "%s", r.body)
	return r.Errors[0]
}

// problem is an entry of userErrors as tests compare it.
type problem struct {
	Code  string
	Field string
}

func problemsIn(v any) []problem {
	list, _ := v.([]any)
	found := make([]problem, 0, len(list))
	for _, e := range list {
		m, _ := e.(map[string]any)
		var path []string
		for _, p := range m["field"].([]any) {
			path = append(path, p.(string))
		}
		found = append(found, problem{m["code"].(string), strings.Join(path, ".")})
	}
	return found
}

// create makes a webhook of the key's tenant and returns its id.
func (f *fixture) create(t testing.TB, key, name string, eventTypes ...string) string {
	t.Helper()
	if len(eventTypes) == 0 {
		eventTypes = []string{"*"}
	}
	v := get[tree](t, f, key, `mutation($input: CreateWebhookInput!) {
		createWebhook(input: $input) { webhook { id } userErrors { code message field } }
	}`, variables{"input": map[string]any{"name": name, "targetUrl": "https://receiver.example/hook", "eventTypes": eventTypes}})
	require.Empty(t, v.at("createWebhook", "userErrors"))
	return v.text("createWebhook", "webhook", "id")
}

// emitted emits an event and returns its id.
func (f *fixture) emitted(t testing.TB, key, eventType, data string) string {
	t.Helper()
	v := get[tree](t, f, key, `mutation($input: EmitEventInput!) {
		emitEvent(input: $input) { event { id } userErrors { code message field } }
	}`, variables{"input": map[string]any{"eventType": eventType, "data": json.RawMessage(data)}})
	require.Empty(t, v.at("emitEvent", "userErrors"))
	return v.text("emitEvent", "event", "id")
}
