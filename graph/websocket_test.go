package graph_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/graph"
	"github.com/intervengine/webhooks/models"
)

const patience = 30 * time.Second

// socket speaks text over a WebSocket.
type socket struct {
	t    testing.TB
	conn *websocket.Conn
}

func (f *fixture) dial(t testing.TB, header http.Header, protocols ...string) socket {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: protocols}
	conn, response, err := dialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(f.url, "http"), header)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	t.Cleanup(func() { _ = conn.Close() })
	return socket{t, conn}
}

func (s socket) send(text string) {
	s.t.Helper()
	require.NoError(s.t, s.conn.WriteMessage(websocket.TextMessage, []byte(text)))
}

func (s socket) receive() string {
	s.t.Helper()
	text, err := s.tryReceive()
	require.NoError(s.t, err)
	return text
}

func (s socket) tryReceive() (string, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	_, text, err := s.conn.ReadMessage()
	return string(text), err
}

// closed reads until the server closes, and gives the code and the reason.
func (s socket) closed() (int, string) {
	s.t.Helper()
	for {
		_, err := s.tryReceive()
		if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
			return closed.Code, closed.Text
		}
		require.NoError(s.t, err)
	}
}

// greet opens a socket with a key.
func (f *fixture) greet(t testing.TB, key string) socket {
	t.Helper()
	s := f.dial(t, nil, "graphql-transport-ws")
	s.send(fmt.Sprintf(`{"type":"connection_init","payload":{"Authorization":"Bearer %s"}}`, key))
	require.JSONEq(t, `{"type":"connection_ack"}`, s.receive())
	return s
}

// subscribe begins an operation and waits until it has begun.
func (s socket) subscribe(id, query string, vars variables) {
	s.t.Helper()
	payload, err := json.Marshal(map[string]any{"query": query, "variables": vars})
	require.NoError(s.t, err)
	s.send(fmt.Sprintf(`{"type":"subscribe","id":%q,"payload":%s}`, id, payload))
	s.send(`{"type":"ping","payload":{"n":1}}`)
	for {
		text := s.receive()
		if strings.HasPrefix(text, `{"type":"pong"`) {
			require.JSONEq(s.t, `{"type":"pong","payload":{"n":1}}`, text)
			return
		}
		require.Failf(s.t, "not begun", "%s", text)
	}
}

