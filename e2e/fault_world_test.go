package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/internal/testenv"
	"github.com/intervengine/webhooks/signing"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// full says that faults run in their full length, as `make faults` wants, not in the short form.
func full() bool { return os.Getenv("FAULTS") == "full" }

// either is the short form's value, or the full one's.
func either[T any](short, long T) T {
	if full() {
		return long
	}
	return short
}

// world is a running product under load, with all that a fault may be done to and the books of it.
type world struct {
	t        testing.TB
	env      map[string]string
	postgres *testenv.Server // nil: embedded, or shared
	redis    *testenv.Server // nil: embedded
	apis     []*process      // embedded: the one process there is
	workers  []*process
	clients  []*apptest.Client
	database string // URL of its Postgres, past every proxy; "" embedded
	prefix   string // of the idempotency keys
	padding  string // in the data of every event
	clocks   []*wrongClock
	ownTime  bool // the database's clock is among them: signatures are of another time than the receivers'

	mu        sync.Mutex
	books     books
	receivers map[string]*receivertest.Receiver // by the webhook's name
	callLimit time.Duration
	pace      int // new keys a second of the load that was begun last
}

// plan says what a world is made of.
type plan struct {
	stack       apptest.Stack
	apis        int  // production; 0: one, in the full form two
	workers     int  // production; 0: two
	ownPostgres bool // a Postgres that the fault may be done to
	postgres    []string
	redis       []string // arguments
	// databaseProxy and redisProxy, where set, are put between.
	throughDatabase, throughRedis func(url string) string
	env                           map[string]string
	few                           bool // only a healthy and a failing webhook
	none                          bool // no webhook at all: the test makes its own
	padding                       int  // bytes that every event carries besides
	// clocks are of the processes in the order of their first start, APIs first; where there are none,
	// and in processes that are started again, the clock is right.
	clocks    []*wrongClock
	callLimit time.Duration
}

// newWorld starts it and subscribes the mix of webhooks that every fault is done to: healthy ones,
// one that fails, one that fails at first, a slow, a rate-limited and a paused one.
func newWorld(t testing.TB, p plan) *world {
	t.Helper()
	w := &world{
		t: t, prefix: strings.ReplaceAll(t.Name(), "/", "-"), receivers: map[string]*receivertest.Receiver{},
		env: apptest.Environment(t, apptest.Embedded), callLimit: 10 * time.Second, padding: strings.Repeat("x", p.padding),
	}
	if p.callLimit > 0 {
		w.callLimit = p.callLimit
	}
	w.clocks, w.ownTime = p.clocks, len(p.clocks) > 0 && p.stack == apptest.Embedded
	w.books.patience = 5 * time.Second
	if p.stack == apptest.Production {
		if p.ownPostgres || p.postgres != nil {
			w.postgres = testenv.PostgresServer(t, p.postgres...)
			w.env["DATABASE_URL"] = w.postgres.URL()
		} else {
			w.env["DATABASE_URL"] = testenv.PostgresURL(t)
		}
		w.database = w.env["DATABASE_URL"]
		w.redis = testenv.RedisServer(t, p.redis...)
		w.env["REDIS_URL"] = w.redis.URL()
		if p.throughDatabase != nil {
			w.env["DATABASE_URL"] = p.throughDatabase(w.env["DATABASE_URL"])
		}
		if p.throughRedis != nil {
			w.env["REDIS_URL"] = p.throughRedis(w.env["REDIS_URL"])
		}
	}
	w.env["RECONCILE_INTERVAL"] = "1s"
	// The load fails on purpose and all the time: the breaker, which has tests of its own, would
	// turn every fault into a wait for it.
	w.env["BREAKER_MIN_ATTEMPTS"] = "1000000"
	maps.Copy(w.env, p.env)
	apis, workers := max(p.apis, either(1, 2)), p.workers
	if workers == 0 {
		workers = 2
	}
	if p.stack == apptest.Embedded {
		apis, workers = 1, 0
	}
	for range apis {
		w.apis = append(w.apis, w.startAPI(freeAddr(t)))
		w.clients = append(w.clients, apptest.NewClient(w.apis[len(w.apis)-1].url(), w.env["ADMIN_API_KEY"]))
	}
	for range workers {
		w.workers = append(w.workers, w.startWorker())
	}
	for _, worker := range w.workers {
		worker.url()
	}

	if p.none {
		return w
	}
	schedule := []time.Duration{200 * time.Millisecond, 200 * time.Millisecond, 200 * time.Millisecond}
	// Long enough that what is killed again and again is not exhausted by it.
	long := make([]time.Duration, 12)
	for n := range long {
		long[n] = 200 * time.Millisecond
	}
	ok := receivertest.Status(http.StatusOK)
	w.subscribe(subscribed{name: "healthy", schedule: long}, func(int) receivertest.Answer { return ok }, nil)
	w.subscribe(subscribed{name: "failing", schedule: schedule}, func(int) receivertest.Answer { return receivertest.Reply(http.StatusInternalServerError, "no") }, nil)
	if p.few {
		return w
	}
	w.subscribe(subscribed{name: "flaky", schedule: long}, func(nth int) receivertest.Answer {
		if nth == 1 {
			return receivertest.Status(http.StatusServiceUnavailable)
		}
		return ok
	}, nil)
	w.subscribe(subscribed{name: "slow", schedule: long}, func(int) receivertest.Answer { return receivertest.Delay(300*time.Millisecond, ok) }, nil)
	w.subscribe(subscribed{name: "limited", schedule: long, rate: 25}, func(int) receivertest.Answer { return ok }, nil)
	w.subscribe(subscribed{name: "paused", schedule: long, held: true}, func(int) receivertest.Answer { return ok }, nil)
	return w
}

