package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/signing"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// with is env with more variables.
func with(env map[string]string, more map[string]string) map[string]string {
	out := maps.Clone(env)
	maps.Copy(out, more)
	return out
}

// Fault 45: a server that could not open what is stored says so in one line and does not start.
func TestFault45_AWrongOrMissingMasterKeyStopsTheStart(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		env := apptest.Environment(t, stack)
		server := start(t, env, "serve")
		create(t, apptest.NewClient(server.url(), env["ADMIN_API_KEY"]), map[string]any{
			"name": "w", "targetUrl": "https://example.com/", "eventTypes": []string{"*"},
		})
		server.stop()

		right, wrong := env["SECRETS_KEY"], signing.GenerateMasterKey()
		refused := func(env map[string]string, role, want string) {
			t.Helper()
			code, _, stderr := ended(t, env, role)
			require.NotZero(t, code)
			var said []string
			for line := range strings.Lines(stderr) {
				if strings.HasPrefix(line, "webhooks: ") {
					said = append(said, line)
				}
			}
			require.Len(t, said, 1, stderr)
			require.Contains(t, said[0], want)
			require.Contains(t, said[0], "SECRETS_KEY")
			for _, key := range []string{right, wrong} {
				require.NotContains(t, stderr, key)
			}
		}
		ring, err := signing.ParseKeyring(right)
		require.NoError(t, err)
		for _, role := range []string{"serve", "api", "worker"} {
			refused(with(env, map[string]string{"SECRETS_KEY": wrong}), role, ring.PrimaryID())
		}
		missing := with(env, nil)
		delete(missing, "SECRETS_KEY")
		if stack == apptest.Production {
			refused(missing, "serve", "required with DATABASE_URL")
		} else {
			refused(missing, "serve", filepath.Join(env["DATA_DIR"], "secrets.key"))
			require.NoError(t, os.WriteFile(filepath.Join(env["DATA_DIR"], "secrets.key"), []byte(right+"\n"), 0o600))
			server = start(t, missing, "serve")
			server.url()
			server.stop()
		}
		server = start(t, with(env, map[string]string{"SECRETS_KEY": wrong + "," + right}), "serve")
		server.url()
		server.stop()
	})
}

// Fault 45: the master key is replaced while a process is still on the old one. Nothing is lost,
// nothing goes out unsigned, and in the end the old key is needed no more.
func TestFault45_TheMasterKeyIsReplacedBesideTraffic(t *testing.T) {
	t.Parallel()
	env := apptest.Environment(t, apptest.Production)
	oldKey, newKey := env["SECRETS_KEY"], signing.GenerateMasterKey()
	behind := start(t, env, "serve")
	ahead := start(t, with(env, map[string]string{"SECRETS_KEY": newKey + "," + oldKey, "DATA_DIR": t.TempDir()}), "serve")
	before := apptest.NewClient(behind.url(), env["ADMIN_API_KEY"])
	after := apptest.NewClient(ahead.url(), env["ADMIN_API_KEY"])

	const header = "planted-value-of-a-header"
	more := map[string]any{"headers": []map[string]any{{"name": "x-api-key", "value": header}}}
	receivers := []*receivertest.Receiver{receivertest.New(t), receivertest.New(t), receivertest.New(t)}
	subscribe(t, before, receivers[0], more)                    // sealed with the old key
	ids := []string{subscribe(t, after, receivers[1], more).ID} // sealed with the new one: one process cannot open it
	pair := create(t, before, map[string]any{"name": "pair", "targetUrl": receivers[2].URL(), "eventTypes": []string{"*"}, "signing": "ED25519"})
	receivers[2].Secret(publicKey(t, before, pair.Webhook.ID))
	for n := range 20 {
		api := before
		if n%2 == 1 {
			api = after
		}
		emit(t, api, message(map[string]any{"n": n}))
	}
	come := func(n int, which ...int) {
		t.Helper()
		for _, i := range which {
			r := receivers[i]
			apptest.EventuallyWithin(t, time.Minute, func() (bool, string) {
				return len(r.Requests()) >= n, fmt.Sprintf("receiver %d got %d of %d", i, len(r.Requests()), n)
			})
			for _, request := range r.Requests() {
				require.NoError(t, request.SignatureErr, "receiver %d", i)
				if i < 2 {
					require.Equal(t, header, request.Header.Get("x-api-key"))
				}
			}
		}
	}
	// What the process behind cannot open, it hands back; the others' is not held up by it.
	come(20, 0, 2)

	// The process behind cannot start again, but with both keys it can, and then nothing is missing.
	behind.stop()
	code, _, stderr := ended(t, env, "serve")
	require.NotZero(t, code)
	require.Contains(t, stderr, "SECRETS_KEY")
	behind = start(t, with(env, map[string]string{"SECRETS_KEY": newKey + ", " + oldKey}), "serve")
	come(20, 0, 1, 2)
	before = apptest.NewClient(behind.url(), env["ADMIN_API_KEY"])

	// Sealed anew beside the servers and their traffic.
	emit(t, before, message(map[string]any{"n": 20}))
	code, stdout, stderr := ended(t, with(env, map[string]string{"SECRETS_KEY": newKey + "," + oldKey}), "keys", "reseal", "--json")
	require.Zero(t, code, stderr)
	var summary struct{ Webhooks, Looked, Resealed, Failed int }
	require.NoError(t, json.Unmarshal([]byte(stdout), &summary))
	require.Equal(t, 3, summary.Looked)
	require.Equal(t, 2, summary.Resealed)
	require.Zero(t, summary.Failed)
	require.Contains(t, stderr, "3 of 3 webhooks, 2 sealed anew")
	for _, key := range []string{oldKey, newKey} {
		require.NotContains(t, stdout+stderr, key)
	}
	code, stdout, _ = ended(t, with(env, map[string]string{"SECRETS_KEY": newKey}), "keys", "reseal")
	require.Zero(t, code)
	require.Contains(t, stdout, "0 webhooks sealed anew")
	code, _, stderr = ended(t, env, "keys", "reseal")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "SECRETS_KEY lacks the master key")

	// Without the old key everything goes on.
	behind.stop()
	ahead.stop()
	server := start(t, with(env, map[string]string{"SECRETS_KEY": newKey}), "serve")
	api := apptest.NewClient(server.url(), env["ADMIN_API_KEY"])
	e := emit(t, api, message(map[string]any{"n": 21}))
	come(22, 0, 1, 2)
	apptest.Eventually(t, func() (bool, string) {
		list := deliveries(t, api, map[string]any{"eventId": e.Event.ID, "webhookId": ids[0]})
		return len(list) == 1 && list[0].Status == "SUCCEEDED", "not recorded yet"
	})
	server.stop()
}

// publicKey reads the key that verifies an ED25519 webhook's requests.
func publicKey(t testing.TB, api *apptest.Client, id string) string {
	t.Helper()
	var out struct{ Webhook struct{ PublicKey string } }
	api.Query(t, `query($id: ID!) { webhook(id: $id) { publicKey } }`, map[string]any{"id": id}, &out)
	require.NotEmpty(t, out.Webhook.PublicKey)
	return out.Webhook.PublicKey
}
