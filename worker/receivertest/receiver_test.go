package receivertest_test

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intervengine/webhooks/signing"
	"github.com/intervengine/webhooks/worker/receivertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// post sends one request over its own connection and returns the status; 0 when
// no answer came.
func post(ctx context.Context, t testing.TB, url string, key signing.SecretKey, id, body string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	now := time.Now()
	request.Header.Set("webhook-id", id)
	request.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	request.Header.Set("webhook-signature", signing.Sign([]signing.SecretKey{key}, id, now, []byte(body)))
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return 0
	}
	require.NoError(t, response.Body.Close())
	return response.StatusCode
}

func newKey(t testing.TB) signing.SecretKey {
	t.Helper()
	key, err := signing.NewSecretKey(signing.HMACSHA256)
	require.NoError(t, err)
	return key
}

func TestReceiverKeepsVerifiesAndAnswersByScript(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	receiver := receivertest.New(t, receivertest.Default(receivertest.Status(204)))
	require.Equal(t, 204, post(t.Context(), t, receiver.URL(), key, "evt_1", "{}"))
	receiver.Secret(key.Reveal())
	receiver.Script(receivertest.Status(500), receivertest.Reply(201, "made"))
	require.Equal(t, 500, post(t.Context(), t, receiver.URL(), key, "evt_1", "{}"))
	require.Equal(t, 201, post(t.Context(), t, receiver.URL()+"?x=1", other, "evt_2", "{}"))
	require.Equal(t, 204, post(t.Context(), t, receiver.URL(), key, "evt_3", "{}"))

	requests := receiver.Wait(t, 4)
	require.ErrorIs(t, requests[0].SignatureErr, receivertest.ErrNoSecret)
	require.NoError(t, requests[1].SignatureErr)
	var verifyError *signing.VerifyError
	require.ErrorAs(t, requests[2].SignatureErr, &verifyError)
	require.Equal(t, "x=1", requests[2].Query)
	require.Equal(t, 4, requests[3].Number)
	require.Len(t, receiver.ByID("evt_1"), 2)
	require.Equal(t, 4, receiver.Connections())
}

func TestReceiverHangsUntilReleased(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	receiver := receivertest.New(t, receivertest.Default(receivertest.After(receivertest.Status(202))))
	status := make(chan int)
	go func() { status <- post(context.Background(), t, receiver.URL(), key, "evt_1", "{}") }()
	receiver.Wait(t, 1)
	select {
	case got := <-status:
		t.Fatalf("answered %d before it was released", got)
	default:
	}
	receiver.Release()
	require.Equal(t, 202, <-status)
}

func TestReceiverHangsUntilTheClientGoes(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	receiver := receivertest.New(t, receivertest.Default(receivertest.Hang()))
	ctx, cancel := context.WithCancel(t.Context())
	receiver.OnRequest(func(receivertest.Request) { cancel() })
	require.Zero(t, post(ctx, t, receiver.URL(), key, "evt_1", "{}"))
}

// The end of a test ends what hangs; goleak would find a handler left behind.
func TestReceiverStopsWithItsTest(t *testing.T) { //nolint:tparallel // the outer test looks at what the inner one left
	t.Parallel()
	key := newKey(t)
	done := make(chan int, 1)
	t.Run("inside", func(t *testing.T) {
		receiver := receivertest.New(t, receivertest.Default(receivertest.Hang()))
		url := receiver.URL()
		go func() { done <- post(context.Background(), t, url, key, "evt_1", "{}") }()
		receiver.Wait(t, 1)
	})
	require.Zero(t, <-done, "no answer after the end")
}
