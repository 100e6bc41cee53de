package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/signing"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// pairOf is what the API says about an ED25519 webhook's keys.
type pairOf struct {
	ID, Signing                string
	PublicKey, SecretKeyHint   *string
	PreviousSecretKeyExpiresAt *time.Time
}

const pairFields = `id signing publicKey secretKeyHint previousSecretKeyExpiresAt`

func readPair(t testing.TB, api *apptest.Client, id string) pairOf {
	t.Helper()
	var out struct{ Webhook pairOf }
	api.Query(t, `query($id: ID!) { webhook(id: $id) { `+pairFields+` } }`, map[string]any{"id": id}, &out)
	return out.Webhook
}

// published are the keys that anyone who knows the webhook's id can read, in the API's form.
func published(t testing.TB, url, id string) (status int, keys []string, raw string) {
	t.Helper()
	status, raw = get(t, url+"/.well-known/webhook-keys/"+id, nil)
	if status != http.StatusOK {
		return status, nil, raw
	}
	var set struct {
		Keys []struct{ Kty, Crv, X, Use, Alg, D string }
	}
	require.NoError(t, json.Unmarshal([]byte(raw), &set))
	for _, k := range set.Keys {
		require.Equal(t, []string{"OKP", "Ed25519", "sig", "EdDSA", ""}, []string{k.Kty, k.Crv, k.Use, k.Alg, k.D})
		public, err := base64.RawURLEncoding.DecodeString(k.X)
		require.NoError(t, err)
		keys = append(keys, "whpk_"+base64.StdEncoding.EncodeToString(public))
	}
	return status, keys, raw
}

func TestS3_Ed25519SignsRotatesAndPublishesItsKeys(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, nil)
		receiver := receivertest.New(t)
		c := create(t, server.Client, map[string]any{"name": "pair", "targetUrl": receiver.URL(), "eventTypes": []string{"*"}, "signing": "ED25519"})
		require.Empty(t, c.UserErrors)
		require.Empty(t, c.SecretKey, "the private half is never shown, not even at creation")
		first := readPair(t, server.Client, c.Webhook.ID)
		require.Equal(t, "ED25519", first.Signing)
		require.Nil(t, first.SecretKeyHint)
		require.Nil(t, first.PreviousSecretKeyExpiresAt)
		public, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(*first.PublicKey, "whpk_"))
		require.NoError(t, err)
		require.Len(t, public, 32)

		sent := 0
		// sends emits an event and checks who signed the request.
		sends := func(by ...string) {
			t.Helper()
			receiver.Secret(by...)
			emit(t, server.Client, message(map[string]any{"n": sent}))
			sent++
			request := receiver.Wait(t, sent)[sent-1]
			require.NoError(t, request.SignatureErr)
			entries := strings.Fields(request.Header.Get(signing.HeaderSignature))
			require.Len(t, entries, len(by))
			for n, key := range by {
				require.True(t, strings.HasPrefix(entries[n], "v1a,"))
				require.NoError(t, signing.Verify(key, request.Header, request.Body, time.Now(), signing.DefaultTolerance))
			}
			require.Error(t, signing.Verify(by[0], request.Header, append(request.Body, ' '), time.Now(), signing.DefaultTolerance))
		}
		rotate := func(overlap string) pairOf {
			t.Helper()
			var out struct {
				RotateWebhookSecretKey struct {
					SecretKey *string
					Webhook   pairOf
				}
			}
			server.Query(t, `mutation($id: ID!, $overlap: Duration!) { rotateWebhookSecretKey(id: $id, overlap: $overlap) { secretKey webhook { `+pairFields+` } } }`,
				map[string]any{"id": c.Webhook.ID, "overlap": overlap}, &out)
			require.Nil(t, out.RotateWebhookSecretKey.SecretKey)
			return out.RotateWebhookSecretKey.Webhook
		}
		shown := func(want ...string) {
			t.Helper()
			_, keys, _ := published(t, server.URL, c.Webhook.ID)
			require.Equal(t, want, keys)
		}
		sends(*first.PublicKey)
		shown(*first.PublicKey)

		second := rotate("PT24H")
		require.NotEqual(t, *first.PublicKey, *second.PublicKey)
		require.NotNil(t, second.PreviousSecretKeyExpiresAt)
		sends(*second.PublicKey, *first.PublicKey)
		shown(*second.PublicKey, *first.PublicKey)

		// A short overlap ends by itself, everywhere.
		third := rotate("PT1S")
		shown(*third.PublicKey, *second.PublicKey)
		apptest.Eventually(t, func() (bool, string) {
			return readPair(t, server.Client, c.Webhook.ID).PreviousSecretKeyExpiresAt == nil, "the previous key is not past yet"
		})
		sends(*third.PublicKey)
		shown(*third.PublicKey)

		// Everything that is no ED25519 webhook answers alike.
		hmac := create(t, server.Client, map[string]any{"name": "hmac", "targetUrl": receiver.URL(), "eventTypes": []string{"participant.created"}})
		server.Query(t, `mutation($id: ID!) { deleteWebhook(id: $id) { deletedId } }`, map[string]any{"id": c.Webhook.ID}, nil)
		_, _, want := published(t, server.URL, models.NewID(models.PrefixWebhook))
		for _, id := range []string{c.Webhook.ID, hmac.Webhook.ID, "wh_x", "x"} {
			status, _, raw := published(t, server.URL, id)
			require.Equal(t, http.StatusNotFound, status, id)
			require.Equal(t, want, raw, id)
		}
	})
}

