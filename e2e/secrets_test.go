package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// canaries are recognisable secrets by what they are.
type canaries map[string]string

// plant makes a canary that is told from all others.
func (c canaries) plant(what string) string {
	value := "canary" + rand.Text()
	c[what] = value
	return value
}

// search fails for every canary that text holds, as it is or encoded, unless it may be there.
func (c canaries) search(t *testing.T, where, text string, allowed ...string) {
	t.Helper()
	require.NotEmpty(t, text, "%s: nothing to search", where)
	for what, value := range c {
		may := false
		for _, a := range allowed {
			may = may || strings.HasPrefix(what, a)
		}
		if may {
			continue
		}
		for form, encoded := range map[string]string{
			"as it is": value, "in hexadecimal": hex.EncodeToString([]byte(value)), "in base64": base64.StdEncoding.EncodeToString([]byte(value))[:len(value)],
		} {
			if at := strings.Index(text, encoded); at >= 0 {
				t.Errorf("%s holds the %s, %s: …%s…", where, what, form, text[max(0, at-200):min(len(text), at+200)])
			}
		}
	}
}

// eavesdropper keeps every answer of a server.
type eavesdropper struct {
	url     string
	answers strings.Builder
}

// ask sends a request and keeps what came back, headers included.
func (e *eavesdropper) ask(t *testing.T, method, path, body string, header ...string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, e.url+path, strings.NewReader(body))
	require.NoError(t, err)
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/json")
	}
	for n := 0; n+1 < len(header); n += 2 {
		request.Header.Set(header[n], header[n+1])
	}
	client := &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	shown, _, _ := strings.Cut(path, "?")
	fmt.Fprintf(&e.answers, "%s %s: %d %v\n%s\n", method, shown, response.StatusCode, response.Header, text)
	return response.StatusCode, string(text)
}

// query asks the API with a key.
func (e *eavesdropper) query(t *testing.T, key, query string, variables map[string]any) apptest.Answer {
	t.Helper()
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	require.NoError(t, err)
	var a apptest.Answer
	_, text := e.ask(t, http.MethodPost, "/graphql", string(body), "Authorization", "Bearer "+key)
	a.Body = []byte(text)
	require.NoError(t, json.Unmarshal(a.Body, &a))
	return a
}

// I12, W1, A5: secrets are planted, every feature and every failure is driven, and then everything
// that the system wrote or answered is searched for them.
func TestI12_PlantedSecretsAreFoundNowhere(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		secret := canaries{}
		env := apptest.Environment(t, stack)
		env["LOG_LEVEL"] = "debug"
		env["ADMIN_API_KEY"] = secret.plant("ADMIN_API_KEY")
		env["JWT_SECRET"] = secret.plant("JWT_SECRET")
		env["RETRY_SCHEDULE"] = "50ms,50ms"
		env["ATTEMPT_TIMEOUT"] = "1s"
		secret["SECRETS_KEY"] = strings.TrimRight(env["SECRETS_KEY"], "=")
		for _, name := range []string{"DATABASE_URL", "REDIS_URL"} {
			if env[name] == "" {
				continue
			}
			parsed, err := url.Parse(env[name])
			require.NoError(t, err)
			password, ok := parsed.User.Password()
			require.True(t, ok)
			secret["password in "+name] = password
		}
		p := start(t, env, "serve")
		e := &eavesdropper{url: p.url()}

		drive(t, secret, env, e)

		// Whatever a driven call started has ended.
		api := apptest.NewClient(e.url, env["ADMIN_API_KEY"])
		apptest.EventuallyWithin(t, time.Minute, func() (bool, string) {
			open := deliveries(t, api, map[string]any{"statuses": []string{"PENDING", "RETRYING"}})
			return len(open) == 0, fmt.Sprintf("%d deliveries are open: %+v", len(open), open)
		})
		status, metrics := e.ask(t, http.MethodGet, "/metrics", "", "Authorization", "Bearer "+env["ADMIN_API_KEY"])
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, metrics, "go_goroutines")
		queueUI(t, e, env["ADMIN_API_KEY"])
		history := e.query(t, env["ADMIN_API_KEY"], `{ deliveries(first: 100) { nodes { status statusDetail webhook { headers { name value masked } secretKeyHint }
			attempts { error remoteAddress request { url headers { name value masked } } response { status headers { name value masked } } } } } }`, nil)
		require.Empty(t, history.Errors)
		require.Contains(t, string(history.Body), `"masked":true`)
		// A plain header's value and where a receiver points to are for whoever may read the history.
		secret.search(t, "an answer", e.answers.String(), "plain header", "response location")

		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid))
		require.NoError(t, err)
		secret.search(t, "the process's arguments", string(cmdline))
		if stack == apptest.Production {
			secret.search(t, "Redis", redisDump(t, env["REDIS_URL"]))
			// History shows what was sent and what came back, but for credentials.
			secret.search(t, "the database", postgresDump(t, env["DATABASE_URL"]), "event", "plain header", "response")
		}
		// The runtime's last words hold the stacks of everything that ran.
		p.signal(syscall.SIGQUIT)
		p.wait()
		secret.search(t, "the log", p.stdout.String()+p.stderr.String())
		require.Contains(t, p.stderr.String(), `"level":"DEBUG"`)
		require.Contains(t, p.stderr.String(), "goroutine ")
		if stack == apptest.Embedded {
			secret.search(t, "the database", fileDump(t, filepath.Join(env["DATA_DIR"], "webhooks.db*")), "event", "plain header", "response")
		}
	})
}

