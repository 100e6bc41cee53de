package app_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// preview is the answer to previewDelivery.
type preview struct {
	Verdict *string
	Detail  *string
	Request *struct {
		Method, URL, Body string
		Headers           []struct {
			Name, Value string
			Masked      bool
		}
	}
	Curl       *string
	UserErrors []userError
}

func (p preview) headers() http.Header {
	h := http.Header{}
	for _, x := range p.Request.Headers {
		h.Set(x.Name, x.Value)
	}
	return h
}

func previewDelivery(t testing.TB, api *apptest.Client, input map[string]any) preview {
	t.Helper()
	var out struct{ PreviewDelivery preview }
	api.Query(t, `query($input: PreviewDeliveryInput!) { previewDelivery(input: $input) { verdict detail
		request { method url body headers { name value masked } } curl userErrors { code message field } } }`,
		map[string]any{"input": input}, &out)
	return out.PreviewDelivery
}

// What the preview shows is what a delivery then sends: every header and every byte of the body,
// but for the time of the attempt and what is signed with it.
func TestF3_PreviewIsWhatIsSent(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		created := create(t, s.Client, receiver.URL(), map[string]any{
			"eventTypes": []string{"participant.created", "message.sent"},
			"payloadQuery": `subscription { event {
				... on ParticipantCreated { who: participant { id name tags { name } attributes } }
				... on MessageSent { message { id } } } }`,
			"headers": []map[string]any{{"name": "X-Source", "value": "it's here"}, {"name": "Authorization", "value": "Bearer secret-value"}},
		})
		verifier, err := standardwebhooks.NewWebhook(*created.SecretKey)
		require.NoError(t, err)
		values := rapid.OneOf(
			rapid.Map(rapid.String(), func(text string) string {
				b, _ := json.Marshal(text) // a string always encodes
				return string(b)
			}),
			rapid.SampledFrom([]string{"null", "9223372036854775808", "1.10", "1e400", "-0", "[]", "{}", `"<&>"`, `"\u003c"`, `[{"name":"x"},null]`}),
		)
		for n := range 12 {
			data := `{"participant":{"name":` + values.Example(n) + `,"id":` + values.Example(100+n) + `,"attributes":` + values.Example(200+n) +
				`,"tags":` + values.Example(300+n) + `},"more":` + values.Example(400+n) + `}`
			id := emit(t, s.Client, "participant.created", data)
			var sent receivertest.Request
			for _, r := range receiver.WaitFor(t, "the event", func([]receivertest.Request) bool { return len(receiver.ByID(id)) > 0 }) {
				if r.ID() == id {
					sent = r
				}
			}
			shown := previewDelivery(t, s.Client, map[string]any{"webhookId": created.Webhook.ID, "eventId": id})
			require.Empty(t, shown.UserErrors)
			require.Equal(t, "MATCHED", *shown.Verdict)
			require.Equal(t, string(sent.Body), shown.Request.Body)
			require.Equal(t, receiver.URL(), shown.Request.URL)
			require.Equal(t, http.MethodPost, shown.Request.Method)
			headers := shown.headers()
			for name := range headers {
				switch strings.ToLower(name) {
				case "webhook-timestamp", "webhook-signature":
				case "authorization":
					require.Equal(t, "********", headers.Get(name))
				default:
					require.Equal(t, sent.Header.Get(name), headers.Get(name), name)
				}
			}
			require.NoError(t, verifier.Verify([]byte(shown.Request.Body), headers), "the signature is the webhook's own")
			require.NotContains(t, *shown.Curl, "secret-value")
			require.NotContains(t, *shown.Curl, *created.SecretKey)
		}
	})
}