func (w *world) startAPI(addr string) *process {
	if w.env["DATABASE_URL"] == "" {
		return w.start(addr, "serve")
	}
	return w.start(addr, "api")
}

func (w *world) startWorker() *process { return w.start("127.0.0.1:0", "worker") }

func (w *world) start(addr, command string) *process {
	env, program := maps.Clone(w.env), binary
	env["LISTEN_ADDR"] = addr
	if len(w.clocks) > 0 {
		built, err := wrongServer()
		require.NoError(w.t, err)
		env["WRONG_CLOCK"], program = w.clocks[0].file, built
		w.clocks = w.clocks[1:]
	}
	return startProgram(w.t, program, env, command)
}

// restartAPI starts the nth API anew, where it was.
func (w *world) restartAPI(n int) {
	w.t.Helper()
	w.apis[n] = w.startAPI(strings.TrimPrefix(w.clients[n].URL, "http://"))
	w.apis[n].url()
}

// api is a client of the first API.
func (w *world) api() *apptest.Client { return w.clients[0] }

// subscribe makes a webhook for the load and a receiver that logs what it answers. answer gets the
// number of the request among those of its webhook-id, from 1.
func (w *world) subscribe(s subscribed, answer func(nth int) receivertest.Answer, more map[string]any, options ...receivertest.Option) *receivertest.Receiver {
	w.t.Helper()
	receiver := receivertest.New(w.t, options...)
	input := map[string]any{"name": s.name, "targetUrl": receiver.URL(), "eventTypes": []string{"message.sent"}, "retrySchedule": iso(s.schedule)}
	if s.rate > 0 {
		input["rateLimitPerSecond"] = s.rate
	}
	maps.Copy(input, more)
	c := create(w.t, w.api(), input)
	require.Empty(w.t, c.UserErrors)
	receiver.Secret(c.SecretKey)
	s.id = c.Webhook.ID
	seen := map[string]int{}
	receiver.Answer(func(x *receivertest.Exchange) {
		body := sha256.Sum256(x.Request.Body)
		r := receipt{
			webhook: s.id, id: x.Request.ID(), timestamp: x.Request.Header.Get(signing.HeaderTimestamp), hash: hex.EncodeToString(body[:8]),
			at: x.Request.At, arrived: x.Request.Arrived, broken: x.Request.BodyErr != nil, signature: x.Request.SignatureErr,
		}
		if w.ownTime {
			seconds, _ := strconv.ParseInt(r.timestamp, 10, 64)
			r.signature = signing.Verify(c.SecretKey, x.Request.Header, x.Request.Body, time.Unix(seconds, 0), 0)
		}
		w.mu.Lock()
		seen[r.id]++
		nth, place := seen[r.id], len(w.books.receipts)
		w.books.receipts = append(w.books.receipts, r)
		w.mu.Unlock()
		told := &statusWriter{ResponseWriter: x.W, tell: func(status int) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.books.receipts[place].status, w.books.receipts[place].answered = status, time.Now()
		}}
		x.W = told
		answer(nth)(x)
	})
	if s.held {
		change(w.t, w.api(), "pauseWebhook", s.id)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.receivers[s.name] = receiver
	w.books.webhooks = append(w.books.webhooks, s)
	return receiver
}