func TestWebSocket_Protocol(t *testing.T) {
	t.Parallel()
	f := setup(t, func(o *graph.Options) { o.Streams.InitTimeout = 2 * time.Second })
	hello := fmt.Sprintf(`{"type":"connection_init","payload":{"Authorization":"Bearer %s"}}`, f.read)
	const typename = `{"type":"subscribe","id":"1","payload":{"query":"{ __typename }"}}`
	endless := `{"type":"subscribe","id":"1","payload":{"query":"subscription { deliveryUpdated { cursor } }"}}`
	for name, tc := range map[string]struct {
		sent   []string
		header http.Header
		heard  []string // before the close
		code   int
		reason string
	}{
		"no init":                   {code: 4408, reason: "Connection initialisation timeout"},
		"no init after a ping":      {sent: []string{`{"type":"ping"}`}, heard: []string{`{"type":"pong"}`}, code: 4408, reason: "Connection initialisation timeout"},
		"two inits":                 {sent: []string{hello, hello}, heard: []string{`{"type":"connection_ack"}`}, code: 4429, reason: "Too many initialisation requests"},
		"subscribe before init":     {sent: []string{typename}, code: 4401, reason: "Unauthorized"},
		"no credentials":            {sent: []string{`{"type":"connection_init"}`}, code: 4403, reason: auth.ErrNoCredentials.Error()},
		"bad credentials":           {sent: []string{`{"type":"connection_init","payload":{"Authorization":"Bearer ` + canary + `"}}`}, code: 4403, reason: "credentials are not valid: unknown key or token"},
		"any case of the name":      {sent: []string{`{"type":"connection_init","payload":{"AUTHORIZATION":"Bearer ` + canary + `"}}`}, code: 4403, reason: "credentials are not valid: unknown key or token"},
		"bad payload":               {sent: []string{`{"type":"connection_init","payload":{"Authorization":1}}`}, code: 4400},
		"credentials twice":         {sent: []string{`{"type":"connection_init","payload":{"Authorization":"a","Authorization":"b"}}`}, code: 4400},
		"not JSON":                  {sent: []string{canary}, code: 4400, reason: "the message is not valid JSON of the protocol"},
		"a list":                    {sent: []string{`[]`}, code: 4400},
		"text after it":             {sent: []string{`{"type":"ping"}` + canary}, code: 4400},
		"no type":                   {sent: []string{`{}`}, code: 4400},
		"an unknown type":           {sent: []string{`{"type":"` + canary + `"}`}, code: 4400, reason: "the message has no type that the protocol knows"},
		"a type that is a number":   {sent: []string{`{"type":1}`}, code: 4400},
		"a key twice":               {sent: []string{`{"type":"ping","type":"pong"}`}, code: 4400},
		"subscribe without an id":   {sent: []string{hello, `{"type":"subscribe","payload":{"query":"{ __typename }"}}`}, heard: []string{`{"type":"connection_ack"}`}, code: 4400},
		"subscribe without payload": {sent: []string{hello, `{"type":"subscribe","id":"1"}`}, heard: []string{`{"type":"connection_ack"}`}, code: 4400},
		"an id that is taken":       {sent: []string{hello, endless, endless}, heard: []string{`{"type":"connection_ack"}`}, code: 4409, reason: "Subscriber for this id already exists"},
		"a large message": {
			sent: []string{`{"type":"ping","payload":{"x":"` + strings.Repeat("x", 1<<20) + `"}}`}, code: websocket.CloseMessageTooBig,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := f.dial(t, tc.header, "graphql-transport-ws")
			for _, text := range tc.sent {
				_ = s.conn.WriteMessage(websocket.TextMessage, []byte(text)) // the server may have closed by then
			}
			for _, text := range tc.heard {
				require.JSONEq(t, text, s.receive())
			}
			code, reason := s.closed()
			require.Equal(t, tc.code, code, reason)
			if tc.reason != "" {
				require.Equal(t, tc.reason, reason)
			}
		})
	}
	t.Run("another sub-protocol", func(t *testing.T) {
		t.Parallel()
		code, _ := f.dial(t, nil, "graphql-ws").closed()
		require.Equal(t, 4406, code)
	})
	t.Run("binary", func(t *testing.T) {
		t.Parallel()
		s := f.dial(t, nil, "graphql-transport-ws")
		require.NoError(t, s.conn.WriteMessage(websocket.BinaryMessage, []byte(`{"type":"ping"}`)))
		code, _ := s.closed()
		require.Equal(t, 4400, code)
	})
	t.Run("credentials of the handshake", func(t *testing.T) {
		t.Parallel()
		s := f.dial(t, http.Header{"Authorization": {"Bearer " + f.read}}, "graphql-transport-ws")
		s.send(`{"type":"connection_init"}`)
		require.JSONEq(t, `{"type":"connection_ack"}`, s.receive())
	})
	t.Cleanup(func() { require.NotContains(t, f.log.String(), canary) })
}