// The command that the preview shows sends what the preview shows.
func TestF3_CurlSendsThePreview(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	require.NoError(t, err, "curl is needed for this test")
	s := apptest.Start(t, apptest.Embedded, nil)
	receiver := receivertest.New(t)
	created := create(t, s.Client, receiver.URL(), nil)
	receiver.Secret(*created.SecretKey)
	shown := previewDelivery(t, s.Client, map[string]any{"webhookId": created.Webhook.ID, "event": map[string]any{
		"eventType": "message.sent", "data": json.RawMessage(`{"text":"it's 1.10 € \\ $HOME"}`),
	}})
	require.Empty(t, receiver.Requests(), "nothing is sent")
	command := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(*shown.Curl, "curl ", curl+" --silent --show-error --noproxy '*' ", 1))
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	sent := receiver.Wait(t, 1)[0]
	require.Equal(t, shown.Request.Body, string(sent.Body))
	require.NoError(t, sent.SignatureErr)
}

func TestF3_Preview(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		acme, rival := tenantKey(t, s.Client, "acme", "MANAGE", "EMIT"), tenantKey(t, s.Client, "rival", "MANAGE", "EMIT")
		w := create(t, acme, receiver.URL(), map[string]any{"eventTypes": []string{"participant.created"}, "filter": "data.participant.id == 'p1'"}).Webhook.ID
		id := emit(t, acme, "participant.created", `{"participant":{"id":"p2"}}`)
		draft := func(more map[string]any) map[string]any {
			input := map[string]any{"name": "draft", "targetUrl": receiver.URL(), "eventTypes": []string{"*"}}
			maps.Copy(input, more)
			return input
		}
		event := map[string]any{"eventType": "participant.created", "data": json.RawMessage(`{"participant":{"id":"p1"}}`)}

		for name, tc := range map[string]struct {
			input   map[string]any
			verdict string
			sends   bool
		}{
			"saved and stored":          {map[string]any{"webhookId": w, "eventId": id}, "FILTERED_OUT", false},
			"saved and given":           {map[string]any{"webhookId": w, "event": event}, "MATCHED", true},
			"unsaved and stored":        {map[string]any{"webhook": draft(nil), "eventId": id}, "MATCHED", true},
			"unsaved and given":         {map[string]any{"webhook": draft(map[string]any{"signing": "ED25519"}), "event": event}, "MATCHED", true},
			"not subscribed":            {map[string]any{"webhook": draft(map[string]any{"eventTypes": []string{"message.*"}}), "event": event}, "NOT_SUBSCRIBED", false},
			"a filter that fails":       {map[string]any{"webhook": draft(map[string]any{"filter": "data.nothing.here"}), "event": event}, "FILTER_ERROR", false},
			"an external id once taken": {map[string]any{"webhook": draft(map[string]any{"externalId": "x"}), "event": event}, "MATCHED", true},
		} {
			got := previewDelivery(t, acme, tc.input)
			require.Empty(t, got.UserErrors, name)
			require.Equal(t, tc.verdict, *got.Verdict, name)
			require.Equal(t, tc.sends, got.Request != nil && got.Curl != nil, name)
			if tc.sends {
				at, err := strconv.ParseInt(got.headers().Get("webhook-timestamp"), 10, 64)
				require.NoError(t, err, name)
				require.WithinDuration(t, time.Now(), time.Unix(at, 0), time.Minute, name)
			}
		}
		acme.Query(t, `mutation($id: ID!) { pauseWebhook(id: $id) { userErrors { message } } }`, map[string]any{"id": w}, nil)
		require.Equal(t, "PAUSED", *previewDelivery(t, acme, map[string]any{"webhookId": w, "event": event}).Verdict)

		other := create(t, rival, receiver.URL(), nil).Webhook.ID
		theirs := emit(t, rival, "message.sent", `{}`)
		erase := emit(t, acme, "message.sent", `{}`)
		acme.Query(t, eraseEvent, map[string]any{"id": erase}, nil)
		for name, tc := range map[string]struct {
			input map[string]any
			want  map[string]string // code by path
		}{
			"nothing":          {map[string]any{}, map[string]string{"input.webhookId": "REQUIRED", "input.eventId": "REQUIRED"}},
			"everything":       {map[string]any{"webhookId": w, "webhook": draft(nil), "eventId": id, "event": event}, map[string]string{"input.webhook": "INVALID", "input.event": "INVALID"}},
			"another tenant's": {map[string]any{"webhookId": other, "eventId": theirs}, map[string]string{"input.webhookId": "NOT_FOUND", "input.eventId": "NOT_FOUND"}},
			"erased":           {map[string]any{"webhookId": w, "eventId": erase}, map[string]string{"input.eventId": "NOT_ALLOWED_NOW"}},
			"all wrong": {
				map[string]any{
					"webhook": draft(map[string]any{"targetUrl": "nowhere", "filter": "data."}),
					"event":   map[string]any{"eventType": "no.such", "data": json.RawMessage(`[]`)},
				},
				map[string]string{
					"input.webhook.targetUrl": "INVALID", "input.webhook.filter": "INVALID_FILTER",
					"input.event.eventType": "UNKNOWN_EVENT_TYPE", "input.event.data": "INVALID",
				},
			},
		} {
			got := previewDelivery(t, acme, tc.input)
			require.Nil(t, got.Verdict, name)
			codes := map[string]string{}
			for _, e := range got.UserErrors {
				codes[strings.Join(e.Field, ".")] = e.Code
			}
			require.Equal(t, tc.want, codes, name)
		}
		mixed := previewDelivery(t, s.Client, map[string]any{"webhookId": w, "eventId": theirs})
		require.Equal(t, "INVALID", mixed.UserErrors[0].Code)

		a, err := tenantKey(t, s.Client, "acme", "READ").Post(t.Context(), `{ previewDelivery(input: {}) { verdict } }`, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"FORBIDDEN"}, a.Codes())
		a, err = acme.Post(t.Context(), `{ previewDelivery(input: {webhook: {name: "x", targetUrl: "https://example.com", eventTypes: ["*"], tenant: "rival"}, eventId: "x"}) { verdict } }`, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"FORBIDDEN"}, a.Codes())
	})
}

