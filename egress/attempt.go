package egress

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"time"
)

// Outcome is how an attempt ended, in the contract's words.
type Outcome string

// The outcomes of an attempt.
const (
	Success       Outcome = "SUCCESS"        // 2xx, its response complete or longer than what is kept
	HTTPError     Outcome = "HTTP_ERROR"     // any other status, 3xx included
	Timeout       Outcome = "TIMEOUT"        // the attempt's time ran out, wherever it was
	DNSError      Outcome = "DNS_ERROR"      // the name does not resolve
	ConnectError  Outcome = "CONNECT_ERROR"  // no connection
	TLSError      Outcome = "TLS_ERROR"      // no trusted TLS
	BlockedTarget Outcome = "BLOCKED_TARGET" // the guard refused the address
	ResponseError Outcome = "RESPONSE_ERROR" // no response, a broken one, or a 2xx that breaks off
	Abandoned     Outcome = "ABANDONED"      // the caller's context ended first: nothing is known
)

// Timing is how long the phases of an attempt took. DNS, Connect and TLS are 0
// when the connection was there already; FirstByte counts from the moment at which
// the request had its connection.
type Timing struct {
	Total, DNS, Connect, TLS, FirstByte time.Duration
}

// Result is what came of one attempt.
type Result struct {
	Outcome Outcome
	// Error is a sentence for a person, empty on success. It holds no secret and no
	// address that is not public.
	Error string
	// Status is 0 when no response came. It is kept when the body broke off.
	Status int
	// ResponseHeaders are bounded, sorted by name, sensitive values masked.
	ResponseHeaders []ShownHeader
	// ResponseBody is the kept part, decoded, as valid UTF-8 without NUL.
	ResponseBody []byte
	// Truncated says that the body was longer than what is kept, or broke off.
	Truncated bool
	// RemoteAddr is the address and port that was dialled, empty when none was.
	RemoteAddr         string
	StartedAt, EndedAt time.Time
	Timing             Timing
	// RetryAfter and WebhookDelivery are the response's headers of those names, as
	// they came, cut at 100 bytes; empty when absent.
	RetryAfter, WebhookDelivery string
	// OwnFault says that this process lacked what a connection needs, such as a file descriptor, or
	// came too late, see Request.StartBy: nothing was sent, and the receiver has no part in it.
	OwnFault bool
}

const (
	maxControlHeader = 100
	// maxRedials bounds how many connections that the receiver closed while they
	// were idle one attempt may meet.
	maxRedials = 3
)

// Do makes one attempt: at most one request on the wire, within the request's
// timeout over everything, the reading of the body included. It always returns a
// Result. When ctx ends before the attempt's own time the outcome is Abandoned,
// unless the receiver's verdict was already known.
func (c *Client) Do(ctx context.Context, request Request) Result {
	started := time.Now()
	timeout := request.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	observed := &observation{
		deadline: started.Add(timeout), startBy: request.StartBy, wire: wireLimit(c.keep),
		written: request.Written, answered: request.Answered,
	}
	bounded, cancel := context.WithDeadline(ctx, observed.deadline)
	defer cancel()
	bounded = context.WithValue(bounded, attemptKey{}, observed)
	bounded = httptrace.WithClientTrace(bounded, observed.trace())

	result := c.exchange(bounded, request, observed)
	timing, remote, connected := observed.finish()
	result.StartedAt, result.EndedAt = started, time.Now()
	result.RemoteAddr, result.Timing = remote, timing
	result.Timing.Total = result.EndedAt.Sub(started)
	if result.err != nil {
		expired := !result.EndedAt.Before(observed.deadline)
		result.Outcome, result.Error = classify(result.err, verdict{
			expired: expired, abandoned: ctx.Err() != nil && !expired,
			connected: connected, status: result.Status, timeout: timeout,
		})
		result.OwnFault = !connected && exhausted(result.err) || observed.late.Load()
	}
	return result.Result
}

// exchanged is a Result and what broke it off; err is nil when Outcome is set.
type exchanged struct {
	Result
	err error
}

func (c *Client) exchange(ctx context.Context, request Request, observed *observation) exchanged {
	response, err := c.send(ctx, request, observed)
	if err != nil {
		return exchanged{err: err}
	}
	defer response.Body.Close()
	result := exchanged{Result: Result{
		Status:          response.StatusCode,
		ResponseHeaders: keepHeaders(response.Header),
		RetryAfter:      cut(response.Header.Get("Retry-After"), maxControlHeader),
		WebhookDelivery: cut(response.Header.Get("Webhook-Delivery"), maxControlHeader),
	}}
	var body keptBody
	if response.StatusCode != http.StatusSwitchingProtocols { // its body is the bare connection
		body = readBody(response.Body, response.Header.Values("Content-Encoding"), c.keep)
	}
	result.ResponseBody, result.Truncated = body.text, body.truncated
	switch {
	case response.StatusCode < 200 || response.StatusCode > 299:
		// The receiver has answered; what becomes of its body changes nothing.
		result.Outcome, result.Error = HTTPError, describeStatus(response.StatusCode)
	case body.err != nil:
		result.err = body.err
	default:
		result.Outcome = Success
	}
	return result
}

// send returns the response's head. net/http never sends the request a second
// time by itself: it has a body and no GetBody, which is what it would rewind
// with. A connection that turns out closed before a byte was written is the one
// case in which another is tried, here.
func (c *Client) send(ctx context.Context, request Request, observed *observation) (*http.Response, error) {
	for redials := 0; ; redials++ {
		response, err := c.transport.RoundTrip(request.http(ctx))
		if err == nil || redials == maxRedials || ctx.Err() != nil || observed.late.Load() || !observed.untouched() {
			return response, err
		}
	}
}

// http builds the request for one try. It has no GetBody, so that nothing can
// rewind the body, and the body is never http.NoBody, which net/http takes for
// permission to repeat a request that has an Idempotency-Key. Its type is one that
// net/http knows to be in memory: of any other it sends the head in a write and a
// packet of its own, before it reads the body.
func (r Request) http(ctx context.Context) *http.Request {
	header := make(http.Header, fixedHeaders+len(r.Headers))
	for _, field := range r.fields() {
		header[http.CanonicalHeaderKey(field.Name)] = append(header[http.CanonicalHeaderKey(field.Name)], field.Value)
	}
	target := r.Target.url()
	built := &http.Request{
		Method: http.MethodPost, URL: target, Host: target.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body:          io.NopCloser(bytes.NewReader(r.Body)),
		ContentLength: int64(len(r.Body)),
	}
	return built.WithContext(ctx)
}
