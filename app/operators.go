package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hibiken/asynqmon"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
)

const (
	queueUIPath  = "/asynq"
	metricsPath  = "/metrics"
	probeTimeout = 2 * time.Second
)

// operatorsPath reports whether path is one that only operators may see.
func operatorsPath(path string) bool {
	return path == metricsPath || path == queueUIPath || strings.HasPrefix(path, queueUIPath+"/")
}

// operatorRoutes mounts the pages of those who run the server.
func (a *App) operatorRoutes(mux *http.ServeMux) {
	mux.Handle(metricsPath, a.operatorsOnly(promhttp.HandlerFor(a.metrics, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, Registry: a.metrics,
	})))
	if a.options.Role == RoleWorker {
		return
	}
	ui := asynqmon.New(asynqmon.Options{
		RootPath:         queueUIPath,
		RedisConnOpt:     a.queue.ConnOpt(),
		ReadOnly:         !a.options.Config.AsynqUIWrite,
		PayloadFormatter: asynqmon.PayloadFormatterFunc(queue.FormatPayload),
		ResultFormatter:  asynqmon.ResultFormatterFunc(func(string, []byte) string { return "" }),
	})
	a.lifecycle.onStop("queue UI", func(context.Context) error { return ui.Close() })
	mux.Handle(queueUIPath+"/", a.operatorsOnly(queueUI(ui)))
	mux.Handle(queueUIPath, a.operatorsOnly(http.RedirectHandler(queueUIPath+"/", http.StatusMovedPermanently)))
}

// queueUI serves the queue's web UI under a policy as strict as that of our own pages. Its page
// carries scripts of its own, and its script makes style elements: both are let through by a nonce
// that is new for each answer.
func queueUI(ui http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		path := strings.TrimPrefix(r.URL.Path, queueUIPath)
		if strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/static/") {
			ui.ServeHTTP(w, r)
			return
		}
		answer := &bufferedAnswer{header: http.Header{}, status: http.StatusOK}
		ui.ServeHTTP(answer, r)
		maps.Copy(w.Header(), answer.header)
		body := answer.body.Bytes()
		if kind := answer.header.Get("Content-Type"); kind == "" || strings.HasPrefix(kind, "text/html") {
			nonce := rand.Text()
			body = bytes.ReplaceAll(body, []byte("<script>"), []byte(`<script nonce="`+nonce+`">`))
			body = bytes.Replace(body, []byte("<head>"), []byte(`<head><meta property="csp-nonce" content="`+nonce+`"/>`), 1)
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Header().Set(policyHeader, strings.NewReplacer(
				"script-src 'self'", "script-src 'self' 'nonce-"+nonce+"'", "style-src 'self'", "style-src 'self' 'nonce-"+nonce+"'",
			).Replace(pagePolicy))
		}
		w.WriteHeader(answer.status)
		_, _ = w.Write(body)
	})
}

// bufferedAnswer keeps an answer that is changed before it is sent. Only pages of a known size are.
type bufferedAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (b *bufferedAnswer) Header() http.Header { return b.header }

func (b *bufferedAnswer) WriteHeader(status int) { b.status = status }

func (b *bufferedAnswer) Write(p []byte) (int, error) { return b.body.Write(p) }

