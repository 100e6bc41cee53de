package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

func TestE2_RacingEmitsMakeOneEvent(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		subscribe(t, server.Client, receiver, nil)
		const racing = 20
		results := make([]emitted, racing)
		var all sync.WaitGroup
		for n := range racing {
			all.Go(func() {
				results[n] = emit(t, server.Client, map[string]any{"eventType": "message.sent", "data": map[string]any{"a": 1}, "idempotencyKey": "once"})
			})
		}
		all.Wait()
		fresh := 0
		for _, r := range results {
			require.Empty(t, r.UserErrors)
			require.Equal(t, results[0].Event.ID, r.Event.ID)
			require.Equal(t, 1, r.Matched)
			if !r.Duplicate {
				fresh++
			}
		}
		require.Equal(t, 1, fresh)
		other := emit(t, server.Client, map[string]any{"eventType": "message.sent", "data": map[string]any{"a": 2}, "idempotencyKey": "once"})
		require.Equal(t, "IDEMPOTENCY_MISMATCH", other.UserErrors[0].Code)
		require.Equal(t, []string{"input", "idempotencyKey"}, other.UserErrors[0].Field)
		until(t, server.Client, results[0].Event.ID, "SUCCEEDED")
		require.Len(t, receiver.Requests(), 1)
	})
}

func TestE3E4_BoundsOfEventsAndBatches(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		big := emit(t, server.Client, message(map[string]any{"text": strings.Repeat("x", 257<<10)}))
		require.Nil(t, big.Event)
		require.Equal(t, "TOO_LARGE", big.UserErrors[0].Code)
		require.Equal(t, []string{"input", "data"}, big.UserErrors[0].Field)
		fits := emit(t, server.Client, message(map[string]any{"text": strings.Repeat("x", 255<<10)}))
		require.Empty(t, fits.UserErrors)

		batch := func(inputs []map[string]any) (results []emitted, problems []userError) {
			var out struct {
				EmitEvents struct {
					Results    []emitted
					UserErrors []userError
				}
			}
			server.Query(t, `mutation($inputs: [EmitEventInput!]!) { emitEvents(inputs: $inputs) { results { event { id } matched userErrors { code message field } } userErrors { code message field } } }`,
				map[string]any{"inputs": inputs}, &out)
			return out.EmitEvents.Results, out.EmitEvents.UserErrors
		}
		inputs := make([]map[string]any, 100)
		for n := range inputs {
			inputs[n] = message(map[string]any{"n": n})
		}
		inputs[3] = map[string]any{"eventType": "nope.nope", "data": map[string]any{}}
		results, problems := batch(inputs)
		require.Empty(t, problems)
		require.Len(t, results, 100)
		for n, r := range results {
			if n == 3 {
				require.Equal(t, "UNKNOWN_EVENT_TYPE", r.UserErrors[0].Code)
				require.Equal(t, []string{"inputs", "3", "eventType"}, r.UserErrors[0].Field)
				continue
			}
			require.Empty(t, r.UserErrors)
		}
		results, problems = batch(slices.Concat(inputs, []map[string]any{message(map[string]any{"n": 100})}))
		require.Empty(t, results)
		require.Equal(t, "TOO_LARGE", problems[0].Code)
		require.Equal(t, []string{"inputs"}, problems[0].Field)

		body := `{"query":"mutation($d: JSON!) { emitEvent(input: {eventType: \"message.sent\", data: $d}) { matched } }","variables":{"d":{"x":"` + strings.Repeat("x", 28<<20) + `"}}}`
		a, err := server.PostRaw(t.Context(), []byte(body))
		require.NoError(t, err)
		require.Equal(t, []string{"PAYLOAD_TOO_LARGE"}, a.Codes())
	})
}

