// Package apptest gives tests a running App: on the embedded default, or on a real Postgres and a
// real Redis, with a client that speaks to it over HTTP as a caller would.
package apptest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app"
	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/models/modelstest"
	"github.com/intervengine/webhooks/signing"
)

// Stack is what an App runs on.
type Stack string

// The stacks that everything must work on.
const (
	Embedded   Stack = "embedded"
	Production Stack = "production"
)

// deadline bounds every wait of a test.
const deadline = 30 * time.Second

// Each runs test on both stacks, in parallel.
func Each(t *testing.T, test func(t *testing.T, stack Stack)) {
	t.Helper()
	for _, stack := range []Stack{Embedded, Production} {
		t.Run(string(stack), func(t *testing.T) {
			t.Parallel()
			test(t, stack)
		})
	}
}

// Environment is the configuration of a server on the given stack, as its variables: a free port,
// an own admin key, receivers on the loopback allowed. A database, and where the stack has one a
// Redis, of its own are made and removed with the test.
func Environment(t testing.TB, stack Stack) map[string]string {
	t.Helper()
	return environment(t, stack, testenv.PostgresURL)
}

func environment(t testing.TB, stack Stack, postgres func(testing.TB) string) map[string]string {
	t.Helper()
	key, _, _ := auth.NewKey()
	env := map[string]string{
		"LISTEN_ADDR":   "127.0.0.1:0",
		"DATA_DIR":      filepath.Join(t.TempDir(), "data"),
		"ADMIN_API_KEY": key,
		"SECRETS_KEY":   signing.GenerateMasterKey(),
		"EGRESS_ALLOW":  "127.0.0.0/8",
		"LOG_FORMAT":    "json",
	}
	if stack == Production {
		env["DATABASE_URL"] = postgres(t)
		env["REDIS_URL"] = testenv.RedisServer(t).URL()
	}
	return env
}

// Server is a running App.
type Server struct {
	*Client
	App *app.App
	Log *Log
}

// Start runs an App in this process with Environment and what override adds, and stops it at the
// end of the test. Its database is migrated already, which takes longer than most tests.
func Start(t testing.TB, stack Stack, override map[string]string) *Server {
	t.Helper()
	env := environment(t, stack, modelstest.PostgresURL)
	if stack == Embedded {
		env["DATA_DIR"] = filepath.Dir(modelstest.SQLiteFile(t))
	}
	maps.Copy(env, override)
	return StartWith(t, app.RoleAll, env)
}

// StartWith runs an App in this process with exactly these variables.
func StartWith(t testing.TB, role app.Role, env map[string]string) *Server {
	t.Helper()
	config, err := app.LoadConfig(func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	require.NoError(t, err)
	log := &Log{}
	a, err := app.New(t.Context(), app.Options{
		Config: config, Role: role, Version: "test",
		Logger: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		if err := a.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Logf("server's log:\n%s", log.String())
		}
	})
	return &Server{App: a, Log: log, Client: NewClient("http://"+a.Addr().String(), env["ADMIN_API_KEY"])}
}

// Log keeps what a server wrote.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write adds to the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is all that was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Client calls a server's API with a key.
type Client struct {
	URL  string
	Key  string
	HTTP *http.Client
}

// NewClient makes a client with connections of its own.
func NewClient(url, key string) *Client {
	return &Client{URL: url, Key: key, HTTP: &http.Client{
		Timeout: deadline, Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
	}}
}

// As is the same server called with another key.
func (c *Client) As(key string) *Client { return &Client{URL: c.URL, Key: key, HTTP: c.HTTP} }

// Answer is what the API said.
type Answer struct {
	Status int
	Body   []byte
	Data   json.RawMessage `json:"data"`
	Errors []struct {
		Message    string         `json:"message"`
		Path       []any          `json:"path"`
		Extensions map[string]any `json:"extensions"`
	} `json:"errors"`
}

// Codes are the codes of the answer's errors, in order.
func (a Answer) Codes() []string {
	var codes []string
	for _, e := range a.Errors {
		code, _ := e.Extensions["code"].(string)
		codes = append(codes, code)
	}
	return codes
}

// Post sends an operation and gives whatever came back; err is of the connection.
func (c *Client) Post(ctx context.Context, query string, variables map[string]any) (Answer, error) {
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		return Answer{}, err
	}
	return c.PostRaw(ctx, body)
}

// PostRaw sends body as it is.
func (c *Client) PostRaw(ctx context.Context, body []byte) (Answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/graphql", bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	if c.Key != "" {
		request.Header.Set("Authorization", "Bearer "+c.Key)
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	a := Answer{Status: response.StatusCode}
	if a.Body, err = io.ReadAll(response.Body); err != nil {
		return a, err
	}
	return a, json.Unmarshal(a.Body, &a)
}

// Query sends an operation that must have no errors and reads its data into out, unless nil.
func (c *Client) Query(t testing.TB, query string, variables map[string]any, out any) {
	t.Helper()
	a, err := c.Post(t.Context(), query, variables)
	require.NoError(t, err)
	require.Empty(t, a.Errors, "%s", a.Body)
	if out != nil {
		require.NoError(t, json.Unmarshal(a.Data, out), "%s", a.Data)
	}
}

// Eventually waits until ok says yes, and fails with the last state that it described.
func Eventually(t testing.TB, ok func() (done bool, state string)) {
	t.Helper()
	EventuallyWithin(t, deadline, ok)
}

// EventuallyWithin is Eventually with its own deadline.
func EventuallyWithin(t testing.TB, within time.Duration, ok func() (done bool, state string)) {
	t.Helper()
	testenv.Eventually(t, within, ok)
}
