package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/intervengine/webhooks/app"
)

// devOutput prints what `dev` has to say: for a person on a terminal, else as log lines with the
// same facts.
type devOutput struct {
	mu     sync.Mutex
	w      io.Writer
	color  bool
	logger *slog.Logger // nil on a terminal
}

// devFacts is what a person needs to go on.
type devFacts struct {
	base, login, adminKey, exception, dataDir, taken string
}

func newDevOutput(p *program, config *app.Config) *devOutput {
	out := &devOutput{w: p.stdout}
	if !terminal(p.stdout) || config.LogFormat == "json" {
		lines := *config
		lines.LogLevel = "info"
		out.logger = newLogger(&lines, p.stdout)
		return out
	}
	// https://no-color.org: any value that is not empty turns colour off.
	out.color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return out
}

// facts prints the addresses, the keys that are shown once, and the exception that was made.
func (o *devOutput) facts(f devFacts) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ctx := context.Background()
	if o.logger != nil {
		if f.taken != "" {
			o.logger.InfoContext(ctx, "address taken, moved to the next free port", "taken", f.taken, "address", f.base)
		}
		o.logger.InfoContext(ctx, "console login link, once and for 10 minutes", "url", f.login)
		o.logger.InfoContext(ctx, "addresses", "graphql", f.base+"/graphql", "inbox", f.base+"/inbox", "queue", f.base+"/asynq/", "data_dir", f.dataDir)
		if f.adminKey != "" {
			o.logger.InfoContext(ctx, "admin API key, shown once", "key", f.adminKey)
		}
		o.logger.InfoContext(ctx, "egress exception for the inbox, in dev only", "egress_allow", f.exception)
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n\n", o.paint("1", "Intervengine Webhooks"))
	if f.taken != "" {
		fmt.Fprintf(&b, "  %s is taken, moved to the next free port.\n\n", f.taken)
	}
	row := func(name, value string) { fmt.Fprintf(&b, "  %-10s %s\n", name, value) }
	row("Console", f.login+"  (once, 10 minutes)")
	row("GraphQL", f.base+"/graphql")
	row("Inbox", f.base+"/inbox")
	row("Queue", f.base+"/asynq/")
	row("Data", f.dataDir)
	if f.adminKey != "" {
		row("Admin key", f.adminKey+"  (shown once)")
	}
	row("Egress", f.exception+" is allowed, for the inbox, in dev only")
	b.WriteString("\n")
	_, _ = io.WriteString(o.w, b.String())
}

// sent is the first line of a delivery.
func (o *devOutput) sent(eventType, eventID string, matched int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.logger != nil {
		o.logger.InfoContext(context.Background(), "--> emitted", "event_type", eventType, "event_id", eventID, "matched", matched)
		return
	}
	fmt.Fprintf(o.w, "%s %-28s %s  matched %d\n", o.paint("36", "-->"), eventType, eventID, matched)
}

// delivered is the second line of a delivery.
func (o *devOutput) delivered(r app.Receipt, target string, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ms := float64(took.Microseconds()) / 1000
	if o.logger != nil {
		ctx := context.Background()
		if r.Signature == "ok" {
			o.logger.InfoContext(ctx, "<-- delivered, signature ok", "status", r.Answer, "target", target, "ms", ms, "event_id", r.ID)
		} else {
			o.logger.WarnContext(ctx, "<-- delivered, signature refused", "status", r.Answer, "target", target, "ms", ms, "event_id", r.ID, "why", r.Signature)
		}
		return
	}
	signature := o.paint("32", "signature ok")
	if r.Signature != "ok" {
		signature = o.paint("31", "signature refused: "+r.Signature)
	}
	fmt.Fprintf(o.w, "%s %s %s  %.1f ms  %s  %s\n", o.paint("36", "<--"), r.Answer, target, ms, signature, r.ID)
}

// next says what to try now.
func (o *devOutput) next(base string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	tries := []string{
		"open the console link above and run the query that it shows",
		"emit an event: mutation { emitEvent(input: {eventType: \"message.sent\", data: {hello: \"world\"}}) { event { id } matched } }",
		"make it fail: choose 500 or hang at " + base + "/inbox and watch the retry at " + base + "/asynq/",
		"create a webhook of your own with createWebhook; its secret key is shown once",
	}
	if o.logger != nil {
		for _, t := range tries {
			o.logger.InfoContext(context.Background(), "try next", "what", t)
		}
		return
	}
	fmt.Fprintf(o.w, "\n%s\n", o.paint("1", "Try next"))
	for _, t := range tries {
		fmt.Fprintf(o.w, "  - %s\n", t)
	}
	fmt.Fprintln(o.w, "\nDeliveries appear here as they happen. Ctrl-C stops.")
}

func (o *devOutput) paint(code, text string) string {
	if !o.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