// drive plants secrets wherever a caller or a receiver can put one, and makes everything go well and
// wrong that can.
func drive(t *testing.T, secret canaries, env map[string]string, e *eavesdropper) {
	t.Helper()
	admin := env["ADMIN_API_KEY"]
	quiet := apptest.NewClient(e.url, admin) // for the answers that show a secret once, or data to its owner
	sensitive, plain := secret.plant("sensitive header"), secret.plant("plain header")
	headers := []map[string]any{{"name": "Authorization", "value": "Bearer " + sensitive}, {"name": "X-Region", "value": plain}}
	remember := func(what, key string) {
		require.NotEmpty(t, key)
		bare := strings.TrimRight(strings.TrimPrefix(key, "whsec_"), "=")
		secret[what] = bare
		if raw, err := base64.RawStdEncoding.DecodeString(bare); err == nil {
			secret[what+", raw"] = string(raw)
		}
	}

	// Receivers of every kind, each with a webhook; two of them sign with a second key as well.
	answer := secret.plant("response body")
	cookie := secret.plant("sensitive response header")
	targets := map[string]string{}
	for name, reply := range map[string]receivertest.Answer{
		"good":     receivertest.Reply(http.StatusOK, answer, "Set-Cookie", "session="+cookie),
		"failing":  receivertest.Reply(http.StatusInternalServerError, answer, "X-Auth-Token", cookie),
		"redirect": receivertest.Redirect(http.StatusFound, "http://127.0.0.1:1/"+secret.plant("response location")),
		"gone":     receivertest.Reply(http.StatusGone, answer),
		"hanging":  receivertest.Hang(),
		"cut":      receivertest.ResetInBody(),
		"garbage":  receivertest.Bytes("HTTP/1.1 " + answer + "\r\n\r\n"),
		"unasked":  receivertest.BytesKept("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + answer),
		"bad gzip": receivertest.Reply(http.StatusOK, answer, "Content-Encoding", "gzip"),
	} {
		targets[name] = receivertest.New(t, receivertest.Default(reply)).URL()
	}
	targets["TLS"] = receivertest.New(t, receivertest.TLS(receivertest.SelfSigned)).URL()
	targets["no TLS"] = receivertest.New(t, receivertest.TLS(receivertest.NotTLS)).URL()
	targets["closed"] = "http://127.0.0.1:1/hook"
	targets["no name"] = "http://nowhere.invalid/hook"
	webhooks := map[string]string{}
	for name, target := range targets {
		c := create(t, quiet, map[string]any{"name": name, "targetUrl": target, "eventTypes": []string{"*"}, "headers": headers})
		require.Empty(t, c.UserErrors)
		remember("secret key of "+name, c.SecretKey)
		webhooks[name] = c.Webhook.ID
	}
	pair := create(t, quiet, map[string]any{"name": "pair", "targetUrl": targets["good"], "eventTypes": []string{"*"}, "signing": "ED25519"})
	require.Empty(t, pair.UserErrors)
	require.Empty(t, pair.SecretKey, "a private key is never shown")
	for _, name := range []string{"good", "failing"} {
		var rotated struct{ RotateWebhookSecretKey struct{ SecretKey string } }
		quiet.Query(t, `mutation($id: ID!) { rotateWebhookSecretKey(id: $id) { secretKey } }`, map[string]any{"id": webhooks[name]}, &rotated)
		remember("rotated secret key of "+name, rotated.RotateWebhookSecretKey.SecretKey)
	}
	e.query(t, admin, `mutation($id: ID!) { rotateWebhookSecretKey(id: $id) { webhook { publicKey } } }`, map[string]any{"id": pair.Webhook.ID})
	replaced := secret.plant("replaced sensitive header")
	e.query(t, admin, `mutation($id: ID!, $headers: [HeaderInput!]) { updateWebhook(id: $id, input: {headers: $headers}) { webhook { headers { name value masked } } userErrors { message } } }`,
		map[string]any{"id": webhooks["failing"], "headers": []map[string]any{{"name": "X-Api-Key", "value": replaced}}})

	// Keys and tokens, good and bad, in every place where one can be given.
	var made struct {
		CreateAPIKey struct {
			Key    string
			APIKey struct{ ID string } `json:"apiKey"`
		} `json:"createApiKey"`
	}
	quiet.Query(t, `mutation { createApiKey(input: {name: "k", tenant: "acme", scopes: [EMIT, MANAGE]}) { key apiKey { id } } }`, nil, &made)
	remember("API key", made.CreateAPIKey.Key)
	unknown, _, _ := auth.NewKey()
	secret["unknown API key"] = unknown
	misspelt := "iwk_" + secret.plant("misspelt API key")
	good := token(t, jwt.SigningMethodHS256, []byte(env["JWT_SECRET"]), "", map[string]any{"tenant": "acme", "scopes": []string{"READ"}})
	forged := token(t, jwt.SigningMethodHS256, []byte("another secret of thirty-two bytes"), "", map[string]any{"tenant": "acme", "scopes": []string{"READ"}})
	secret["token"], secret["forged token"] = good, forged
	for _, credential := range []string{made.CreateAPIKey.Key, unknown, misspelt, good, forged, good[:len(good)-4], secret.plant("nonsense credential")} {
		e.query(t, credential, `{ viewer { tenant } webhooks { totalCount } }`, nil)
		e.ask(t, http.MethodGet, "/metrics", "", "Authorization", "Bearer "+credential)
		e.ask(t, http.MethodGet, "/asynq/", "", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("x:"+credential)))
		e.ask(t, http.MethodPost, "/login", url.Values{"key": {credential}, "next": {"/asynq/"}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
		e.ask(t, http.MethodPost, "/login", `{"token":"`+credential+`"}`)
		e.ask(t, http.MethodGet, "/", "", "Cookie", "webhooks_session="+credential)
	}
	// A session's cookie is as good as its key: the answer that sets it shows neither.
	e.ask(t, http.MethodPost, "/login", url.Values{"key": {admin}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")

	// Events, and what is refused of them.
	data := secret.plant("event data")
	event := map[string]any{"message": map[string]any{"id": data, "content": data}}
	e.query(t, admin, `mutation($data: JSON!) { emitEvent(input: {eventType: "message.sent", data: $data, idempotencyKey: "k1"}) { event { id } matched userErrors { message } } }`, map[string]any{"data": event})
	e.query(t, admin, `mutation($data: JSON!) { emitEvents(inputs: [{eventType: "message.sent", data: $data}]) { results { event { id } } } }`, map[string]any{"data": event})
	event["changed"] = secret.plant("event data under a used key")
	e.query(t, admin, `mutation($data: JSON!) { emitEvent(input: {eventType: "message.sent", data: $data, idempotencyKey: "k1"}) { userErrors { code message } } }`, map[string]any{"data": event})
	e.query(t, admin, `mutation { upsertEventType(input: {name: "order.paid", strict: true, schema: {type: "object", required: ["total"],
		properties: {total: {type: "number", maximum: 5}, kind: {enum: ["a"]}, code: {pattern: "^x$"}, when: {format: "date-time"}}, additionalProperties: false}}) { userErrors { message } } }`, nil)
	refused := secret.plant("event data against its schema")
	e.query(t, admin, `mutation($data: JSON!) { emitEvent(input: {eventType: "order.paid", data: $data}) { userErrors { code message pointer } } }`,
		map[string]any{"data": map[string]any{"total": refused, "kind": refused, "code": refused, "when": refused}})
	e.query(t, admin, `mutation($type: String!, $data: JSON!) { emitEvent(input: {eventType: $type, data: $data}) { userErrors { code } } }`,
		map[string]any{"type": "no.such", "data": map[string]any{"x": secret.plant("event data of an unknown type")}})
	filtered := create(t, quiet, map[string]any{"name": "filter", "targetUrl": targets["good"], "eventTypes": []string{"*"}, "filter": `int(data.message.content) > 1`})
	require.Empty(t, filtered.UserErrors)
	remember("secret key of filter", filtered.SecretKey)
	e.query(t, admin, `mutation($data: JSON!) { emitEvent(input: {eventType: "message.sent", data: $data}) { event { id } } }`, map[string]any{"data": event})
	e.query(t, admin, `mutation($id: ID!, $data: JSON) { testWebhook(id: $id, eventType: "message.sent", data: $data) { delivery { id } userErrors { message } } }`,
		map[string]any{"id": webhooks["good"], "data": event})
	preview := e.query(t, admin, `query($id: ID!, $data: JSON!) { previewDelivery(input: {webhookId: $id, event: {eventType: "message.sent", data: $data}}) {
		verdict request { headers { name value masked } } userErrors { message } } }`, map[string]any{"id": webhooks["good"], "data": event})
	require.Empty(t, preview.Errors)
	var curl struct{ PreviewDelivery struct{ Curl string } }
	quiet.Query(t, `query($id: ID!) { previewDelivery(input: {webhookId: $id, event: {eventType: "message.sent", data: {}}}) { curl } }`, map[string]any{"id": webhooks["good"]}, &curl)
	secret.search(t, "a preview's curl", curl.PreviewDelivery.Curl, "plain header")

	// Requests that cannot be understood, with a secret in each.
	as := []string{"Authorization", "Bearer " + admin}
	for name, format := range map[string]string{
		"broken JSON":          `{"query":"{ viewer { tenant } }","variables":{"x":"%s"`,
		"a list":               `["%s"]`,
		"a text":               `"%s"`,
		"trailing":             `{"query":"{ viewer { tenant } }"} %s`,
		"bad query":            `{"query":["%s"]}`,
		"bad variables":        `{"query":"{ viewer { tenant } }","variables":"%s"}`,
		"bad name":             `{"query":"{ viewer { tenant } }","operationName":["%s"]}`,
		"unknown operation":    `{"query":"query a { viewer { tenant } } query b { viewer { tenant } }","operationName":"%s"}`,
		"broken document":      `{"query":"{ viewer(x: \"%s\" "}`,
		"unclosed text":        `{"query":"{ viewer(x: \"%s "}`,
		"literal of a type":    `{"query":"{ webhooks(first: \"%s\") { totalCount } }"}`,
		"literal of an enum":   `{"query":"{ webhooks(filter: {status: \"%s\"}) { totalCount } }"}`,
		"literal of a time":    `{"query":"{ events(filter: {since: \"%s\"}) { nodes { id } } }"}`,
		"unknown argument":     `{"query":"{ viewer(key: \"%s\") { tenant } }"}`,
		"variable of a type":   `{"query":"query($n: Int) { webhooks(first: $n) { totalCount } }","variables":{"n":"%s"}}`,
		"variable of an enum":  `{"query":"query($s: WebhookStatus) { webhooks(filter: {status: $s}) { totalCount } }","variables":{"s":"%s"}}`,
		"variable of an input": `{"query":"mutation($i: CreateWebhookInput!) { createWebhook(input: $i) { userErrors { message } } }","variables":{"i":{"name":1,"headers":"%s"}}}`,
		"variable of a time":   `{"query":"query($t: Time) { events(filter: {since: $t}) { nodes { id } } }","variables":{"t":"%s"}}`,
		"unused variable":      `{"query":"{ viewer { tenant } }","variables":{"x":"%s"}}`,
		"cursor":               `{"query":"{ webhooks(after: \"%s\") { totalCount } }"}`,
		"id":                   `{"query":"mutation { deleteWebhook(id: \"%s\") { userErrors { message } } node: pauseWebhook(id: \"%s\") { userErrors { message } } }"}`,
		"header's value":       `{"query":"mutation { createWebhook(input: {name: \"w\", targetUrl: \"https://example.com\", eventTypes: [\"*\"], headers: [{name: \"x-api-key\", value: \"%s\\r\"}, {name: \"webhook-id\", value: \"%s\"}]}) { userErrors { message } } }"}`,
		"password in a target": `{"query":"mutation { createWebhook(input: {name: \"w\", targetUrl: \"https://user:%s@example.com\", eventTypes: [\"*\"]}) { userErrors { message } } }"}`,
		"password, bad target": `{"query":"mutation { createWebhook(input: {name: \"w\", targetUrl: \"https://user:%s@exa mple.com:x\", eventTypes: [\"*\"]}) { userErrors { message } } }"}`,
		"duration":             `{"query":"mutation { createWebhook(input: {name: \"w\", targetUrl: \"https://example.com\", eventTypes: [\"*\"], timeout: \"%s\"}) { userErrors { message } } }"}`,
	} {
		value := secret.plant("request with " + name)
		e.ask(t, http.MethodPost, "/graphql", strings.ReplaceAll(format, "%s", value), as...)
		e.ask(t, http.MethodPost, "/graphql", strings.ReplaceAll(format, "%s", value), "Accept", "application/graphql-response+json", as[0], as[1])
	}
	e.ask(t, http.MethodPost, "/graphql", `{"query":"`+secret.plant("oversized request")+strings.Repeat(" ", 30<<20)+`"}`, as...)
	e.ask(t, http.MethodPost, "/graphql", `{"query":"{ viewer { tenant } }","x":"`+secret.plant("anonymous request")+`"}`)
	e.ask(t, http.MethodPost, "/graphql", "query="+secret.plant("form"), "Content-Type", "application/x-www-form-urlencoded", as[0], as[1])
	e.ask(t, http.MethodGet, "/graphql?query="+secret.plant("query in the address"), "", as...)
	e.ask(t, http.MethodGet, "/.well-known/webhook-keys/"+pair.Webhook.ID, "")

	// And what ends things.
	e.query(t, admin, `mutation($id: ID!) { deleteWebhook(id: $id) { deletedId } }`, map[string]any{"id": webhooks["cut"]})
	e.query(t, admin, `mutation($id: ID!) { revokeApiKey(id: $id) { apiKey { id prefix } } }`, map[string]any{"id": made.CreateAPIKey.APIKey.ID})
	e.query(t, made.CreateAPIKey.Key, `{ viewer { tenant } }`, nil)
	e.query(t, admin, `{ apiKeys { nodes { id name prefix lastUsedAt } } }`, nil)
}

// queueUI reads everything that the queue's web UI can show.
func queueUI(t *testing.T, e *eavesdropper, admin string) {
	t.Helper()
	as := []string{"Authorization", "Bearer " + admin}
	status, text := e.ask(t, http.MethodGet, "/asynq/api/queues", "", as...)
	require.Equal(t, http.StatusOK, status)
	var queues struct{ Queues []struct{ Queue string } }
	require.NoError(t, json.Unmarshal([]byte(text), &queues))
	require.NotEmpty(t, queues.Queues)
	for _, q := range queues.Queues {
		for _, list := range []string{"active", "pending", "scheduled", "retry", "archived", "completed"} {
			e.ask(t, http.MethodGet, "/asynq/api/queues/"+q.Queue+"/"+list+"_tasks?size=100", "", as...)
		}
	}
	for _, page := range []string{"servers", "scheduler_entries", "redis_info", "queue_stats"} {
		e.ask(t, http.MethodGet, "/asynq/api/"+page, "", as...)
	}
}

// redisDump is every key of a Redis server with its value, as the server would write it to a file
// and as commands show it.
func redisDump(t *testing.T, redisURL string) string {
	t.Helper()
	options, err := redis.ParseURL(redisURL)
	require.NoError(t, err)
	client := redis.NewClient(options)
	defer func() { _ = client.Close() }()
	ctx, text := t.Context(), strings.Builder{}
	keys, err := client.Keys(ctx, "*").Result()
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	for _, key := range keys {
		kind, err := client.Type(ctx, key).Result()
		require.NoError(t, err)
		var value any
		switch kind {
		case "string":
			value, err = client.Get(ctx, key).Result()
		case "hash":
			value, err = client.HGetAll(ctx, key).Result()
		case "list":
			value, err = client.LRange(ctx, key, 0, -1).Result()
		case "set":
			value, err = client.SMembers(ctx, key).Result()
		case "zset":
			value, err = client.ZRangeWithScores(ctx, key, 0, -1).Result()
		case "stream":
			value, err = client.XRange(ctx, key, "-", "+").Result()
		}
		if err != nil {
			require.ErrorIs(t, err, redis.Nil) // it went away meanwhile
		}
		dump, err := client.Dump(ctx, key).Result()
		if err != nil {
			require.ErrorIs(t, err, redis.Nil)
		}
		fmt.Fprintf(&text, "%s = %v\n%s\n", key, value, dump)
	}
	return text.String()
}

// postgresDump is every row of every table, as text.
func postgresDump(t *testing.T, databaseURL string) string {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, databaseURL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, `SELECT quote_ident(table_name) FROM information_schema.tables
		WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, tables, "webhooks")
	var text strings.Builder
	for _, table := range tables {
		rows, err := conn.Query(ctx, "SELECT row_to_json(t)::text FROM "+table+" AS t")
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		text.WriteString(table + "\n" + strings.Join(lines, "\n") + "\n")
	}
	return text.String()
}

// fileDump is all bytes of the files that match.
func fileDump(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	require.NoError(t, err)
	var all bytes.Buffer
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		all.Write(content)
	}
	require.Contains(t, all.String(), "message.sent", "the files are the database's")
	return all.String()
}