func TestWebSocket_Operations(t *testing.T) {
	t.Parallel()
	f := setup(t)
	s := f.greet(t, f.all)
	operation := func(id, payload string) string {
		s.send(fmt.Sprintf(`{"type":"subscribe","id":%q,"payload":%s}`, id, payload))
		return s.receive()
	}
	require.JSONEq(t, `{"type":"next","id":"1","payload":{"data":{"viewer":{"tenant":"acme"}}}}`, operation("1", `{"query":"{ viewer { tenant } }"}`))
	require.JSONEq(t, `{"type":"complete","id":"1"}`, s.receive())
	require.Contains(t, operation("é\"\\", `{"query":"mutation { deleteWebhook(id: \"wh_x\") { userErrors { code } } }"}`), `"payload":{"data":{"deleteWebhook":`)
	require.JSONEq(t, `{"type":"complete","id":"é\"\\"}`, s.receive())
	for name, tc := range map[string]struct{ payload, code string }{
		"broken document":     {`{"query":"{"}`, "GRAPHQL_PARSE_FAILED"},
		"unknown field":       {`{"query":"subscription { nope }"}`, "GRAPHQL_VALIDATION_FAILED"},
		"nothing followed":    {`{"query":"subscription { __typename }"}`, "GRAPHQL_VALIDATION_FAILED"},
		"skipped":             {`{"query":"subscription { deliveryUpdated @skip(if: true) { cursor } }"}`, "GRAPHQL_VALIDATION_FAILED"},
		"two fields":          {`{"query":"subscription { a: deliveryUpdated { cursor } b: deliveryUpdated { cursor } }"}`, "GRAPHQL_VALIDATION_FAILED"},
		"not a request":       {`{"query":1}`, "BAD_REQUEST"},
		"bad cursor":          {`{"query":"subscription { deliveryUpdated(after: \"x\") { cursor } }"}`, "BAD_REQUEST"},
		"bad filter":          {`{"query":"subscription { eventEmitted(filter: \"data.\") { cursor } }"}`, "BAD_REQUEST"},
		"filter on no field":  {`{"query":"subscription { eventEmitted(eventTypes: [\"participant.created\"], filter: \"data.nope == 1\") { cursor } }"}`, "BAD_REQUEST"},
		"unknown event type":  {`{"query":"subscription { eventEmitted(eventTypes: [\"no.such\"]) { cursor } }"}`, "BAD_REQUEST"},
		"bad payload query":   {`{"query":"subscription { eventEmitted(payloadQuery: \"{\") { cursor } }"}`, "BAD_REQUEST"},
		"another's tenant":    {`{"query":"subscription { deliveryUpdated(filter: {tenant: \"other\"}) { cursor } }"}`, "FORBIDDEN"},
		"fields without end":  {`{"query":"subscription { deliveryUpdated { delivery { ` + strings.Repeat("event { deliveries { nodes { ", 5) + "id" + strings.Repeat("} } }", 5) + ` } } }"}`, "TOO_COMPLEX"},
		"inverted since":      {`{"query":"subscription { deliveryUpdated(filter: {since: \"2026-01-02T00:00:00Z\", until: \"2026-01-01T00:00:00Z\"}) { cursor } }"}`, "BAD_REQUEST"},
		"variables are wrong": {`{"query":"subscription($a: String!) { deliveryUpdated(after: $a) { cursor } }"}`, "GRAPHQL_VALIDATION_FAILED"},
	} {
		text := operation("x", tc.payload)
		require.True(t, strings.HasPrefix(text, `{"type":"error","id":"x","payload":[{`), "%s: %s", name, text)
		require.Contains(t, text, `"code":"`+tc.code+`"`, name)
	}
	// What an EMIT key may not read it may not follow.
	text := func() string {
		s := f.greet(t, f.emit)
		s.send(`{"type":"subscribe","id":"1","payload":{"query":"subscription { eventEmitted { cursor } }"}}`)
		return s.receive()
	}()
	require.Contains(t, text, `"code":"FORBIDDEN"`)

	// Several at once, each ended by itself; its id is free again at once.
	s.subscribe("a", `subscription { eventEmitted { data } }`, nil)
	s.subscribe("b", `subscription { eventEmitted(eventTypes: ["message.*"]) { data } }`, nil)
	f.emitted(t, f.emit, "participant.created", `{"n":1.10}`)
	require.JSONEq(t, `{"type":"next","id":"a","payload":{"data":{"eventEmitted":{"data":{"n":1.10}}}}}`, s.receive())
	s.send(`{"type":"complete","id":"a"}`)
	s.subscribe("a", `subscription { eventEmitted(filter: "data.n == 2") { data } }`, nil)
	f.emitted(t, f.emit, "participant.created", `{"n":1}`)
	f.emitted(t, f.emit, "participant.created", `{"n":2}`)
	require.JSONEq(t, `{"type":"next","id":"a","payload":{"data":{"eventEmitted":{"data":{"n":2}}}}}`, s.receive())
}

