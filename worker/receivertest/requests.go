package receivertest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/intervengine/webhooks/signing"
)

// patience bounds every wait: far more than a healthy system needs on a busy
// machine, so that a wait that fails means a fault.
const patience = 30 * time.Second

// ErrNoSecret is a request's SignatureErr when the receiver has no key.
var ErrNoSecret = errors.New("receivertest: no secret to verify with")

// Request is one request as it came, never changed after it was kept.
type Request struct {
	Number  int // 1 for the first
	Method  string
	Path    string
	Query   string
	Proto   string
	Host    string
	Header  http.Header
	Body    []byte
	BodyErr error     // why reading the body broke off
	At      time.Time // when it was taken up
	// Arrived is when it came: where it lay in the kernel before it was taken up, because this process had no
	// time for it, earlier than At. Known of HTTP/1.1 on Linux; else it is At.
	Arrived      time.Time
	RemoteAddr   string // the same for requests on one connection
	SignatureErr error  // nil: the signature verifies
}

// ID is the webhook-id header.
func (r Request) ID() string { return r.Header.Get(signing.HeaderID) }

// keep stores the request and returns what to answer it with.
func (r *Receiver) keep(request *Request) (Answer, <-chan struct{}) {
	r.mu.Lock()
	request.Number = len(r.requests) + 1
	request.SignatureErr = ErrNoSecret
	if r.verifier != nil {
		request.SignatureErr = r.verifier.Verify(request.Header, request.Body, request.At, 0)
	}
	r.requests = append(r.requests, *request)
	answer := r.answer
	if len(r.script) > 0 {
		answer, r.script = r.script[0], r.script[1:]
	}
	call, released := r.onRequest, r.released
	r.notify()
	r.mu.Unlock()
	if call != nil {
		call(*request)
	}
	return answer, released
}

// notify wakes those who wait; the lock is held.
func (r *Receiver) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Requests returns what came so far, in order of arrival.
func (r *Receiver) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// ByID returns the requests with that webhook-id, in order of arrival.
func (r *Receiver) ByID(webhookID string) []Request {
	var found []Request
	for _, request := range r.Requests() {
		if request.ID() == webhookID {
			found = append(found, request)
		}
	}
	return found
}

// Connections returns how many connections were accepted so far.
func (r *Receiver) Connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connections
}

// Wait returns the requests when at least n came, and fails the test when they
// do not come.
func (r *Receiver) Wait(t testing.TB, n int) []Request {
	t.Helper()
	return r.WaitFor(t, fmt.Sprintf("%d requests", n), func(requests []Request) bool { return len(requests) >= n })
}

// WaitFor returns the requests when enough holds of them, and fails the test,
// printing what came, when it never does.
func (r *Receiver) WaitFor(t testing.TB, what string, enough func([]Request) bool) []Request {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		r.mu.Lock()
		requests, changed := slices.Clone(r.requests), r.changed
		r.mu.Unlock()
		if enough(requests) {
			return requests
		}
		select {
		case <-changed:
		case <-deadline.C:
			t.Fatalf("receivertest: waited %s for %s; came: %s", patience, what, describe(requests))
		}
	}
}

func describe(requests []Request) string {
	if len(requests) == 0 {
		return "nothing"
	}
	var text strings.Builder
	for _, request := range requests {
		fmt.Fprintf(&text, "\n  %d. %s %s %s, %d bytes, signature: %v", request.Number, request.Method, request.Path, request.ID(), len(request.Body), request.SignatureErr)
	}
	return text.String()
}
