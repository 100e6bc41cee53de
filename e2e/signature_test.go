package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// javascript runs a script of e2e/javascript with input on its standard input.
func javascript(t *testing.T, script string, input any) (code int, stdout string) {
	t.Helper()
	text, err := json.Marshal(input)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "node", script)
	cmd.Dir = "javascript"
	cmd.Stdin = bytes.NewReader(text)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if exit := (&exec.ExitError{}); err != nil {
		require.ErrorAs(t, err, &exit)
		return exit.ExitCode(), strings.TrimSpace(string(out))
	}
	return 0, strings.TrimSpace(string(out))
}

// npmInstall installs what e2e/javascript needs, once for all tests, and without running any of it.
var npmInstall = sync.OnceValues(func() ([]byte, error) {
	cmd := exec.CommandContext(context.Background(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = "javascript"
	return cmd.CombinedOutput()
})

func installJavaScript(t *testing.T) {
	t.Helper()
	out, err := npmInstall()
	require.NoError(t, err, "%s", out)
}

// S1: what is sent verifies with the reference libraries and with svix's, and not when changed.
func TestS1_TheReferenceLibrariesAcceptTheSignature(t *testing.T) {
	t.Parallel()
	installJavaScript(t)
	receiver := receivertest.New(t)
	server := apptest.Start(t, apptest.Embedded, nil)
	var created struct{ CreateWebhook struct{ SecretKey string } }
	server.Query(t, `mutation($url: URL!) { createWebhook(input: {name: "verified", targetUrl: $url, eventTypes: ["*"]}) { secretKey } }`,
		map[string]any{"url": receiver.URL()}, &created)
	secret := created.CreateWebhook.SecretKey
	// Bytes that a careless re-encoding would change.
	const data = `{"big":9223372036854775808,"price":1.10,"text":"<&> \u00e9 é 😀","nested":{"b":1,"a":[null,true]}}`
	a, err := server.PostRaw(t.Context(), []byte(`{"query":"mutation($data: JSON!) { emitEvent(input: {eventType: \"message.sent\", data: $data}) { event { id } } }","variables":{"data":`+data+`}}`))
	require.NoError(t, err)
	require.Empty(t, a.Errors)
	request := receiver.Wait(t, 1)[0]
	require.Contains(t, string(request.Body), `"data":`+data, "the digits and characters that came (E6)")

	reference, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	require.NoError(t, reference.Verify(request.Body, request.Header))
	other, err := svix.NewWebhook(secret)
	require.NoError(t, err)
	renamed := http.Header{}
	for _, name := range []string{"id", "timestamp", "signature"} {
		renamed.Set("svix-"+name, request.Header.Get("webhook-"+name))
	}
	require.NoError(t, other.Verify(request.Body, renamed))

	headers := map[string]string{}
	for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
		headers[name] = request.Header.Get(name)
	}
	code, out := javascript(t, "verify.mjs", map[string]any{"secret": secret, "headers": headers, "body": string(request.Body)})
	require.Zero(t, code, out)
	require.Equal(t, "message.sent", out)
	code, _ = javascript(t, "verify.mjs", map[string]any{"secret": secret, "headers": headers, "body": string(request.Body) + " "})
	require.Equal(t, 1, code, "a changed body is refused")
}
