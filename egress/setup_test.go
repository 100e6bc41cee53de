package egress_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/signing"
	"github.com/intervengine/webhooks/worker/receivertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ample is for attempts that must not run out of time, short for those that must.
const (
	ample = 20 * time.Second
	short = 300 * time.Millisecond
)

func loopbackGuard() *egress.Guard {
	return egress.NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
}

// lookupLoopback resolves every name to 127.0.0.1.
func lookupLoopback(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

func newClient(t testing.TB, receiver *receivertest.Receiver, change ...func(*egress.Options)) *egress.Client {
	t.Helper()
	options := egress.Options{Guard: loopbackGuard(), Lookup: lookupLoopback}
	if receiver != nil {
		options.RootCAs = receiver.RootCAs()
	}
	for _, apply := range change {
		apply(&options)
	}
	client := egress.NewClient(options)
	t.Cleanup(client.Close)
	return client
}

func target(t testing.TB, raw string) egress.Target {
	t.Helper()
	parsed, err := egress.ParseTarget(raw)
	require.NoError(t, err)
	return parsed
}

func newKey(t testing.TB) signing.SecretKey {
	t.Helper()
	key, err := signing.NewSecretKey(signing.HMACSHA256)
	require.NoError(t, err)
	return key
}

func newRequest(t testing.TB, url string, timeout time.Duration) egress.Request {
	t.Helper()
	return egress.Request{
		ID: "evt_1", Target: target(t, url), Body: []byte(`{"type":"message.sent","data":{}}`),
		Timestamp: time.Now(), Signer: signing.NewSigner(newKey(t)), Timeout: timeout, Version: "1.2.3",
	}
}

// do sends one attempt and checks what holds for every result.
func do(t testing.TB, client *egress.Client, request egress.Request) egress.Result {
	t.Helper()
	result := client.Do(t.Context(), request)
	require.Equal(t, result.Outcome == egress.Success, result.Error == "", "%s: %s", result.Outcome, result.Error)
	if result.Error != "" {
		require.True(t, strings.HasSuffix(result.Error, "."), "a sentence: %q", result.Error)
	}
	require.Equal(t, result.EndedAt.Sub(result.StartedAt), result.Timing.Total)
	require.Less(t, result.Timing.Total, request.Timeout+time.Second, "time is bounded")
	return result
}
