package egress_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/signing"
	"github.com/intervengine/webhooks/worker/receivertest"
)

func TestAttemptIsASignedPost(t *testing.T) {
	t.Parallel()
	current, previous := newKey(t), newKey(t)
	for name, options := range map[string][]receivertest.Option{
		"plain": nil, "tls": {receivertest.TLS(receivertest.Valid)}, "http2": {receivertest.HTTP2()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			receiver := receivertest.New(t, append(options, receivertest.Secret(previous.Reveal()),
				receivertest.Default(receivertest.Reply(202, "thanks", "X-Answer", "yes", "Set-Cookie", "session=1")))...)
			client := newClient(t, receiver)
			request := newRequest(t, receiver.NamedURL()+"?a=1&b[]=2", ample)
			request.Signer = signing.NewSigner(current, previous)
			request.Headers = []egress.Header{{Name: "X-Tenant", Value: "t1"}, {Name: "Authorization", Value: "Bearer canary"}}
			result := do(t, client, request)
			require.Equal(t, egress.Success, result.Outcome)
			require.Equal(t, 202, result.Status)
			require.Equal(t, "thanks", string(result.ResponseBody))
			require.False(t, result.Truncated)
			require.Equal(t, receiver.AddrPort().String(), result.RemoteAddr)
			require.Contains(t, result.ResponseHeaders, egress.ShownHeader{Name: "x-answer", Value: "yes"})
			require.Contains(t, result.ResponseHeaders, egress.ShownHeader{Name: "set-cookie", Value: egress.Mask, Masked: true})
			require.Positive(t, result.Timing.DNS)
			require.Positive(t, result.Timing.Connect)
			require.Positive(t, result.Timing.FirstByte)
			require.Equal(t, name != "plain", result.Timing.TLS > 0)

			got := receiver.Wait(t, 1)[0]
			require.NoError(t, got.SignatureErr)
			require.Equal(t, map[string]string{"plain": "HTTP/1.1", "tls": "HTTP/1.1", "http2": "HTTP/2.0"}[name], got.Proto)
			require.Equal(t, "POST", got.Method)
			require.Equal(t, receivertest.Path, got.Path)
			require.Equal(t, "a=1&b[]=2", got.Query)
			require.Equal(t, request.Body, got.Body)
			require.Equal(t, "evt_1", got.ID())
			require.Equal(t, "application/json", got.Header.Get("Content-Type"))
			require.Equal(t, "Intervengine-Webhooks/1.2.3", got.Header.Get("User-Agent"))
			require.Equal(t, "Bearer canary", got.Header.Get("Authorization"))
			require.Equal(t, "t1", got.Header.Get("X-Tenant"))
			require.Empty(t, got.Header.Get("Accept-Encoding"))
			require.Empty(t, got.Header.Get("Cookie"))

			// The second attempt uses the same connection, and sends no cookie back.
			result = do(t, client, request)
			require.Equal(t, egress.Success, result.Outcome)
			require.Zero(t, result.Timing.DNS+result.Timing.Connect+result.Timing.TLS)
			require.Equal(t, 1, receiver.Connections())
			require.Empty(t, receiver.Wait(t, 2)[1].Header.Get("Cookie"))
		})
	}
}

