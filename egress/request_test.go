package egress_test

import (
	"bytes"
	"encoding/base64"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/signing"
	"github.com/intervengine/webhooks/worker/receivertest"
)

var update = flag.Bool("update", false, "renew golden files")

func TestValidateHeader(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		name, value, says string
		ofValue           bool
	}{
		"plain":              {"X-Tenant", "t1", "", false},
		"authorization":      {"Authorization", "Bearer abc", "", false},
		"cookie":             {"Cookie", "a=b", "", false},
		"every token char":   {"!#$%&'*+-.^_`|~09azAZ", "v", "", false},
		"empty value":        {"X-Empty", "", "", false},
		"tab inside":         {"X-Tab", "a\tb", "", false},
		"name of 100":        {strings.Repeat("n", 100), "v", "", false},
		"value of 4,096":     {"X-Long", strings.Repeat("v", 4096), "", false},
		"empty name":         {"", "v", "empty", false},
		"name of 101":        {strings.Repeat("n", 101), "v", "at most 100", false},
		"value of 4,097":     {"X-Long", strings.Repeat("v", 4097), "at most 4,096", true},
		"space in name":      {"X Tenant", "v", "not allowed", false},
		"colon in name":      {"X-Tenant:", "v", "not allowed", false},
		"CR LF in name":      {"X-A\r\nX-B", "v", "not allowed", false},
		"non-ASCII name":     {"X-Ténant", "v", "not allowed", false},
		"CR in value":        {"X-A", "a\rb", "not allowed", true},
		"LF in value":        {"X-A", "a\nX-Evil: 1", "not allowed", true},
		"NUL in value":       {"X-A", "a\x00b", "not allowed", true},
		"DEL in value":       {"X-A", "a\x7fb", "not allowed", true},
		"non-ASCII value":    {"X-A", "é", "not allowed", true},
		"not UTF-8":          {"X-A", "\xff", "not allowed", true},
		"leading space":      {"X-A", " a", "begins or ends with a space", true},
		"trailing tab":       {"X-A", "a\t", "begins or ends with a space", true},
		"the mask":           {"Authorization", egress.Mask, "mask", true},
		"webhook-id":         {"webhook-id", "v", "reserved", false},
		"webhook-anything":   {"Webhook-Anything", "v", "reserved", false},
		"host":               {"HOST", "v", "reserved", false},
		"content-length":     {"Content-Length", "1", "reserved", false},
		"content-type":       {"Content-Type", "v", "reserved", false},
		"content-encoding":   {"Content-Encoding", "v", "reserved", false},
		"transfer-encoding":  {"Transfer-Encoding", "chunked", "reserved", false},
		"connection":         {"Connection", "close", "reserved", false},
		"keep-alive":         {"Keep-Alive", "v", "reserved", false},
		"user-agent":         {"User-Agent", "v", "reserved", false},
		"upgrade":            {"Upgrade", "h2c", "reserved", false},
		"http2-settings":     {"HTTP2-Settings", "v", "reserved", false},
		"te":                 {"TE", "trailers", "reserved", false},
		"trailer":            {"Trailer", "v", "reserved", false},
		"expect":             {"Expect", "100-continue", "reserved", false},
		"accept-encoding":    {"Accept-Encoding", "gzip", "reserved", false},
		"proxy-connection":   {"Proxy-Connection", "v", "reserved", false},
		"proxy-authenticate": {"Proxy-Authorization", "v", "reserved", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := egress.ValidateHeader(test.name, test.value)
			if test.says == "" {
				require.NoError(t, err)
				return
			}
			var headerError *egress.HeaderError
			require.ErrorAs(t, err, &headerError)
			require.Contains(t, headerError.Message, test.says)
			require.Equal(t, test.ofValue, headerError.OfValue)
		})
	}
}

func TestSensitiveHeader(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"Authorization", "proxy-authorization", "Cookie", "Set-Cookie", "X-API-Key", "x-auth-token", "X-Secret", "Ocp-Apim-Subscription-Key",
		"X-Amz-Security-Token", "X-Password", "X-Credential", "X-Session-Id", "X-Hub-Signature-256", "X-JWT", "Bearer", "X-HMAC", "X-CSRF", "X-Xsrf",
	} {
		require.True(t, egress.SensitiveHeader(name), name)
	}
	for _, name := range []string{"X-Tenant", "content-type", "user-agent", "webhook-id", "Webhook-Signature", "WWW-Authenticate", "Retry-After", "X-Request-Id"} {
		require.False(t, egress.SensitiveHeader(name), name)
	}
}