func TestE6_DataReachesTheReceiverExactly(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		subscribe(t, server.Client, receiver, nil)
		send := func(body string) string {
			t.Helper()
			before := len(receiver.Requests())
			a, err := server.PostRaw(t.Context(), []byte(body))
			require.NoError(t, err)
			require.Empty(t, a.Errors, "%s", a.Body)
			got := receiver.Wait(t, before+1)[before]
			require.NoError(t, got.SignatureErr)
			_, data, ok := strings.Cut(string(got.Body), `"data":`)
			require.True(t, ok)
			id := eventID(a.Data)
			var back struct {
				Event struct{ Data json.RawMessage }
			}
			server.Query(t, `query($id: ID!) { event(id: $id) { data } }`, map[string]any{"id": id}, &back)
			require.Equal(t, strings.TrimSuffix(data, "}"), string(back.Event.Data), "history tells the same")
			return strings.TrimSuffix(data, "}")
		}
		const mutation = `mutation($data: JSON!) { emitEvent(input: {eventType: \"message.sent\", data: $data}) { event { id } } }`
		for name, data := range map[string]string{
			"past int64":     `{"n":9223372036854775808,"m":-9223372036854775809}`,
			"digits":         `{"a":1.10,"b":1e5,"c":1E+400,"d":0.000,"e":-0}`,
			"order of keys":  `{"z":1,"a":2,"z2":{"y":1,"b":2}}`,
			"escapes":        `{"s":"<&> \u003c \/ \u00e9 é 😀 \ud83d\ude00 \" \\"}`,
			"NUL, surrogate": `{"s":"a\u0000b","t":"\ud800"}`,
			"same key twice": `{"a":1,"a":2}`,
			"nothing":        `{}`,
		} {
			require.Equal(t, data, send(`{"query":"`+mutation+`","variables":{"data":`+data+`}}`), name)
		}
		require.JSONEq(t, `{"a":1,"b":[true,null]}`, send(`{"query":"`+mutation+`","variables":{"data": { "a" : 1 ,`+"\n\t"+` "b" : [ true , null ] } }}`), "compact")
		inline := send(`{"query":"mutation { emitEvent(input: {eventType: \"message.sent\", data: {price: 1.10, n: 9007199254740993, s: \"<&>\", list: [1, {x: null}]}}) { event { id } } }"}`)
		require.JSONEq(t, `{"price":1.10,"n":9007199254740993,"s":"<&>","list":[1,{"x":null}]}`, inline)
	})
}

func TestE7_DeliverAtWaitsAndCanBeCancelled(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		subscribe(t, server.Client, receiver, nil)
		at := time.Now().Add(1500 * time.Millisecond).UTC()
		e := emit(t, server.Client, map[string]any{"eventType": "message.sent", "data": map[string]any{"n": 1}, "deliverAt": at.Format(time.RFC3339Nano)})
		later := emit(t, server.Client, map[string]any{"eventType": "message.sent", "data": map[string]any{"n": 2}, "deliverAt": "2038-01-19T03:14:08Z"})
		d := until(t, server.Client, e.Event.ID, "PENDING")
		require.Equal(t, "SCHEDULED", *d.StatusReason)
		request := receiver.Wait(t, 1)[0]
		require.False(t, request.At.Before(at), "not early")
		require.Equal(t, e.Event.ID, request.ID())

		var out struct {
			CancelEvent struct {
				Cancelled  int
				UserErrors []userError
			}
		}
		server.Query(t, `mutation($id: ID!) { cancelEvent(id: $id) { cancelled userErrors { code message field } } }`, map[string]any{"id": later.Event.ID}, &out)
		require.Equal(t, 1, out.CancelEvent.Cancelled)
		require.Equal(t, "CANCELLED_BY_USER", *until(t, server.Client, later.Event.ID, "CANCELLED").StatusReason)
	})
}