// codeBlock is the first block of code in a language that a document shows.
func codeBlock(t testing.TB, document, language string) []byte {
	t.Helper()
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(text), "```"+language+"\n")
	require.True(t, ok)
	code, _, ok := strings.Cut(rest, "\n```")
	require.True(t, ok)
	return []byte(code + "\n")
}

// What docs/verify-ed25519.md shows is what it says: both programs accept a real delivery, with the
// webhook's key and with the published set, and refuse one that was changed.
func TestS3_TheDocumentedVerifiersAcceptARealDelivery(t *testing.T) {
	t.Parallel()
	const document = "../docs/verify-ed25519.md"
	server := apptest.Start(t, apptest.Embedded, nil)
	receiver := receivertest.New(t)
	c := create(t, server.Client, map[string]any{"name": "pair", "targetUrl": receiver.URL(), "eventTypes": []string{"*"}, "signing": "ED25519"})
	key := publicKey(t, server.Client, c.Webhook.ID)
	_, _, set := published(t, server.URL, c.Webhook.ID)
	emit(t, server.Client, message(map[string]any{"text": "Zoë <&> 🙂"}))
	request := receiver.Wait(t, 1)[0]
	headers := map[string]string{}
	for name := range request.Header {
		headers[strings.ToLower(name)] = request.Header.Get(name)
	}
	other, err := signing.NewSecretKey(signing.Ed25519)
	require.NoError(t, err)

	dir := t.TempDir()
	verifier := filepath.Join(dir, "verifier")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), codeBlock(t, document, "go"), 0o600))
	build := exec.CommandContext(t.Context(), "go", "build", "-o", verifier, filepath.Join(dir, "main.go"))
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "verify.mjs"), codeBlock(t, document, "js"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.mjs"), []byte(`import { publicKey, verifyWebhook } from "./verify.mjs";
let text = "";
for await (const chunk of process.stdin) text += chunk;
const { headers, body } = JSON.parse(text);
try {
  const keys = process.argv.slice(2).flatMap((arg) => arg.startsWith("{") ? JSON.parse(arg).keys : [arg]);
  verifyWebhook(keys.map(publicKey), headers, Buffer.from(body));
  console.log("genuine");
} catch (error) {
  console.log(error.message);
  process.exitCode = 1;
}
`), 0o600))

	run := func(headers map[string]string, body string, command ...string) string {
		t.Helper()
		input, err := json.Marshal(map[string]any{"headers": headers, "body": body})
		require.NoError(t, err)
		cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
		cmd.Stdin = bytes.NewReader(input)
		out, err := cmd.CombinedOutput()
		require.Equal(t, err == nil, strings.TrimSpace(string(out)) == "genuine", "%s", out)
		return strings.TrimSpace(string(out))
	}
	changed := func(name, value string) map[string]string {
		copied := map[string]string{}
		maps.Copy(copied, headers)
		copied[name] = value
		return copied
	}
	body := string(request.Body)
	for _, program := range [][]string{{verifier}, {"node", filepath.Join(dir, "main.mjs")}} {
		by := func(keys ...string) []string { return append(append([]string{}, program...), keys...) }
		require.Equal(t, "genuine", run(headers, body, by(key)...))
		require.Equal(t, "genuine", run(headers, body, by(other.PublicKey(), key)...), "while a key is rotated")
		require.Contains(t, run(headers, body, by(other.PublicKey())...), "no signature matches")
		require.Contains(t, run(headers, body+" ", by(key)...), "no signature matches")
		require.Contains(t, run(changed("webhook-id", "evt_other"), body, by(key)...), "no signature matches")
		require.Contains(t, run(changed("webhook-timestamp", "1"), body, by(key)...), "timestamp")
		require.Contains(t, run(changed("webhook-signature", ""), body, by(key)...), "missing")
	}
	require.Equal(t, "genuine", run(headers, body, "node", filepath.Join(dir, "main.mjs"), set))
}
