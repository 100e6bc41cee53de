package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

type contact struct {
	ID    string   `json:"id"`
	Name  string   `json:"name"`
	Email string   `json:"email"`
	Phone string   `json:"phone"`
	Notes []string `json:"notes"`
}

// startCRM builds and runs the example receiver on a free port and gives its address.
func startCRM(t *testing.T, secret string) (url string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "crm")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../examples/crm")
	build.Stderr = os.Stderr
	require.NoError(t, build.Run())
	addr := freeAddr(t)
	startProgram(t, program, map[string]string{"WEBHOOK_SECRET": secret, "CRM_ADDR": addr})
	url = "http://" + addr
	apptest.Eventually(t, func() (bool, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/contacts", nil)
		require.NoError(t, err)
		response, err := (&http.Client{}).Do(request)
		if err != nil {
			return false, err.Error()
		}
		return response.Body.Close() == nil, ""
	})
	return url
}

func contacts(t *testing.T, crm string) []contact {
	t.Helper()
	_, body := get(t, crm+"/contacts", nil)
	var list []contact
	require.NoError(t, json.Unmarshal([]byte(body), &list))
	return list
}

// The story that the product exists for: a CRM that mirrors the participants.
func TestCRMMirrorsParticipants(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		env := apptest.Environment(t, stack)
		server := start(t, env, "serve")
		api := apptest.NewClient(server.url(), env["ADMIN_API_KEY"])

		// The CRM needs the key to start and the webhook needs the CRM's address: reserve it first.
		gate := receivertest.New(t)
		var created struct {
			CreateWebhook struct {
				Webhook    struct{ ID, SecretKeyHint string }
				SecretKey  string
				UserErrors []any
			}
		}
		api.Query(t, `mutation($url: URL!) { createWebhook(input: {name: "CRM Sync", targetUrl: $url,
			eventTypes: ["participant.created", "participant.profile_updated"]}) {
			webhook { id secretKeyHint } secretKey userErrors { code message field } } }`,
			map[string]any{"url": gate.URL()}, &created)
		require.Empty(t, created.CreateWebhook.UserErrors)
		secret := created.CreateWebhook.SecretKey
		crm := startCRM(t, secret)
		api.Query(t, `mutation($id: ID!, $url: URL!) { updateWebhook(id: $id, input: {targetUrl: $url}) { userErrors { message } } }`,
			map[string]any{"id": created.CreateWebhook.Webhook.ID, "url": crm + "/webhooks"}, nil)

		emit := func(eventType string, data map[string]any) (id string, matched int) {
			t.Helper()
			var out struct {
				EmitEvent struct {
					Event      *struct{ ID string }
					Matched    int
					UserErrors []struct{ Message string }
				}
			}
			api.Query(t, `mutation($type: String!, $data: JSON!) { emitEvent(input: {eventType: $type, data: $data}) {
				event { id } matched userErrors { message } } }`, map[string]any{"type": eventType, "data": data}, &out)
			require.Empty(t, out.EmitEvent.UserErrors)
			return out.EmitEvent.Event.ID, out.EmitEvent.Matched
		}
		until := func(want contact) {
			t.Helper()
			apptest.Eventually(t, func() (bool, string) {
				list := contacts(t, crm)
				got, err := json.Marshal(list)
				require.NoError(t, err)
				expected, err := json.Marshal([]contact{want})
				require.NoError(t, err)
				return bytes.Equal(got, expected), string(got)
			})
		}

		participant := map[string]any{"id": "prt_1", "name": "Ada Byron", "email": "ada@example.com", "phone": "+44 20 7946 0123"}
		createdID, matched := emit("participant.created", map[string]any{"participant": participant})
		require.Equal(t, 1, matched)
		until(contact{ID: "prt_1", Name: "Ada Byron", Email: "ada@example.com", Phone: "+44 20 7946 0123"})

		participant["phone"] = "+44 20 7946 0999"
		_, matched = emit("participant.profile_updated", map[string]any{
			"participant": participant,
			"changes":     []map[string]any{{"field": "phone", "before": "+44 20 7946 0123", "after": "+44 20 7946 0999"}},
		})
		require.Equal(t, 1, matched)
		until(contact{
			ID: "prt_1", Name: "Ada Byron", Email: "ada@example.com", Phone: "+44 20 7946 0999",
			Notes: []string{"phone: +44 20 7946 0123 → +44 20 7946 0999"},
		})

		// Not selected: nobody gets it, and history says so.
		messageID, matched := emit("message.sent", map[string]any{"message": map[string]any{"id": "msg_1", "content": "Hello"}})
		require.Zero(t, matched)
		var none struct {
			Event struct{ Deliveries struct{ Nodes []any } }
		}
		api.Query(t, `query($id: ID!) { event(id: $id) { deliveries { nodes { id } } } }`, map[string]any{"id": messageID}, &none)
		require.Empty(t, none.Event.Deliveries.Nodes)

		refusals(t, crm+"/webhooks", secret)
		require.Len(t, contacts(t, crm), 1, "what was refused changed nothing")

		// The history tells the whole of it.
		var history struct {
			Event struct {
				Deliveries struct {
					Nodes []struct {
						Status   string
						Attempts []struct {
							Number  int
							Outcome string
							Request struct {
								Body    string
								Headers []struct{ Name, Value string }
							}
							Response struct{ Status int }
							Timing   struct{ TotalMs float64 }
						}
					}
				}
			}
		}
		// The CRM knows of it a moment before its success is recorded.
		apptest.Eventually(t, func() (bool, string) {
			api.Query(t, `query($id: ID!) { event(id: $id) { deliveries { nodes { status attempts { number outcome
				request { body headers { name value } } response { status } timing { totalMs } } } } } }`, map[string]any{"id": createdID}, &history)
			return len(history.Event.Deliveries.Nodes) == 1 && history.Event.Deliveries.Nodes[0].Status == "SUCCEEDED", "delivery not recorded yet"
		})
		attempt := history.Event.Deliveries.Nodes[0].Attempts[0]
		require.Equal(t, "SUCCESS", attempt.Outcome)
		require.Equal(t, http.StatusNoContent, attempt.Response.Status)
		require.Positive(t, attempt.Timing.TotalMs)
		header := http.Header{}
		for _, h := range attempt.Request.Headers {
			header.Set(h.Name, h.Value)
		}
		verifier, err := standardwebhooks.NewWebhook(secret)
		require.NoError(t, err)
		require.NoError(t, verifier.Verify([]byte(attempt.Request.Body), header), "history's request verifies as it was sent")
		server.stop()
	})
}

