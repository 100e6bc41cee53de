package worker_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// ending is how a delivery with one retry ends, and what its history says.
type ending struct {
	status    models.DeliveryStatus
	reason    models.DeliveryStatusReason
	outcome   models.Outcome
	response  int // of the last attempt; 0: none
	attempts  int
	requests  int    // that the receiver got; -1: not counted
	body      string // of the last response; "*": any
	truncated bool
	disabled  bool // the webhook, as RECEIVER_GONE
}

func succeeded(response int) ending {
	return ending{status: models.DeliverySucceeded, outcome: models.OutcomeSuccess, response: response, attempts: 1, requests: 1}
}

func exhausted(outcome models.Outcome, response, requests int) ending {
	return ending{
		status: models.DeliveryFailed, reason: models.ReasonRetriesExhausted, outcome: outcome, response: response,
		attempts: 2, requests: requests,
	}
}

func (e ending) with(edit func(*ending)) ending {
	edit(&e)
	return e
}

func (e ending) saying(body string) ending { return e.with(func(e *ending) { e.body = body }) }

func (e ending) cut() ending { return e.with(func(e *ending) { e.body, e.truncated = "*", true }) }

func TestReceiverBehaviours(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 20_000)
	type behaviour struct {
		options []receivertest.Option
		answer  receivertest.Answer
		url     func(r *receivertest.Receiver) string
		timeout time.Duration
		want    ending
	}
	gone := ending{
		status: models.DeliveryCancelled, reason: models.ReasonGone, outcome: models.OutcomeHTTPError, attempts: 1, requests: 1, disabled: true,
	}
	aborted := ending{
		status: models.DeliveryCancelled, reason: models.ReasonAbortedByReceiver, outcome: models.OutcomeHTTPError, attempts: 1, requests: 1,
	}
	short := 300 * time.Millisecond
	behaviours := map[string]behaviour{
		"body that is kept":     {answer: receivertest.Reply(200, "thanks"), want: succeeded(200).saying("thanks")},
		"long body":             {answer: receivertest.Reply(200, big), want: succeeded(200).cut()},
		"gzip":                  {answer: receivertest.Gzip(200, "zipped"), want: succeeded(200).saying("zipped")},
		"gzip bomb":             {answer: receivertest.GzipBomb(200, 1<<30), want: succeeded(200).cut()},
		"endless body":          {answer: receivertest.EndlessBody(200), want: succeeded(200).cut()},
		"endless body of a 500": {answer: receivertest.EndlessBody(500), want: exhausted(models.OutcomeHTTPError, 500, 2).cut()},
		"not UTF-8":             {answer: receivertest.Reply(200, "a\xff\x00b"), want: succeeded(200).saying("a\uFFFD\uFFFDb")},
		"closes after a 200":    {answer: receivertest.ReplyThenClose(), want: succeeded(200)},
		"lies: long":            {answer: receivertest.LongBody(2, "okay"), want: succeeded(200).saying("ok")},
		"lies: short":           {answer: receivertest.ShortBody(100, "okay"), want: exhausted(models.OutcomeResponseError, 200, 2).cut()},
		"drips headers":         {answer: receivertest.DripHeaders(20 * time.Millisecond), timeout: short, want: exhausted(models.OutcomeTimeout, 0, 2)},
		"drips a body":          {answer: receivertest.DripBody(200, 20*time.Millisecond), timeout: short, want: exhausted(models.OutcomeTimeout, 200, 2).cut()},
		"hangs":                 {answer: receivertest.Hang(), timeout: short, want: exhausted(models.OutcomeTimeout, 0, 2)},
		"hangs in the body":     {answer: receivertest.HangIn(200, "beg"), timeout: short, want: exhausted(models.OutcomeTimeout, 200, 2).cut()},
		"closes early":          {answer: receivertest.CloseEarly(), want: exhausted(models.OutcomeResponseError, 0, 2)},
		"resets before headers": {answer: receivertest.ResetBeforeHeaders(), want: exhausted(models.OutcomeResponseError, 0, 2)},
		"resets in headers":     {answer: receivertest.ResetInHeaders(), want: exhausted(models.OutcomeResponseError, 0, 2)},
		"resets in the body":    {answer: receivertest.ResetInBody(), want: exhausted(models.OutcomeResponseError, 200, 2).cut()},
		"1xx flood":             {answer: receivertest.InformationalFlood(), timeout: time.Second, want: exhausted("", 0, 2)},
		"endless headers":       {answer: receivertest.EndlessHeaders(), timeout: time.Second, want: exhausted("", 0, 2)},
		"huge header":           {answer: receivertest.HugeHeader(200, 10<<20), timeout: time.Second, want: exhausted("", 0, 2)},
		"not HTTP":              {answer: receivertest.Bytes("SSH-2.0-OpenSSH_9.6\r\n"), want: exhausted(models.OutcomeResponseError, 0, 2)},
		"redirects": {
			answer: receivertest.Redirect(302, "http://127.0.0.1:1/"), want: exhausted(models.OutcomeHTTPError, 302, 2),
		},
		"says gone":               {answer: receivertest.Status(410), want: gone.with(func(e *ending) { e.response = 410 })},
		"says disable with a 500": {answer: receivertest.Status(500, "Webhook-Delivery", "disable"), want: gone.with(func(e *ending) { e.response = 500 })},
		"says disable with a 200": {
			answer: receivertest.Status(200, "Webhook-Delivery", " Disable "),
			want:   succeeded(200).with(func(e *ending) { e.disabled = true }),
		},
		"asks to abort":           {answer: receivertest.Status(400, "Webhook-Delivery", "abort-message"), want: aborted.with(func(e *ending) { e.response = 400 })},
		"asks to abort after 200": {answer: receivertest.Status(200, "Webhook-Delivery", "abort-message"), want: succeeded(200)},
		"asks for nonsense":       {answer: receivertest.Status(500, "Webhook-Delivery", "explode"), want: exhausted(models.OutcomeHTTPError, 500, 2)},
		"refuses the connection": {
			url: func(*receivertest.Receiver) string { return "http://127.0.0.1:1/hook" }, want: exhausted(models.OutcomeConnectError, 0, 0),
		},
		"is not public": {
			url: func(*receivertest.Receiver) string { return "http://10.0.0.1/hook" }, want: exhausted(models.OutcomeBlockedTarget, 0, 0),
		},
		"over TLS": {
			options: []receivertest.Option{receivertest.TLS(receivertest.Valid)}, url: (*receivertest.Receiver).NamedURL, want: succeeded(200),
		},
		"over HTTP/2": {options: []receivertest.Option{receivertest.HTTP2()}, url: (*receivertest.Receiver).NamedURL, want: succeeded(200)},
		"resets the stream": {
			options: []receivertest.Option{receivertest.HTTP2()}, url: (*receivertest.Receiver).NamedURL, answer: receivertest.Abort(),
			want: exhausted(models.OutcomeResponseError, 0, 2),
		},
		"TLS that never finishes": {
			options: []receivertest.Option{receivertest.TLS(receivertest.SilentHandshake)}, url: (*receivertest.Receiver).NamedURL,
			timeout: short, want: exhausted(models.OutcomeTimeout, 0, 0),
		},
	}
	for _, mode := range receivertest.BadModes() {
		behaviours[fmt.Sprintf("bad TLS, %v", mode)] = behaviour{
			options: []receivertest.Option{receivertest.TLS(mode)}, url: (*receivertest.Receiver).NamedURL, timeout: 3 * time.Second,
			want: exhausted(models.OutcomeTLSError, 0, 0),
		}
	}
	for _, status := range []int{200, 201, 204, 299} {
		behaviours[fmt.Sprintf("answers %d", status)] = behaviour{answer: receivertest.Status(status), want: succeeded(status)}
	}
	for _, status := range []int{300, 304, 307, 400, 401, 404, 408, 413, 422, 429, 451, 500, 502, 503, 504, 599, 999} {
		behaviours[fmt.Sprintf("answers %d", status)] = behaviour{
			answer: receivertest.Status(status), want: exhausted(models.OutcomeHTTPError, status, 2),
		}
	}
	onEach(t, func(t *testing.T, s *stack) {
		for name, b := range behaviours {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				options := b.options
				if b.answer != nil {
					options = append(slices.Clip(options), receivertest.Default(b.answer))
				}
				receiver := receivertest.New(t, options...)
				url := receiver.URL()
				if b.url != nil {
					url = b.url(receiver)
				}
				w, secret := s.webhook(t, url, func(w *models.Webhook) {
					w.RetrySchedule = &models.Schedule{20 * time.Millisecond}
					if b.timeout > 0 {
						w.Timeout = new(models.Millis(b.timeout))
					}
				})
				receiver.Secret(secret)
				d := s.emit(t, 1, w)[0]
				check(t, s, s.bare(t, receiver.RootCAs()).drive(t, d.ID), receiver, b.want)
			})
		}
	})
}

