package egress_test

import (
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// net/http repeats a request by itself when a kept connection turns out closed
// and the request looks repeatable. None of these answers may bring a second
// request for one attempt, least of all with an Idempotency-Key, which net/http
// takes for permission.
func TestOneAttemptIsOneRequest(t *testing.T) {
	t.Parallel()
	answers := map[string]receivertest.Answer{
		"reset before the headers":  receivertest.ResetBeforeHeaders(),
		"closed before the headers": receivertest.CloseEarly(),
		"closed in the headers":     receivertest.Bytes("HTTP/1.1 200 OK\r\nX"),
		"reset in the headers":      receivertest.ResetInHeaders(),
		"handler that breaks off":   receivertest.Abort(),
		"asks to try again":         receivertest.Bytes("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"),
	}
	for name, answer := range answers {
		for mode, options := range map[string][]receivertest.Option{"plain": nil, "tls": {receivertest.TLS(receivertest.Valid)}} {
			for _, body := range []string{`{"data":{}}`, ""} {
				t.Run(name+" "+mode+" "+strconv.Itoa(len(body)), func(t *testing.T) {
					t.Parallel()
					receiver := receivertest.New(t, options...)
					client := newClient(t, receiver)
					request := newRequest(t, receiver.URL(), ample)
					request.Body = []byte(body)
					request.Headers = []egress.Header{{Name: "Idempotency-Key", Value: "1"}, {Name: "X-Idempotency-Key", Value: "1"}}
					require.Equal(t, egress.Success, do(t, client, request).Outcome)
					receiver.Script(answer)
					result := do(t, client, request)
					require.NotEqual(t, egress.Success, result.Outcome)
					requests := receiver.Requests()
					require.Len(t, requests, 2)
					require.Equal(t, requests[0].RemoteAddr, requests[1].RemoteAddr, "the second attempt met the kept connection")
				})
			}
		}
	}
}

// What a receiver sends beyond its answer is not the answer to the next attempt.
func TestASplitResponseIsNobodysAnswer(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t)
	client := newClient(t, receiver)
	split := receivertest.BytesKept("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX-Split: yes\r\nContent-Length: 0\r\n\r\n")
	for range 100 {
		receiver.Script(split, receivertest.Status(503))
		require.Equal(t, egress.Success, do(t, client, newRequest(t, receiver.URL(), ample)).Outcome)
		result := do(t, client, newRequest(t, receiver.URL(), ample))
		require.Equal(t, 503, result.Status, "%v", result)
	}
	require.Len(t, receiver.Requests(), 200, "one request per attempt")
}

// A receiver that closes kept connections at any moment gets every attempt at
// most once, and an attempt that was never written is not a failure as a rule.
func TestKeepAliveRace(t *testing.T) {
	t.Parallel()
	for mode, options := range map[string][]receivertest.Option{"plain": nil, "tls": {receivertest.TLS(receivertest.Valid)}} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			receiver := receivertest.New(t, append(options, receivertest.Default(receivertest.ReplyThenClose()))...)
			client := newClient(t, receiver)
			var group sync.WaitGroup
			for worker := range 4 {
				group.Go(func() {
					for i := range 60 {
						request := newRequest(t, receiver.URL(), ample)
						request.ID = strconv.Itoa(worker) + "-" + strconv.Itoa(i)
						client.Do(t.Context(), request)
					}
				})
			}
			group.Wait()
			seen := map[string]int{}
			for _, request := range receiver.Requests() {
				seen[request.ID()]++
			}
			for id, times := range seen {
				require.Equal(t, 1, times, "attempt %s came %d times", id, times)
			}
		})
	}
}