// Every way in which a receiver can behave over HTTP/1.1, and what it comes to.
func TestAttemptOutcomes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 16<<10)
	tests := map[string]struct {
		answer    receivertest.Answer
		timeout   time.Duration
		want      egress.Outcome
		status    int
		body      string // the kept part; "*" for any
		truncated bool
		says      string
	}{
		"200":                               {receivertest.Status(200), ample, egress.Success, 200, "", false, ""},
		"204":                               {receivertest.Status(204), ample, egress.Success, 204, "", false, ""},
		"299":                               {receivertest.Status(299), ample, egress.Success, 299, "", false, ""},
		"304":                               {receivertest.Status(304), ample, egress.HTTPError, 304, "", false, "304 Not Modified; redirects are not followed"},
		"400 with body":                     {receivertest.Reply(400, "no"), ample, egress.HTTPError, 400, "no", false, "answered 400 Bad Request"},
		"410":                               {receivertest.Status(410), ample, egress.HTTPError, 410, "", false, "410 Gone"},
		"500":                               {receivertest.Status(500), ample, egress.HTTPError, 500, "", false, "500"},
		"599":                               {receivertest.Status(599), ample, egress.HTTPError, 599, "", false, "answered 599."},
		"999":                               {receivertest.Status(999), ample, egress.HTTPError, 999, "", false, "answered 999."},
		"101":                               {receivertest.BytesKept("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nxxx"), ample, egress.HTTPError, 101, "", false, "101"},
		"1xx before the answer":             {receivertest.BytesKept("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), ample, egress.Success, 200, "ok", false, ""},
		"1xx flood":                         {receivertest.InformationalFlood(), ample, egress.ResponseError, 0, "", false, "headers are too long"},
		"hang":                              {receivertest.Hang(), short, egress.Timeout, 0, "", false, "300ms ran out while waiting for the receiver's answer"},
		"hang in the body of 200":           {receivertest.HangIn(200, "begin"), short, egress.Timeout, 200, "begin", true, "while reading the receiver's response"},
		"hang in the body of 500":           {receivertest.HangIn(500, "begin"), short, egress.HTTPError, 500, "begin", true, "500"},
		"hang in the body of 410":           {receivertest.HangIn(410, "begin"), short, egress.HTTPError, 410, "begin", true, "410"},
		"hang after what is kept":           {receivertest.HangIn(200, long+"y"), ample, egress.Success, 200, long, true, ""},
		"drip headers":                      {receivertest.DripHeaders(10 * time.Millisecond), short, egress.Timeout, 0, "", false, "waiting for the receiver's answer"},
		"drip body":                         {receivertest.DripBody(200, 10*time.Millisecond), short, egress.Timeout, 200, "*", true, "reading"},
		"endless body":                      {receivertest.EndlessBody(200), ample, egress.Success, 200, "*", true, ""},
		"endless body of 500":               {receivertest.EndlessBody(500), ample, egress.HTTPError, 500, "*", true, "500"},
		"endless headers":                   {receivertest.EndlessHeaders(), ample, egress.ResponseError, 0, "", false, "headers are too long"},
		"10 MiB of header":                  {receivertest.HugeHeader(200, 10<<20), ample, egress.ResponseError, 0, "", false, "headers are too long"},
		"10,000 headers":                    {receivertest.ManyHeaders(200, 10_000), ample, egress.ResponseError, 0, "", false, "headers are too long"},
		"200 headers":                       {receivertest.ManyHeaders(200, 200), ample, egress.Success, 200, "", false, ""},
		"exactly what is kept":              {receivertest.Reply(200, long), ample, egress.Success, 200, long, false, ""},
		"one byte more than is kept":        {receivertest.Reply(200, long+"y"), ample, egress.Success, 200, long, true, ""},
		"gzip":                              {receivertest.Gzip(200, "unpacked"), ample, egress.Success, 200, "unpacked", false, ""},
		"deflate":                           {receivertest.Deflate(200, "unpacked"), ample, egress.Success, 200, "unpacked", false, ""},
		"gzip bomb":                         {receivertest.GzipBomb(200, 10<<30), ample, egress.Success, 200, "*", true, ""},
		"gzip that never yields a byte":     {receivertest.GzipNothing(200), ample, egress.Success, 200, "*", true, ""},
		"gzip that is none":                 {receivertest.Reply(200, "plain", "Content-Encoding", "gzip"), ample, egress.Success, 200, "plain", false, ""},
		"unknown encoding":                  {receivertest.Reply(200, "plain", "Content-Encoding", "br"), ample, egress.Success, 200, "plain", false, ""},
		"not UTF-8":                         {receivertest.Reply(200, "caf\xe9 \x00 ok"), ample, egress.Success, 200, "caf\ufffd \ufffd ok", false, ""},
		"nothing but NUL":                   {receivertest.Reply(200, strings.Repeat("\x00", 16<<10)), ample, egress.Success, 200, strings.Repeat("\ufffd", 16<<10/3), true, ""},
		"fewer bytes than announced":        {receivertest.ShortBody(100, "begin"), ample, egress.ResponseError, 200, "begin", true, "answered 200, but its response broke off"},
		"more bytes than announced":         {receivertest.LongBody(2, "okHTTP/1.1 200 OK\r\n\r\n"), ample, egress.Success, 200, "ok", false, ""},
		"no length, closed":                 {receivertest.Bytes("HTTP/1.0 200 OK\r\n\r\nold"), ample, egress.Success, 200, "old", false, ""},
		"broken chunk":                      {receivertest.BytesKept("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"), ample, egress.ResponseError, 200, "abc", true, "broke off"},
		"chunks cut off":                    {receivertest.Bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), ample, egress.ResponseError, 200, "abc", true, "broke off"},
		"two lengths":                       {receivertest.BytesKept("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk"), ample, egress.ResponseError, 0, "", false, "not a valid HTTP response"},
		"reset before the headers":          {receivertest.ResetBeforeHeaders(), ample, egress.ResponseError, 0, "", false, "closed the connection without an answer"},
		"reset in the headers":              {receivertest.ResetInHeaders(), ample, egress.ResponseError, 0, "", false, "not a valid HTTP response"},
		"reset in the body":                 {receivertest.ResetInBody(), ample, egress.ResponseError, 200, "*", true, "broke off"},
		"closed before the headers":         {receivertest.CloseEarly(), ample, egress.ResponseError, 0, "", false, "without an answer"},
		"closed in the headers":             {receivertest.Bytes("HTTP/1.1 200 OK\r\nX"), ample, egress.ResponseError, 0, "", false, "not a valid HTTP response"},
		"not HTTP":                          {receivertest.Bytes("220 mail.example.com ESMTP\r\n\r\n"), ample, egress.ResponseError, 0, "", false, "not a valid HTTP response"},
		"no status":                         {receivertest.BytesKept("HTTP/1.1 OK\r\n\r\n"), ample, egress.ResponseError, 0, "", false, "not a valid HTTP response"},
		"answers before reading":            {receivertest.ReplyThenClose(), ample, egress.Success, 200, "", false, ""},
		"handler that breaks off":           {receivertest.Abort(), ample, egress.ResponseError, 0, "", false, "without an answer"},
		"redirect to metadata":              {receivertest.Redirect(307, "http://169.254.169.254/latest/"), ample, egress.HTTPError, 307, "", false, "redirects are not followed"},
		"redirect to a file":                {receivertest.Redirect(302, "file:///etc/passwd"), ample, egress.HTTPError, 302, "", false, "redirects are not followed"},
		"redirect to itself":                {receivertest.Redirect(308, receivertest.Path), ample, egress.HTTPError, 308, "", false, "redirects are not followed"},
		"malformed header":                  {receivertest.BytesKept("HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n"), ample, egress.ResponseError, 0, "", false, "not a valid HTTP response"},
		"2xx that asks to disable the hook": {receivertest.Status(200, "webhook-delivery", "disable"), ample, egress.Success, 200, "", false, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			receiver := receivertest.New(t, receivertest.Default(test.answer))
			result := do(t, newClient(t, receiver), newRequest(t, receiver.URL(), test.timeout))
			require.Equal(t, test.want, result.Outcome, result.Error)
			require.Equal(t, test.status, result.Status)
			if test.body != "*" {
				require.Equal(t, test.body, string(result.ResponseBody))
			}
			require.LessOrEqual(t, len(result.ResponseBody), 16<<10)
			require.True(t, utf8.Valid(result.ResponseBody))
			require.Equal(t, test.truncated, result.Truncated)
			require.Contains(t, result.Error, test.says)
			require.LessOrEqual(t, len(result.ResponseHeaders), 100)
			require.Equal(t, receiver.AddrPort().String(), result.RemoteAddr)
			require.Len(t, receiver.Requests(), 1, "one request per attempt, and nothing is followed")
		})
	}
}