// statusWriter tells the status before it is written.
type statusWriter struct {
	http.ResponseWriter
	tell func(status int)
}

func (s *statusWriter) WriteHeader(status int) {
	s.tell(status)
	s.ResponseWriter.WriteHeader(status)
}

func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Hijack gives the connection to an answer that is no HTTP response.
func (s *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	s.tell(0)
	return http.NewResponseController(s.ResponseWriter).Hijack()
}

func iso(waits []time.Duration) []string {
	out := make([]string, len(waits))
	for n, wait := range waits {
		out[n] = fmt.Sprintf("PT%gS", wait.Seconds())
	}
	return out
}

// load is emitters at a steady pace; each repeats a call under its key until it is answered.
type load struct {
	stop context.CancelFunc // of new keys
	cut  context.CancelFunc // of calls
	done chan struct{}
}

// emit starts the load: perSecond new keys, from 8 callers, over all APIs.
func (w *world) emit(perSecond int) *load { return w.emitBy(8, perSecond) }

// emitBy does so by as many callers as may wait for their answers at once.
func (w *world) emitBy(most, perSecond int) *load {
	ctx, stop := context.WithCancel(w.t.Context())
	calls, cut := context.WithCancel(w.t.Context())
	l := &load{stop: stop, cut: cut, done: make(chan struct{})}
	w.mu.Lock()
	w.pace = perSecond
	w.mu.Unlock()
	keys := make(chan int)
	go func() {
		defer close(keys)
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			select {
			case keys <- n:
			case <-ctx.Done():
				return
			}
		}
	}()
	began := time.Now().UnixNano()
	go func() {
		defer close(l.done)
		var callers sync.WaitGroup
		for caller := range most {
			callers.Go(func() {
				for n := range keys {
					key := fmt.Sprintf("%s-%d-%d", w.prefix, began, n)
					for try := caller; calls.Err() == nil && !w.call(calls, w.clients[try%len(w.clients)], key, n); try++ {
						select {
						case <-calls.Done():
						case <-time.After(50 * time.Millisecond): // a caller's own pause before it tries again
						}
					}
				}
			})
		}
		callers.Wait()
	}()
	w.t.Cleanup(func() {
		stop()
		cut()
		<-l.done
	})
	return l
}

// end makes no new keys and waits until those that were begun are answered.
func (l *load) end(t testing.TB) {
	t.Helper()
	l.stop()
	select {
	case <-l.done:
	case <-time.After(60 * time.Second):
		t.Fatal("calls are not answered a minute after the faults")
	}
}

// call emits once under the key and writes down what was answered; it reports an acceptance.
func (w *world) call(ctx context.Context, api *apptest.Client, key string, n int) bool {
	ctx, cancel := context.WithTimeout(ctx, w.callLimit)
	defer cancel()
	c := call{key: key, sent: time.Now()}
	a, err := api.Post(ctx, `mutation($data: JSON!, $key: String!) { emitEvent(input: {eventType: "message.sent", data: $data, idempotencyKey: $key}) {
		event { id } duplicate matched userErrors { code message } } }`, map[string]any{"data": map[string]any{"n": n, "text": "<ü&>", "padding": w.padding}, "key": key})
	c.answered = time.Now()
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		return false // the test ended it
	case err != nil:
		c.err = err.Error()
	case len(a.Errors) > 0:
		c.code, c.err = a.Codes()[0], a.Errors[0].Message
	default:
		var out struct{ EmitEvent emitted }
		if err := json.Unmarshal(a.Data, &out); err != nil || out.EmitEvent.Event == nil {
			c.code, c.err = "INTERNAL", string(a.Body) // nothing in the load may be refused
		} else {
			c.id, c.matched, c.duplicate = out.EmitEvent.Event.ID, out.EmitEvent.Matched, out.EmitEvent.Duplicate
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.books.calls = append(w.books.calls, c)
	return c.id != ""
}

// counts are how the calls since a moment went.
func (w *world) counts(since time.Time) (accepted int, failed map[string]int, slowest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	failed = map[string]int{}
	for _, c := range w.books.calls {
		if c.sent.Before(since) {
			continue
		}
		slowest = max(slowest, c.answered.Sub(c.sent))
		switch {
		case c.id != "":
			accepted++
		case c.code != "":
			failed[c.code]++
		default:
			failed["no answer"]++
		}
	}
	return accepted, failed, slowest
}

// accept waits until so many calls more were accepted: a minute longer than twice what the load takes to make them.
func (w *world) accept(more int) {
	w.t.Helper()
	since := time.Now()
	w.mu.Lock()
	within := time.Minute + 2*time.Duration(more)*time.Second/time.Duration(max(w.pace, 1))
	w.mu.Unlock()
	apptest.EventuallyWithin(w.t, within, func() (bool, string) {
		accepted, failed, _ := w.counts(since)
		return accepted >= more, fmt.Sprintf("%d accepted, failed: %v", accepted, failed)
	})
}

// pass lets time go by under the load: faults have a length, which is part of what is tested.
func (w *world) pass(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.t.Context().Done():
	}
}