// operatorsOnly lets through who has the scope ADMIN: by the Authorization header (Bearer, or
// Basic with the key as the password, as a browser asks for it) or by a session. A browser
// without either is shown the login form.
func (a *App) operatorsOnly(next http.Handler) http.Handler {
	check := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := a.auth.Authenticate(auth.WithRemoteAddr(r.Context(), r.RemoteAddr), r.Header.Get("Authorization"))
		var limited *auth.RateLimitedError
		var away *models.UnavailableError
		switch {
		case err == nil && p.Has(models.ScopeAdmin):
			r.Header.Del("Authorization")
			next.ServeHTTP(w, r)
		case err == nil:
			http.Error(w, "this page needs a key with the scope ADMIN", http.StatusForbidden)
		case errors.As(err, &limited):
			http.Error(w, err.Error(), http.StatusTooManyRequests)
		case errors.As(err, &away):
			http.Error(w, "the key could not be checked: the database is unavailable", http.StatusServiceUnavailable)
		case a.graph != nil && strings.Contains(r.Header.Get("Accept"), "text/html"):
			writeLoginPage(w, http.StatusUnauthorized, nextPath(r.URL.RequestURI()), "")
		default:
			w.Header().Set("WWW-Authenticate", `Basic realm="Intervengine Webhooks: any name, an ADMIN API key as the password"`)
			http.Error(w, "an API key with the scope ADMIN is needed", http.StatusUnauthorized)
		}
	})
	return a.sessions.attach(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, ok := r.BasicAuth(); ok {
			// A browser sends these by itself, like a cookie, and with other sites' requests too.
			if err := a.sessions.origin.Check(asChanging(r)); err != nil {
				http.Error(w, "cross-origin request refused", http.StatusForbidden)
				return
			}
			r = r.Clone(r.Context())
			r.Header.Set("Authorization", "Bearer "+password)
		}
		check.ServeHTTP(w, r)
	}))
}

// healthz says that the process runs; it asks nothing else.
func (a *App) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok", "version": a.options.Version})
}

// part is the state of one thing that the process depends on.
type part struct {
	Status string `json:"status"` // ok, degraded or unavailable
	Detail string `json:"detail,omitempty"`
}

// readyz says whether requests can be served, and names each part. A queue that is away degrades
// the process only: events are accepted, and the reconciler catches up.
func (a *App) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
	defer cancel()
	parts := map[string]part{"database": {Status: "ok"}, "queue": {Status: "ok"}, "migrations": {Status: "ok"}}
	status, code := "ready", http.StatusOK
	// Details stay general: who asks is not known, and drivers name hosts and users.
	if err := a.store.Ping(ctx); err != nil {
		parts["database"] = part{"unavailable", "the database does not answer"}
		parts["migrations"] = part{"unavailable", "not known while the database does not answer"}
		status, code = "unavailable", http.StatusServiceUnavailable
	} else if err := a.store.CheckMigrated(ctx); err != nil {
		parts["migrations"] = part{"unavailable", "the schema is not the one that this version needs; run migrate"}
		status, code = "unavailable", http.StatusServiceUnavailable
	}
	// A Redis that is read-only or full answers a ping, and is of no use all the same.
	if err := errors.Join(a.queue.Ping(ctx), a.queue.Degraded()); err != nil {
		parts["queue"] = part{"degraded", "the queue does not answer or takes nothing; deliveries start when the reconciler reaches it"}
		if code == http.StatusOK {
			status = "degraded"
		}
	}
	if a.worker != nil {
		parts["worker"] = part{Status: "ok"}
	}
	// Of whichever process does it, so that one that cannot do it itself says when nobody does.
	if code == http.StatusOK {
		parts["reconciler"] = a.reconcilerPart(ctx)
		if parts["reconciler"].Status != "ok" {
			status = "degraded"
		}
	}
	writeJSON(w, code, map[string]any{"status": status, "parts": parts, "version": a.options.Version})
}

// reconcilerPart says how long ago any process completed a pass.
func (a *App) reconcilerPart(ctx context.Context) part {
	late := 3*a.options.Config.ReconcileInterval + probeTimeout
	age, known, err := a.store.ReconciledAgo(ctx)
	switch {
	case err != nil:
		return part{"degraded", "not known: the database does not answer"}
	case known && age <= late:
		return part{"ok", "the last pass was " + age.Round(time.Second).String() + " ago"}
	case known:
		return part{"degraded", "has not run for " + age.Round(time.Second).String() + "; is a worker running?"}
	case time.Since(a.started) <= late:
		return part{"ok", "has not run yet"}
	}
	return part{"degraded", "has never run; is a worker running?"}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
