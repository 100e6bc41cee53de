package app

import (
	"context"
	"encoding/json"
	"html/template"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/intervengine/webhooks/signing"
)

// The inbox's bounds.
const (
	inboxKeeps   = 100
	inboxBodyMax = 1 << 20
	inboxHang    = 2 * time.Minute
	// AnswerOK is what the inbox answers until it is told otherwise.
	answerOK = "200"
	// answerHang makes the inbox hold the request until the sender gives up.
	answerHang = "hang"
)

// Receipt is one request that the inbox got.
type Receipt struct {
	ID         string    `json:"id"` // webhook-id
	EventType  string    `json:"eventType"`
	ReceivedAt time.Time `json:"receivedAt"`
	Answer     string    `json:"answer"`
	Signature  string    `json:"signature"` // "ok", or why not
	Body       string    `json:"body"`
}

// Inbox is the built-in receiver of `dev`. It verifies each request with the reference library
// of Standard Webhooks, as a receiver of the user's own would, and answers 200 or whatever the
// target's ?answer= or the switch on its page says.
type Inbox struct {
	// Keys gives the keys of the webhooks that point here: whsec_… or whpk_….
	Keys func(context.Context) ([]string, error)
	// Received is told of every request, in order; it must not block for long.
	Received func(context.Context, Receipt)

	origin *http.CrossOriginProtection
	mu     sync.Mutex
	answer string
	kept   []Receipt // newest last
}

// NewInbox makes an inbox that answers 200.
func NewInbox(keys func(context.Context) ([]string, error), received func(context.Context, Receipt)) *Inbox {
	return &Inbox{Keys: keys, Received: received, origin: http.NewCrossOriginProtection(), answer: answerOK}
}

// ServeHTTP serves the page (GET), receives webhooks (POST) and takes the switch (POST …/answer).
func (b *Inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/answer"):
		b.change(w, r)
	case r.Method == http.MethodPost:
		b.receive(w, r)
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/receipts"):
		writeJSON(w, http.StatusOK, b.receipts())
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		b.page(w)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
}

// receive is what any receiver does: read the body as it is, verify, answer.
func (b *Inbox) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, inboxBodyMax))
	if err != nil {
		http.Error(w, "body could not be read", http.StatusBadRequest)
		return
	}
	receipt := Receipt{
		ID: r.Header.Get("webhook-id"), ReceivedAt: time.Now().UTC(), Body: string(body),
		Signature: b.verify(r.Context(), r.Header, body),
	}
	var envelope struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(body, &envelope) == nil {
		receipt.EventType = envelope.Type
	}
	b.mu.Lock()
	receipt.Answer = b.answer
	if a := r.URL.Query().Get("answer"); validAnswer(a) {
		receipt.Answer = a
	}
	if receipt.Signature != "ok" && receipt.Answer == answerOK {
		receipt.Answer = "401"
	}
	b.kept = append(b.kept, receipt)
	if len(b.kept) > inboxKeeps {
		b.kept = b.kept[len(b.kept)-inboxKeeps:]
	}
	b.mu.Unlock()
	b.Received(context.WithoutCancel(r.Context()), receipt)

	if receipt.Answer == answerHang {
		select {
		case <-r.Context().Done():
		case <-time.After(inboxHang):
		}
		return
	}
	status, _ := strconv.Atoi(receipt.Answer) // checked by validAnswer
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "2")
	}
	w.WriteHeader(status)
}

// verify says "ok" where one of the keys fits, else why none does.
func (b *Inbox) verify(ctx context.Context, header http.Header, body []byte) string {
	keys, err := b.Keys(ctx)
	if err != nil {
		return "not checked: the keys could not be read"
	}
	why := "no webhook points here"
	for _, key := range keys {
		if strings.HasPrefix(key, "whpk_") {
			// The reference library knows HMAC alone.
			err = signing.Verify(key, header, body, time.Now(), 5*time.Minute)
		} else if webhook, e := standardwebhooks.NewWebhook(key); e != nil {
			err = e
		} else {
			err = webhook.Verify(body, header)
		}
		if err == nil {
			return "ok"
		}
		why = err.Error()
	}
	return why
}

func validAnswer(a string) bool {
	if a == answerHang {
		return true
	}
	n, err := strconv.Atoi(a)
	return err == nil && n >= 200 && n <= 599 && strconv.Itoa(n) == a
}

// change turns the switch.
func (b *Inbox) change(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	answer := r.PostFormValue("answer")
	if b.origin.Check(r) != nil || !validAnswer(answer) {
		http.Error(w, "answer must be a status from 200 to 599, or hang", http.StatusBadRequest)
		return
	}
	b.mu.Lock()
	b.answer = answer
	b.mu.Unlock()
	http.Redirect(w, r, "/inbox", http.StatusSeeOther)
}

func (b *Inbox) receipts() []Receipt {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Receipt, len(b.kept))
	for n, r := range b.kept {
		out[len(b.kept)-1-n] = r
	}
	return out
}

var inboxPage = template.Must(template.New("inbox").Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="3">
<title>Inbox · Intervengine Webhooks</title>
<link rel="icon" href="/console/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/console/console.css">
</head>
<body>
<main class="wide">
<h1>Inbox</h1>
<p>A receiver to try things with. It verifies every signature, and answers what you choose here or what <code>?answer=</code> in the target URL says.</p>
<form method="post" action="/inbox/answer">
<label for="answer">Answer the next requests with</label>
<select id="answer" name="answer">{{range .Answers}}<option value="{{.Value}}"{{if eq .Value $.Answer}} selected{{end}}>{{.Label}}</option>{{end}}</select>
<button type="submit">Switch</button>
</form>
<table>
<caption>The newest {{len .Receipts}} requests</caption>
<thead><tr><th scope="col">Received</th><th scope="col">Event type</th><th scope="col">Id</th><th scope="col">Signature</th><th scope="col">Answered</th><th scope="col">Body</th></tr></thead>
<tbody>{{range .Receipts}}<tr><td><time>{{.ReceivedAt.Format "15:04:05.000"}}</time></td><td>{{.EventType}}</td><td><code>{{.ID}}</code></td><td>{{.Signature}}</td><td>{{.Answer}}</td><td><details><summary>show</summary><pre>{{.Body}}</pre></details></td></tr>
{{else}}<tr><td colspan="6">Nothing yet. Emit an event with <code>emitEvent</code> and it shows up here.</td></tr>{{end}}</tbody>
</table>
</main>
</body>
</html>
`))

func (b *Inbox) page(w http.ResponseWriter) {
	type choice struct{ Value, Label string }
	answers := []choice{
		{"200", "200 OK"},
		{"500", "500 server error: it is retried"},
		{"410", "410 gone: the webhook is disabled"},
		{"429", "429 with Retry-After: 2"},
		{"302", "302: not followed"},
		{answerHang, "nothing: hang until the timeout"},
	}
	b.mu.Lock()
	answer := b.answer
	b.mu.Unlock()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set(policyHeader, pagePolicy)
	_ = inboxPage.Execute(w, struct {
		Answer   string
		Answers  []choice
		Receipts []Receipt
	}{answer, answers, b.receipts()})
}