// settle waits until every delivery has ended, reads the history and demands that the books agree. Those to a webhook with a
// rate limit may take as much longer as their backlog needs.
func (w *world) settle(within time.Duration) {
	w.t.Helper()
	began := time.Now()
	accepted, _, _ := w.counts(time.Time{})
	backlog := time.Duration(0)
	for _, s := range w.books.webhooks {
		if s.rate == 0 {
			w.ended(began.Add(within), map[string]any{"webhookId": s.id})
			continue
		}
		backlog = max(backlog, time.Duration(accepted)*time.Second/time.Duration(s.rate))
	}
	w.ended(began.Add(within+backlog), map[string]any{})
	took := time.Since(began).Round(10 * time.Millisecond)
	books := w.read()
	violations := books.violations()
	w.t.Logf("settled after %s: %s; %d violations", took, books.summary(), len(violations))
	for n, v := range violations {
		if n == 20 {
			break
		}
		w.t.Error(v)
	}
	if len(violations) > 20 {
		w.t.Errorf("and %d more", len(violations)-20)
	}
}

// ended waits until none of the deliveries that filter leaves is under way.
func (w *world) ended(by time.Time, filter map[string]any) {
	w.t.Helper()
	filter["statuses"] = []string{"PENDING", "RETRYING"}
	apptest.EventuallyWithin(w.t, time.Until(by), func() (bool, string) {
		var out struct {
			Deliveries struct {
				Nodes []struct{ ID, Status, StatusReason, NextAttemptAt string }
			}
		}
		a, err := w.api().Post(w.t.Context(), `query($filter: DeliveryFilter!) {
			deliveries(first: 5, filter: $filter) { nodes { id status statusReason nextAttemptAt } } }`, map[string]any{"filter": filter})
		if err != nil || len(a.Errors) > 0 {
			return false, fmt.Sprint(err, string(a.Body))
		}
		if err := json.Unmarshal(a.Data, &out); err != nil {
			return false, err.Error()
		}
		return len(out.Deliveries.Nodes) == 0, fmt.Sprintf("still open: %+v", out.Deliveries.Nodes)
	})
}