// A test is shaped as production would shape it, whatever the webhook's filter says, and so is what
// is sent again of it.
func TestW8_ATestIsShapedAsInProduction(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		s := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		created := create(t, s.Client, receiver.URL(), map[string]any{
			"eventTypes": []string{"participant.created"}, "filter": "data.participant.id == 'another'",
			"payloadQuery": "subscription { event { ... on ParticipantCreated { participant { id seats: attributes } } } }",
		})
		test := func(arguments string) string {
			var out struct {
				TestWebhook struct {
					Delivery   struct{ Event struct{ ID string } }
					UserErrors []userError
				}
			}
			s.Query(t, `mutation($id: ID!) { testWebhook(id: $id`+arguments+`) { delivery { event { id } } userErrors { code message field } } }`,
				map[string]any{"id": created.Webhook.ID}, &out)
			require.Empty(t, out.TestWebhook.UserErrors)
			return out.TestWebhook.Delivery.Event.ID
		}
		dataOf := func(n int) string {
			var body struct{ Data json.RawMessage }
			require.NoError(t, json.Unmarshal(receiver.Wait(t, n)[n-1].Body, &body))
			return string(body.Data)
		}
		test("")
		require.Equal(t, `{"participant":{"id":"prt_8f3k2m","seats":{"company":"Analytical Engines Ltd","plan":"trial","seats":5}}}`, dataOf(1)) //nolint:testifylint // the very bytes
		event := test(`, data: {participant: {id: "p_1", attributes: {rate: 1.10}, more: true}}`)
		require.Equal(t, `{"participant":{"id":"p_1","seats":{"rate":1.10}}}`, dataOf(2)) //nolint:testifylint // the very bytes

		ended := eventually(t, s.Client, event, "SUCCEEDED")
		s.Query(t, `mutation($id: ID!) { redeliver(deliveryId: $id) { delivery { id } } }`, map[string]any{"id": ended[0].ID}, nil)
		require.Equal(t, dataOf(2), dataOf(3))
	})
}