func TestAttemptReportsWhatTheReceiverAsksFor(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t, receivertest.Default(receivertest.Status(503, "Retry-After", "120", "Webhook-Delivery", "abort-message")))
	client := newClient(t, receiver)
	result := do(t, client, newRequest(t, receiver.URL(), ample))
	require.Equal(t, "120", result.RetryAfter)
	require.Equal(t, "abort-message", result.WebhookDelivery)

	receiver.Answer(receivertest.Status(429, "Retry-After", strings.Repeat("9", 5000)))
	require.Len(t, do(t, client, newRequest(t, receiver.URL(), ample)).RetryAfter, 100)
}

// Who sends learns when the request was written and when its answer began, once each, over either
// protocol, and of neither where nothing was sent.
func TestAttemptTellsWhenItWasWrittenAndAnswered(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]receivertest.Option{"HTTP/1.1": nil, "HTTP/2": {receivertest.HTTP2()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			receiver := receivertest.New(t, options...)
			request := newRequest(t, receiver.URL(), ample)
			var written, answered atomic.Int32
			request.Written = func() { written.Add(1) }
			request.Answered = func() { answered.Add(1) }
			require.Equal(t, egress.Success, do(t, newClient(t, receiver), request).Outcome)
			require.EqualValues(t, 1, answered.Load())
			// Over HTTP/2 the answer may be quicker than the word of it.
			require.Eventually(t, func() bool { return written.Load() == 1 }, ample, time.Millisecond)
		})
	}
	t.Run("no connection", func(t *testing.T) {
		t.Parallel()
		request := newRequest(t, "http://10.0.0.1/", ample)
		request.Written = func() { t.Error("written") }
		request.Answered = func() { t.Error("answered") }
		require.Equal(t, egress.BlockedTarget, do(t, newClient(t, nil), request).Outcome)
	})
}