func TestWebSocket_Limits(t *testing.T) {
	t.Parallel()
	f := setup(t, func(o *graph.Options) { o.Streams = graph.StreamLimits{Operations: 2, Subscriptions: 3} })
	const follow = `subscription { eventEmitted { cursor } }`
	one, two := f.greet(t, f.read), f.greet(t, f.read)
	one.subscribe("1", follow, nil)
	one.subscribe("2", follow, nil)
	one.send(`{"type":"subscribe","id":"3","payload":{"query":"{ __typename }"}}`)
	text := one.receive()
	require.Contains(t, text, `"code":"RATE_LIMITED"`)
	require.Contains(t, text, `"retryAfterMs":1000`)
	two.subscribe("1", follow, nil)
	two.send(`{"type":"subscribe","id":"2","payload":{"query":"` + follow + `"}}`)
	require.Contains(t, two.receive(), "this key has 3 subscriptions open")
	f.greet(t, f.otherRead).subscribe("1", follow, nil)
	// One that ends makes room.
	one.send(`{"type":"complete","id":"1"}`)
	require.Eventually(t, func() bool {
		two.send(`{"type":"subscribe","id":"2","payload":{"query":"` + follow + `"}}`)
		two.send(`{"type":"ping"}`)
		if strings.HasPrefix(two.receive(), `{"type":"pong"`) {
			return true
		}
		two.receive()
		return false
	}, patience, 10*time.Millisecond)
}

func TestWebSocket_Times(t *testing.T) {
	t.Parallel()
	idle := setup(t, func(o *graph.Options) { o.Streams.Idle = time.Second })
	code, reason := idle.greet(t, idle.read).closed()
	require.Equal(t, websocket.CloseNormalClosure, code, reason)

	// It is not taken for gone before its time is over, however long an answer takes.
	old := setup(t, func(o *graph.Options) {
		o.Streams.Lifetime, o.Streams.KeepAlive = 3*time.Second, 1500*time.Millisecond
	})
	s := old.greet(t, old.read)
	s.subscribe("1", `subscription { eventEmitted { cursor } }`, nil)
	pings := 0
	s.conn.SetPingHandler(func(string) error {
		pings++
		return s.conn.WriteControl(websocket.PongMessage, nil, time.Now().Add(time.Second))
	})
	code, _ = s.closed()
	require.Equal(t, websocket.CloseGoingAway, code)
	require.Positive(t, pings)

	// A client that answers nothing is taken for gone.
	mute := setup(t, func(o *graph.Options) { o.Streams.KeepAlive = 20 * time.Millisecond })
	s = mute.dial(t, nil, "graphql-transport-ws")
	s.conn.SetPingHandler(func(string) error { return nil })
	code, reason = s.closed()
	require.Equal(t, websocket.CloseGoingAway, code)
	require.Equal(t, "no ping was answered", reason)
}

func TestStreams_EndWithTheKey(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		tenant := "acme"
		platform := &auth.Principal{ID: auth.AdminID, Scopes: []models.Scope{models.ScopeAdmin}}
		made, key, err := f.control.CreateAPIKey(t.Context(), platform, control.APIKeyInput{Name: "k", Tenant: &tenant, Scopes: []models.Scope{models.ScopeRead}})
		require.NoError(t, err)
		s := f.greet(t, key)
		s.subscribe("1", `subscription { eventEmitted { cursor } }`, nil)
		events := f.events(t, key, `subscription { eventEmitted { cursor } }`, nil)
		_, err = f.control.RevokeAPIKey(t.Context(), platform, made.ID)
		require.NoError(t, err)
		code, reason := s.closed()
		require.Equal(t, 4403, code)
		require.Contains(t, reason, "revoked")
		rest, err := io.ReadAll(events)
		require.NoError(t, err)
		require.Contains(t, string(rest), `"code":"UNAUTHENTICATED"`)
		require.True(t, strings.HasSuffix(string(rest), "event: complete\ndata:\n\n"), "%q", rest)
	})
}

// events opens a stream of server-sent events and gives its body once it has begun.
func (f *fixture) events(t testing.TB, key, query string, vars variables) io.Reader {
	t.Helper()
	response := f.eventsResponse(t, key, "text/event-stream", query, vars)
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, "text/event-stream; charset=utf-8", response.Header.Get("Content-Type"))
	return response.Body
}

