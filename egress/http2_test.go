package egress_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/worker/receivertest"
)

func TestHTTP2Outcomes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		behaviour receivertest.H2Behaviour
		timeout   time.Duration
		want      egress.Outcome
		status    int
		requests  int
	}{
		"200":                         {receivertest.H2Status("200"), ample, egress.Success, 200, 1},
		"410":                         {receivertest.H2Status("410"), ample, egress.HTTPError, 410, 1},
		"hang":                        {receivertest.H2Hang(), short, egress.Timeout, 0, 1},
		"GOAWAY before the stream":    {receivertest.H2GoAway(0, http2.ErrCodeNo), ample, egress.ResponseError, 0, 1},
		"GOAWAY with an error":        {receivertest.H2GoAway(0, http2.ErrCodeEnhanceYourCalm), ample, egress.ResponseError, 0, 1},
		"RST refused":                 {receivertest.H2Reset(http2.ErrCodeRefusedStream), ample, egress.ResponseError, 0, 1},
		"RST protocol error":          {receivertest.H2Reset(http2.ErrCodeProtocol), ample, egress.ResponseError, 0, 1},
		"RST cancel":                  {receivertest.H2Reset(http2.ErrCodeCancel), ample, egress.ResponseError, 0, 1},
		"RST in the body":             {receivertest.H2ResetInBody(http2.ErrCodeInternal), ample, egress.ResponseError, 200, 1},
		"RST without error in body":   {receivertest.H2ResetInBody(http2.ErrCodeNo), ample, egress.ResponseError, 200, 1},
		"PING flood":                  {receivertest.H2PingFlood(), ample, egress.ResponseError, 0, 1},
		"SETTINGS flood":              {receivertest.H2SettingsFlood(), ample, egress.ResponseError, 0, 1},
		"1xx flood":                   {receivertest.H2InformationalFlood(), ample, egress.ResponseError, 0, 1},
		"CONTINUATION flood":          {receivertest.H2ContinuationFlood(), ample, egress.ResponseError, 0, 1},
		"status that is not a number": {receivertest.H2Status("abc"), ample, egress.ResponseError, 0, 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			receiver := receivertest.New(t, receivertest.RawHTTP2(test.behaviour))
			result := do(t, newClient(t, receiver), newRequest(t, receiver.URL(), test.timeout))
			require.Equal(t, test.want, result.Outcome, result.Error)
			require.Equal(t, test.status, result.Status)
			require.Len(t, receiver.Requests(), test.requests, "one request per attempt")
			t.Log(result.Timing.Total, result.Error)
		})
	}
}

// A window of zero keeps the body from ever being sent.
func TestHTTP2ZeroWindowIsATimeout(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t, receivertest.RawHTTP2(receivertest.H2Hang(), receivertest.H2Setting{ID: http2.SettingInitialWindowSize}))
	request := newRequest(t, receiver.URL(), short)
	request.Body = make([]byte, 1<<20) // more than may be sent before the settings come
	result := do(t, newClient(t, receiver), request)
	require.Equal(t, egress.Timeout, result.Outcome)
	require.Empty(t, receiver.Requests())
}

// One host's hostile connections are its own: another host is reached meanwhile, as fast as ever.
func TestHTTP2FloodDoesNotHoldOthersUp(t *testing.T) {
	t.Parallel()
	for name, behaviour := range map[string]receivertest.H2Behaviour{
		"hang": receivertest.H2Hang(), "PING": receivertest.H2PingFlood(), "SETTINGS": receivertest.H2SettingsFlood(),
		"CONTINUATION": receivertest.H2ContinuationFlood(), "1xx": receivertest.H2InformationalFlood(),
		"GOAWAY": receivertest.H2GoAway(0, http2.ErrCodeNo), "RST": receivertest.H2Reset(http2.ErrCodeRefusedStream),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hostile := receivertest.New(t, receivertest.RawHTTP2(behaviour))
			healthy := receivertest.New(t)
			client := newClient(t, hostile)
			ctx, cancel := context.WithCancel(t.Context())
			var floods sync.WaitGroup
			for range 4 {
				floods.Go(func() {
					for ctx.Err() == nil {
						client.Do(ctx, newRequest(t, hostile.URL(), 2*time.Second))
					}
				})
			}
			hostile.Wait(t, 1)
			took := make([]time.Duration, 100)
			for n := range took {
				result := do(t, client, newRequest(t, healthy.URL(), ample))
				require.Equal(t, egress.Success, result.Outcome, result.Error)
				took[n] = result.Timing.Total
			}
			cancel()
			floods.Wait()
			slices.Sort(took)
			// A flood that held it up would do so for the flood's own time. Both sides share the cores.
			require.Less(t, took[90], time.Second, "%v", took)
		})
	}
}

// After GOAWAY and after a reset the next attempt gets through.
func TestHTTP2RecoversAfterAnAbort(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t, receivertest.HTTP2())
	receiver.Script(receivertest.Abort(), receivertest.Status(200, "Connection", "close"))
	client := newClient(t, receiver)
	require.Equal(t, egress.ResponseError, do(t, client, newRequest(t, receiver.URL(), ample)).Outcome)
	for range 3 {
		require.Equal(t, egress.Success, do(t, client, newRequest(t, receiver.URL(), ample)).Outcome)
	}
	require.Len(t, receiver.Requests(), 4)
}