func TestD4_RetriesFollowTheScheduleAndThenFail(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t, receivertest.Default(receivertest.Reply(http.StatusInternalServerError, "out of order")))
		subscribe(t, server.Client, receiver, map[string]any{"retrySchedule": []string{"PT0.3S", "PT0.3S"}})
		e := emit(t, server.Client, message(map[string]any{"n": 1}))
		d := until(t, server.Client, e.Event.ID, "FAILED")
		require.Equal(t, "RETRIES_EXHAUSTED", *d.StatusReason)
		require.Equal(t, 3, d.AttemptCount)
		require.NotNil(t, d.CompletedAt)
		requests := receiver.Requests()
		require.Len(t, requests, 3)
		for n, r := range requests {
			require.NoError(t, r.SignatureErr)
			require.Equal(t, e.Event.ID, r.ID(), "the same id on every attempt")
			require.Equal(t, requests[0].Body, r.Body, "the same bytes on every attempt")
			require.Equal(t, n+1, d.Attempts[n].Number)
			require.Equal(t, "HTTP_ERROR", d.Attempts[n].Outcome)
			require.Equal(t, "out of order", d.Attempts[n].Response.Body)
			require.Equal(t, string(r.Body), d.Attempts[n].Request.Body)
			if n > 0 {
				require.GreaterOrEqual(t, r.At.Sub(requests[n-1].At), 270*time.Millisecond, "300 ms less 10 %")
			}
		}

		// Redelivering sends the same bytes under the same id.
		receiver.Answer(receivertest.Status(http.StatusOK))
		var out struct {
			Redeliver struct{ UserErrors []userError }
		}
		server.Query(t, `mutation($id: ID!) { redeliver(deliveryId: $id) { userErrors { code message field } } }`, map[string]any{"id": d.ID}, &out)
		require.Empty(t, out.Redeliver.UserErrors)
		d = until(t, server.Client, e.Event.ID, "SUCCEEDED")
		require.Equal(t, "MANUAL", d.Attempts[3].Trigger)
		again := receiver.Requests()[3]
		require.Equal(t, requests[0].Body, again.Body)
		require.Equal(t, e.Event.ID, again.ID())
	})
}

// D11: a worker that is killed in the middle of an attempt.
func TestD11_AKilledWorkersAttemptIsShownAndMadeAgain(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t)
	env := apptest.Environment(t, apptest.Production)
	apiEnv := map[string]string{}
	maps.Copy(apiEnv, env)
	api := start(t, apiEnv, "api")
	client := apptest.NewClient(api.url(), env["ADMIN_API_KEY"])
	subscribe(t, client, receiver, nil)
	receiver.Script(receivertest.Hang())
	worker := start(t, env, "worker")
	worker.url()
	e := emit(t, client, message(map[string]any{"n": 1}))
	receiver.Wait(t, 1)
	worker.kill()
	second := start(t, env, "worker")
	second.url()
	d := until(t, client, e.Event.ID, "SUCCEEDED")
	require.Len(t, d.Attempts, 2)
	require.Equal(t, "ABANDONED", d.Attempts[0].Outcome)
	require.Equal(t, "SUCCESS", d.Attempts[1].Outcome)
	requests := receiver.Requests()
	require.Len(t, requests, 2)
	require.Equal(t, requests[0].ID(), requests[1].ID())
	require.Less(t, requests[1].At.Sub(requests[0].At), time.Minute)
	second.stop()
	api.stop()
}

// D11: a graceful stop under load finishes what is in flight and sends nothing twice.
func TestD11_AGracefulStopSendsNothingTwice(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		receiver := receivertest.New(t, receivertest.Default(receivertest.Delay(50*time.Millisecond, receivertest.Status(http.StatusOK))))
		env := apptest.Environment(t, stack)
		env["LISTEN_ADDR"] = freeAddr(t)
		server := start(t, env, "serve")
		client := apptest.NewClient(server.url(), env["ADMIN_API_KEY"])
		subscribe(t, client, receiver, nil)
		const events = 200
		for round := range 4 {
			for n := range events / 4 {
				require.Equal(t, 1, emit(t, client, message(map[string]any{"round": round, "n": n})).Matched)
			}
			server.stop()
			server = start(t, env, "serve")
			server.url()
		}
		apptest.EventuallyWithin(t, time.Minute, func() (bool, string) {
			n := len(receiver.Requests())
			return n >= events, fmt.Sprintf("%d requests", n)
		})
		apptest.Eventually(t, func() (bool, string) {
			open := deliveries(t, client, map[string]any{"statuses": []string{"PENDING", "RETRYING"}})
			return len(open) == 0, fmt.Sprintf("%d open", len(open))
		})
		seen := map[string]bool{}
		for _, r := range receiver.Requests() {
			require.False(t, seen[r.ID()], "sent twice")
			seen[r.ID()] = true
		}
		server.stop()
	})
}