// read completes the books by the history, page by page.
func (w *world) read() *books {
	w.t.Helper()
	var events []eventRecord
	for after := (*string)(nil); ; {
		var out struct {
			Events struct {
				Nodes []struct {
					ID             string
					IdempotencyKey *string
				}
				PageInfo pageInfo
			}
		}
		w.api().Query(w.t, `query($after: String) { events(first: 100, after: $after, filter: {eventTypes: ["message.sent"]}) { nodes { id idempotencyKey } pageInfo { hasNextPage endCursor } } }`,
			map[string]any{"after": after}, &out)
		for _, n := range out.Events.Nodes {
			e := eventRecord{id: n.ID}
			if n.IdempotencyKey != nil {
				e.key = *n.IdempotencyKey
			}
			events = append(events, e)
		}
		if !out.Events.PageInfo.HasNextPage {
			break
		}
		after = out.Events.PageInfo.EndCursor
	}
	var records []deliveryRecord
	for after := (*string)(nil); ; {
		var out struct {
			Deliveries struct {
				Nodes    []historic
				PageInfo pageInfo
			}
		}
		w.api().Query(w.t, `query($after: String) { deliveries(first: 50, after: $after, filter: {eventTypes: ["message.sent"]}) { nodes { id status statusReason attemptCount createdAt completedAt
			event { id } webhook { id } attempts { number outcome error startedAt endedAt request { body headers { name value } } response { status } } }
			pageInfo { hasNextPage endCursor } } }`, map[string]any{"after": after}, &out)
		for _, n := range out.Deliveries.Nodes {
			records = append(records, n.record())
		}
		if !out.Deliveries.PageInfo.HasNextPage {
			break
		}
		after = out.Deliveries.PageInfo.EndCursor
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.books.events, w.books.deliveries = events, records
	return &w.books
}

type pageInfo struct {
	HasNextPage bool
	EndCursor   *string
}

// historic is a delivery as the API tells it.
type historic struct {
	ID, Status     string
	StatusReason   *string
	AttemptCount   int
	CreatedAt      time.Time
	CompletedAt    *time.Time
	Event, Webhook struct{ ID string }
	Attempts       []struct {
		Number    int
		Outcome   *string
		Error     *string
		StartedAt time.Time
		EndedAt   *time.Time
		Request   struct {
			Body    string
			Headers []struct{ Name, Value string }
		}
		Response *struct{ Status int }
	}
}

func (h *historic) record() deliveryRecord {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	d := deliveryRecord{
		id: h.ID, event: h.Event.ID, webhook: h.Webhook.ID, status: h.Status, reason: text(h.StatusReason), attemptCount: h.AttemptCount,
		createdAt: h.CreatedAt,
	}
	if h.CompletedAt != nil {
		d.completedAt = *h.CompletedAt
	}
	for _, a := range h.Attempts {
		body := sha256.Sum256([]byte(a.Request.Body))
		record := attemptRecord{number: a.Number, outcome: text(a.Outcome), error: text(a.Error), startedAt: a.StartedAt, hash: hex.EncodeToString(body[:8])}
		if a.EndedAt != nil {
			record.endedAt = *a.EndedAt
		}
		if a.Response != nil {
			record.status = a.Response.Status
		}
		for _, header := range a.Request.Headers {
			if strings.EqualFold(header.Name, signing.HeaderTimestamp) {
				record.timestamp = header.Value
			}
		}
		d.attempts = append(d.attempts, record)
	}
	return d
}

// senders are the processes that send: the workers, or the one that does everything.
func (w *world) senders() []*process {
	if len(w.workers) > 0 {
		return w.workers
	}
	return w.apis
}

// restartSenders starts anew those of them that have ended.
func (w *world) restartSenders() {
	w.t.Helper()
	for n, p := range w.senders() {
		if !p.ended() {
			continue
		}
		if len(w.workers) == 0 {
			w.restartAPI(n)
		} else {
			w.workers[n] = w.startWorker()
			w.workers[n].url()
		}
	}
}

// logged gives the receipts of one receiver so far, by its webhook's name.
func (w *world) logged(name string) []receipt {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []receipt
	for _, s := range w.books.webhooks {
		for _, r := range w.books.receipts {
			if s.name == name && r.webhook == s.id {
				out = append(out, r)
			}
		}
	}
	return out
}

// abandoned is how many attempts the history shows as ABANDONED, after settle.
func (w *world) abandoned() int {
	n := 0
	for _, d := range w.books.deliveries {
		for _, a := range d.attempts {
			if a.abandoned() {
				n++
			}
		}
	}
	return n
}

// twice is how many requests came after the receiver had answered a 2xx under the same id.
func (w *world) twice() int {
	seen, n := map[pair]bool{}, 0
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.books.receipts {
		p := pair{r.webhook, r.id}
		if seen[p] {
			n++
		}
		seen[p] = seen[p] || r.status/100 == 2
	}
	return n
}

// metric reads an unlabelled metric of a process.
func metric(t testing.TB, api *apptest.Client, name string) float64 {
	t.Helper()
	code, body := get(t, api.URL+"/metrics", http.Header{"Authorization": {"Bearer " + api.Key}})
	require.Equal(t, http.StatusOK, code)
	for line := range strings.Lines(body) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			require.NoError(t, err)
			return value
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