func (f *fixture) eventsResponse(t testing.TB, key, accept, query string, vars variables) *http.Response {
	t.Helper()
	body, err := json.Marshal(map[string]any{"query": query, "variables": vars})
	require.NoError(t, err)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url, bytes.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", accept)
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

func TestEvents(t *testing.T) {
	t.Parallel()
	f := setup(t, func(o *graph.Options) { o.Streams.KeepAlive = 20 * time.Millisecond })
	read := func(r io.Reader, until string) string {
		var b strings.Builder
		p := make([]byte, 1)
		for !strings.HasSuffix(b.String(), until) {
			_, err := r.Read(p)
			require.NoError(t, err, "%q", b.String())
			b.Write(p)
		}
		return b.String()
	}
	body := f.events(t, f.read, `subscription($q: String) { eventEmitted(payloadQuery: $q) { data event { data } } }`,
		variables{"q": `subscription { event { ... on ParticipantCreated { participant { id } } ... on MessageSent { __typename } } }`})
	require.Equal(t, ":\n\n:\n\n", read(body, ":\n\n:\n\n"), "it begins and stays with comments")
	f.emitted(t, f.emit, "participant.created", `{"participant":{"id":"p_1","email":"a@example.com"}}`)
	text := strings.ReplaceAll(read(body, "}}}\n\n"), ":\n\n", "")
	require.Equal(t, "event: next\ndata: "+`{"data":{"eventEmitted":{"data":{"participant":{"id":"p_1"}},"event":{"data":{"participant":{"id":"p_1","email":"a@example.com"}}}}}}`+"\n\n", text)

	for name, tc := range map[string]struct {
		key, accept, query string
		status             int
		contentType, body  string
	}{
		"query":                      {f.read, "text/event-stream", `{ viewer { tenant } }`, 200, "text/event-stream", "event: next\ndata: {\"data\":{\"viewer\":{\"tenant\":\"acme\"}}}\n\nevent: complete\ndata:\n\n"},
		"query where JSON does too":  {f.read, "application/json, text/event-stream", `{ viewer { tenant } }`, 200, "application/json", `{"data":{"viewer":{"tenant":"acme"}}}`},
		"broken":                     {f.read, "text/event-stream", `{`, 400, "application/graphql-response+json", "GRAPHQL_PARSE_FAILED"},
		"nobody":                     {"", "text/event-stream", `subscription { eventEmitted { cursor } }`, 401, "application/graphql-response+json", "UNAUTHENTICATED"},
		"refused when it begins":     {f.read, "text/event-stream", `subscription { eventEmitted(after: "x") { cursor } }`, 200, "text/event-stream", "BAD_REQUEST"},
		"beyond its scope":           {f.emit, "text/event-stream", `subscription { eventEmitted { cursor } }`, 200, "text/event-stream", "FORBIDDEN"},
		"a subscription by POST":     {f.read, "application/json", `subscription { eventEmitted { cursor } }`, 200, "application/json", "BAD_REQUEST"},
		"a subscription, any answer": {f.read, "*/*", `subscription { eventEmitted { cursor } }`, 200, "application/json", "BAD_REQUEST"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response := f.eventsResponse(t, tc.key, tc.accept, tc.query, nil)
			require.Equal(t, tc.status, response.StatusCode)
			require.True(t, strings.HasPrefix(response.Header.Get("Content-Type"), tc.contentType), response.Header.Get("Content-Type"))
			text, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.Contains(t, strings.ReplaceAll(string(text), ":\n\n", ""), strings.ReplaceAll(tc.body, ":\n\n", ""))
			if tc.contentType == "text/event-stream" {
				require.True(t, strings.HasSuffix(string(text), "event: complete\ndata:\n\n"), "%q", text)
			}
		})
	}
}