// check compares how a delivery ended, its history and what the receiver got with what is wanted.
func check(t *testing.T, s *stack, d models.Delivery, receiver *receivertest.Receiver, want ending) {
	t.Helper()
	assert.Equal(t, want.status, d.Status, describe(d))
	if want.reason == "" {
		assert.Nil(t, d.StatusReason)
	} else if assert.NotNil(t, d.StatusReason) {
		assert.Equal(t, want.reason, *d.StatusReason)
	}
	assert.Equal(t, want.attempts, d.AttemptCount)
	assert.Nil(t, d.NextAttemptAt)
	attempts := s.attempts(t, d.ID)
	require.Len(t, attempts, want.attempts)
	for n, a := range attempts {
		assert.Equal(t, n+1, a.Number)
		require.NotNil(t, a.Outcome)
		if want.outcome != "" {
			assert.Equal(t, want.outcome, *a.Outcome, "%v", deref(a.Error))
		}
		assert.NotNil(t, a.EndedAt)
		assert.NotNil(t, a.TotalMicros)
		assert.Equal(t, *a.Outcome == models.OutcomeSuccess, a.Error == nil)
		assert.NotEmpty(t, a.RequestHeaders)
		assert.NotContains(t, fmt.Sprint(a.RequestHeaders), "whsec_")
		if want.response == 0 {
			assert.Nil(t, a.ResponseStatus)
			continue
		}
		if assert.NotNil(t, a.ResponseStatus) {
			assert.Equal(t, want.response, *a.ResponseStatus)
		}
		assert.NotNil(t, a.RemoteAddress)
		assert.Equal(t, want.truncated, a.ResponseTruncated)
		if want.body != "*" && assert.NotNil(t, a.ResponseBody) {
			assert.Equal(t, want.body, *a.ResponseBody)
		}
	}
	requests := receiver.Requests()
	assert.Len(t, requests, want.requests)
	for _, r := range requests {
		assert.Equal(t, d.EventID, r.ID())
		assert.NoError(t, r.SignatureErr)
		assert.Equal(t, string(requests[0].Body), string(r.Body))
		assert.Contains(t, string(r.Body), eventData, "digits and all")
	}
	w, err := s.store.WebhookByID(t.Context(), d.WebhookID)
	require.NoError(t, err)
	assert.Equal(t, want.disabled, w.Status == models.WebhookDisabled && *w.StatusReason == models.ReasonReceiverGone)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