func TestH1_BadInputIsAnsweredWithItsCode(t *testing.T) {
	t.Parallel()
	server := apptest.Start(t, apptest.Embedded, nil)
	post := func(key, contentType, body string) (int, apptest.Answer) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/graphql", strings.NewReader(body))
		require.NoError(t, err)
		request.Header.Set("Content-Type", contentType)
		if key != "" {
			request.Header.Set("Authorization", "Bearer "+key)
		}
		response, err := server.HTTP.Do(request)
		require.NoError(t, err)
		defer func() { _ = response.Body.Close() }()
		var a apptest.Answer
		require.NoError(t, json.NewDecoder(response.Body).Decode(&a))
		return response.StatusCode, a
	}
	const ok = `{"query":"{ viewer { tenant } }"}`
	query := func(q string) string {
		b, err := json.Marshal(map[string]string{"query": q})
		require.NoError(t, err)
		return string(b)
	}
	tests := map[string]struct {
		key, contentType, body string
		status                 int
		code                   string
	}{
		"no key":             {"", "application/json", ok, 401, "UNAUTHENTICATED"},
		"unknown key":        {"iwk_nope", "application/json", ok, 401, "UNAUTHENTICATED"},
		"content type":       {server.Key, "text/plain", ok, 415, "BAD_REQUEST"},
		"broken JSON":        {server.Key, "application/json", `{"query": "{ viewer`, 400, "BAD_REQUEST"},
		"text after":         {server.Key, "application/json", ok + ok, 400, "BAD_REQUEST"},
		"a batch":            {server.Key, "application/json", `[` + ok + `]`, 400, "BAD_REQUEST"},
		"broken document":    {server.Key, "application/json", query(`{ viewer {`), 0, "GRAPHQL_PARSE_FAILED"},
		"unknown field":      {server.Key, "application/json", query(`{ viewer { nope } }`), 0, "GRAPHQL_VALIDATION_FAILED"},
		"first and last":     {server.Key, "application/json", query(`{ deliveries(first: 1, last: 1) { nodes { id } } }`), 200, "BAD_REQUEST"},
		"101 a page":         {server.Key, "application/json", query(`{ deliveries(first: 101) { nodes { id } } }`), 200, "BAD_REQUEST"},
		"negative page":      {server.Key, "application/json", query(`{ deliveries(first: -1) { nodes { id } } }`), 200, "BAD_REQUEST"},
		"bad cursor":         {server.Key, "application/json", query(`{ deliveries(after: "nope") { nodes { id } } }`), 200, "BAD_REQUEST"},
		"id and external id": {server.Key, "application/json", query(`{ webhook(id: "x", externalId: "y") { id } }`), 200, "BAD_REQUEST"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, a := post(test.key, test.contentType, test.body)
			require.Equal(t, []string{test.code}, a.Codes(), "%+v", a)
			if test.status != 0 {
				require.Equal(t, test.status, status)
			}
		})
	}
	var out struct {
		Webhook, Event, Delivery, Node any
		EmitEvent                      emitted
	}
	server.Query(t, `{ webhook(id: "wh_nope") { id } event(id: "x") { id } delivery(id: "dlv_00000000000000000000000000") { id } node(id: "") { id } }`, nil, &out)
	require.Nil(t, out.Webhook)
	require.Nil(t, out.Event)
	require.Nil(t, out.Delivery)
	require.Nil(t, out.Node)
	for name, data := range map[string]any{"a list": []int{1}, "a string": "x", "a number": 1, "null": nil} {
		a, err := server.Post(t.Context(), `mutation($data: JSON!) { emitEvent(input: {eventType: "message.sent", data: $data}) { event { id } userErrors { code field } } }`, map[string]any{"data": data})
		require.NoError(t, err)
		require.Empty(t, eventID(a.Data), name)
		if data != nil {
			require.Contains(t, string(a.Body), `"INVALID"`, name)
		}
	}
}