// refusals plays a forged, a changed and an old request to a receiver that must refuse each.
func refusals(t *testing.T, url, secret string) {
	t.Helper()
	signer, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	forger, err := standardwebhooks.NewWebhook("whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	require.NoError(t, err)
	body := []byte(`{"type":"participant.created","timestamp":"2026-01-01T00:00:00Z","data":{"participant":{"id":"prt_evil","name":"Mallory"}}}`)
	post := func(by *standardwebhooks.Webhook, at time.Time, signed, sent []byte) int {
		t.Helper()
		signature, err := by.Sign("evt_forged", at, signed)
		require.NoError(t, err)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(sent))
		require.NoError(t, err)
		request.Header.Set("webhook-id", "evt_forged")
		request.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
		request.Header.Set("webhook-signature", signature)
		response, err := (&http.Client{}).Do(request)
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, response.Body)
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}
	changed := bytes.Replace(body, []byte("prt_evil"), []byte("prt_good"), 1)
	require.Equal(t, http.StatusUnauthorized, post(forger, time.Now(), body, body), "forged with another key")
	require.Equal(t, http.StatusUnauthorized, post(signer, time.Now(), body, changed), "changed on the way")
	require.Equal(t, http.StatusUnauthorized, post(signer, time.Now().Add(-10*time.Minute), body, body), "an old one, played again")
}