func TestAttemptIsAbandonedWhenItsCallerStops(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]receivertest.Answer{
		"before the headers": receivertest.Hang(), "in the body": receivertest.HangIn(200, "begin"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			receiver := receivertest.New(t, receivertest.Default(answer))
			ctx, cancel := context.WithCancel(t.Context())
			receiver.OnRequest(func(receivertest.Request) { cancel() })
			result := newClient(t, receiver).Do(ctx, newRequest(t, receiver.URL(), ample))
			require.Equal(t, egress.Abandoned, result.Outcome)
			require.Less(t, result.Timing.Total, ample/2)
		})
	}
	t.Run("by its own deadline", func(t *testing.T) {
		t.Parallel()
		receiver := receivertest.New(t, receivertest.Default(receivertest.Hang()))
		ctx, cancel := context.WithTimeout(t.Context(), short)
		defer cancel()
		require.Equal(t, egress.Abandoned, newClient(t, receiver).Do(ctx, newRequest(t, receiver.URL(), ample)).Outcome)
	})
	t.Run("after the verdict", func(t *testing.T) {
		t.Parallel()
		receiver := receivertest.New(t, receivertest.Default(receivertest.HangIn(410, "begin")))
		ctx, cancel := context.WithTimeout(t.Context(), short)
		defer cancel()
		result := newClient(t, receiver).Do(ctx, newRequest(t, receiver.URL(), ample))
		require.Equal(t, egress.HTTPError, result.Outcome)
		require.Equal(t, 410, result.Status)
	})
}

func TestAttemptWithoutAListenerIsAConnectError(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	result := do(t, newClient(t, nil), newRequest(t, "http://"+address+"/", ample))
	require.Equal(t, egress.ConnectError, result.Outcome)
	require.Contains(t, result.Error, "connection refused")
	require.Equal(t, address, result.RemoteAddr)
	require.Zero(t, result.Status)
}

func TestAttemptIgnoresProxiesOfTheEnvironment(t *testing.T) {
	proxy, receiver := receivertest.New(t), receivertest.New(t)
	t.Setenv("HTTP_PROXY", "http://"+proxy.AddrPort().String())
	t.Setenv("ALL_PROXY", "http://"+proxy.AddrPort().String())
	require.Equal(t, egress.Success, do(t, newClient(t, receiver), newRequest(t, receiver.NamedURL(), ample)).Outcome)
	require.Zero(t, proxy.Connections())
}

func TestNewClientPanicsOnAProgrammersMistake(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { egress.NewClient(egress.Options{}) })
	require.Panics(t, func() { egress.NewClient(egress.Options{Guard: loopbackGuard(), KeepBytes: -1}) })
}

func TestAttemptKeepsOnlyWhatItIsToldTo(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t, receivertest.Default(receivertest.Reply(http.StatusOK, "aé€🙂z")))
	for keep, want := range map[int]string{1: "a", 2: "a", 3: "aé", 5: "aé", 6: "aé€", 9: "aé€", 10: "aé€🙂", 11: "aé€🙂z"} {
		client := newClient(t, receiver, func(o *egress.Options) { o.KeepBytes = keep })
		result := do(t, client, newRequest(t, receiver.URL(), ample))
		require.Equal(t, want, string(result.ResponseBody), keep)
		require.Equal(t, keep < 11, result.Truncated)
		require.Equal(t, egress.Success, result.Outcome)
	}
}

// What comes too late is not sent, on no connection, and is nobody's fault but ours. A connection that
// had to be made has its time for that.
func TestAttemptThatIsTooLateIsNotSent(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t)
	client := newClient(t, receiver)
	request := newRequest(t, receiver.URL(), ample)
	request.StartBy = time.Now().Add(-time.Minute)
	require.Equal(t, egress.Success, do(t, client, request).Outcome, "its connection was made for it")

	late := do(t, client, request)
	require.True(t, late.OwnFault)
	require.Zero(t, late.Status)
	require.Len(t, receiver.Requests(), 1)

	request.StartBy = time.Now().Add(ample)
	require.Equal(t, egress.Success, do(t, client, request).Outcome)
	require.False(t, do(t, client, request).OwnFault, "in time on a kept connection")
	require.Len(t, receiver.Requests(), 3)
}