// Every header that validation accepts arrives as it was written.
func TestAcceptedHeadersArrive(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t)
	client := newClient(t, receiver)
	base := newRequest(t, receiver.URL(), ample)
	rapid.Check(t, func(t *rapid.T) {
		name := "X-" + rapid.StringMatching("[!#$%&'*+.^_`|~0-9a-zA-Z-]{1,20}").Draw(t, "name")
		value := rapid.StringMatching(`([!-~]([\t -~]{0,30}[!-~])?)?`).Draw(t, "value")
		if egress.ValidateHeader(name, value) != nil {
			t.Fatalf("%q: %q is refused", name, value)
		}
		request := base
		request.Headers = []egress.Header{{Name: name, Value: value}}
		if result := client.Do(t.Context(), request); result.Outcome != egress.Success {
			t.Fatalf("%s %s", result.Outcome, result.Error)
		}
		requests := receiver.Requests()
		if got := requests[len(requests)-1].Header.Get(name); got != value {
			t.Fatalf("%q: %q arrived as %q", name, value, got)
		}
	})
}

func knownRequest(t testing.TB) egress.Request {
	t.Helper()
	key, err := signing.ParseSecretKey("whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	require.NoError(t, err)
	return egress.Request{
		ID: "evt_0198c0ffee", Target: target(t, "https://example.com/hook?a[]=1"), Body: []byte(`{"type":"message.sent","data":{"text":"it's \"quoted\" $HOME <&> 🙂"}}`),
		Timestamp: time.Unix(1_700_000_000, 0), Signer: signing.NewSigner(key), Version: "1.2.3",
		Headers: []egress.Header{{Name: "X-Tenant", Value: "it's t1"}, {Name: "Authorization", Value: "Bearer canary"}, {Name: "X-Empty"}},
	}
}

func TestCurlGolden(t *testing.T) {
	t.Parallel()
	golden := filepath.Join("testdata", "curl.golden")
	got := knownRequest(t).Curl() + "\n"
	require.NotContains(t, got, "canary")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o750))
		require.NoError(t, os.WriteFile(golden, []byte(got), 0o600))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestShownHeadersAreThoseThatAreSent(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t)
	request := knownRequest(t)
	request.Target, request.Timeout = target(t, receiver.URL()), ample
	require.Equal(t, egress.Success, do(t, newClient(t, receiver), request).Outcome)
	sent := receiver.Requests()[0].Header
	shown := request.ShownHeaders()
	for _, field := range shown {
		if field.Masked {
			require.Equal(t, "Authorization", field.Name)
			require.Equal(t, egress.Mask, field.Value)
			require.Equal(t, "Bearer canary", sent.Get(field.Name))
			continue
		}
		require.Equal(t, field.Value, sent.Get(field.Name), field.Name)
	}
	require.Len(t, sent, len(shown)+1, "Content-Length is the only other one: %v", sent)
}

// A shell makes of the command exactly the words that it was made from.
func TestCurlIsQuotedForAnyShell(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		request := egress.Request{
			Timestamp: time.Unix(1, 0), Signer: signing.NewSigner(),
			Body:    []byte(strings.ReplaceAll(rapid.StringOfN(rapid.SampledFrom([]rune("ab'\"\\$`!*?~\n\r\t #;&|<>(){}[]-@é🙂")), 0, 40, -1).Draw(t, "body"), "\x00", "")),
			Headers: []egress.Header{{Name: "X-A", Value: rapid.StringMatching(`[!-~]{1,20}`).Draw(t, "value")}},
		}
		target, err := egress.ParseTarget("http://example.com/" + rapid.StringMatching(`[a-z'()*!$&;]{0,20}`).Draw(t, "path"))
		if err != nil {
			t.Fatal(err)
		}
		request.Target = target
		// Each word is printed and ended with NUL.
		command := exec.CommandContext(t.Context(), "sh", "-c", `curl() { printf '%s\0' "$@"; }; `+request.Curl())
		output, err := command.Output()
		if err != nil {
			t.Fatal(err)
		}
		words := strings.Split(strings.TrimSuffix(string(output), "\x00"), "\x00")
		if words[4] != request.Target.String() || words[len(words)-1] != string(request.Body) ||
			words[len(words)-3] != "X-A: "+request.Headers[0].Value {
			t.Fatalf("the shell saw %q", words)
		}
	})
}