// Another tenant's changes are as if they did not happen, whatever a subscription names.
func TestA2_SubscriptionsOfAnotherTenant(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		webhook := f.create(t, f.manage, "w")
		event := f.emitted(t, f.emit, "participant.created", `{}`)
		s := f.greet(t, f.otherRead)
		s.subscribe("1", `subscription { eventEmitted { event { tenant } } }`, nil)
		s.subscribe("2", `subscription { deliveryUpdated { delivery { tenant } } }`, nil)
		s.subscribe("3", `subscription($w: ID!) { deliveryUpdated(filter: {webhookId: $w}) { delivery { tenant } } }`, variables{"w": webhook})
		s.subscribe("4", `subscription($e: ID!) { deliveryUpdated(filter: {eventId: $e}) { delivery { tenant } } }`, variables{"e": event})
		// From a cursor of another's update on, it is one's own that come.
		theirs := f.greet(t, f.read)
		theirs.subscribe("1", `subscription { eventEmitted { cursor } }`, nil)
		f.emitted(t, f.emit, "participant.created", `{}`)
		var next struct {
			Payload struct {
				Data struct{ EventEmitted struct{ Cursor string } }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(theirs.receive()), &next))
		s.subscribe("5", `subscription($c: String!) { eventEmitted(after: $c) { event { tenant } } }`, variables{"c": next.Payload.Data.EventEmitted.Cursor})
		get[tree](t, f, f.manage, `mutation($e: ID!) { cancelEvent(id: $e) { cancelled } }`, variables{"e": event})
		f.emitted(t, f.emit, "participant.created", `{}`)
		f.emitted(t, f.otherEmit, "participant.created", `{}`)
		heard := []string{s.receive(), s.receive()}
		require.ElementsMatch(t, []string{
			`{"type":"next","id":"1","payload":{"data":{"eventEmitted":{"event":{"tenant":"other"}}}}}`,
			`{"type":"next","id":"5","payload":{"data":{"eventEmitted":{"event":{"tenant":"other"}}}}}`,
		}, heard)
	})
}

// A client that does not read is told so and dropped, and others do not notice.
func TestStreams_AClientThatDoesNotReadIsDropped(t *testing.T) {
	t.Parallel()
	f := setup(t, func(o *graph.Options) { o.Streams.WriteTimeout = 200 * time.Millisecond })
	s := f.greet(t, f.read)
	s.subscribe("1", `subscription { eventEmitted { data } }`, nil)
	quick := f.greet(t, f.read)
	quick.subscribe("1", `subscription { eventEmitted { cursor } }`, nil)
	data := fmt.Sprintf(`{"x":"%s"}`, strings.Repeat("x", 200<<10))
	for range 60 { // more than the sockets' buffers hold
		f.emitted(t, f.emit, "participant.created", data)
		require.Contains(t, quick.receive(), `"cursor"`)
	}
	require.Eventually(t, func() bool { return f.live.Followers() == 1 }, patience, 10*time.Millisecond)
	_, err := io.Copy(io.Discard, s.conn.NetConn())
	_ = err // a reset or an end: either way it is over
}

func TestHandler_Stop(t *testing.T) {
	t.Parallel()
	var h *graph.Handler
	f := setup(t)
	h = f.handler
	s := f.greet(t, f.read)
	s.subscribe("1", `subscription { eventEmitted { cursor } }`, nil)
	body := f.events(t, f.read, `subscription { eventEmitted { cursor } }`, nil)
	stopped := make(chan error, 1)
	go func() { stopped <- h.Stop(context.Background()) }()
	code, reason := s.closed()
	require.Equal(t, websocket.CloseGoingAway, code)
	require.Equal(t, "the server is stopping", reason)
	rest, err := io.ReadAll(body)
	require.NoError(t, err)
	require.NotContains(t, string(rest), "complete", "the client goes on elsewhere")
	require.NoError(t, <-stopped)
	require.Zero(t, f.live.Followers())
	code, _ = f.dial(t, nil, "graphql-transport-ws").closed()
	require.Equal(t, websocket.CloseGoingAway, code)
	require.Equal(t, http.StatusServiceUnavailable, f.eventsResponse(t, f.read, "text/event-stream", `subscription { eventEmitted { cursor } }`, nil).StatusCode)
	require.Empty(t, f.do(t, f.read, `{ viewer { tenant } }`, nil).Errors)
}
