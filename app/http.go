package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/netutil"

	"github.com/intervengine/webhooks/console"
)

// Limits of the listener. A request's body has its own, in graph.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// routes is what the process answers on its listener, by role.
func (a *App) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", a.healthz)
	mux.HandleFunc("GET /readyz", a.readyz)
	if a.options.Config.AdminListenAddr == "" {
		a.operatorRoutes(mux)
	}
	if a.graph != nil {
		mux.Handle("/graphql", a.sessions.attach(a.auth.Middleware(a.graph)))
		a.loginRoutes(mux)
		mux.Handle("GET /{$}", page(console.Page()))
		mux.HandleFunc("GET /.well-known/webhook-keys/{id}", a.webhookKeys)
	}
	if a.options.Inbox != nil {
		mux.Handle("/inbox", a.options.Inbox)
		mux.Handle("/inbox/", a.options.Inbox)
	}
	return secured(mux)
}

// loginRoutes mounts what a browser needs to sign in.
func (a *App) loginRoutes(mux *http.ServeMux) {
	mux.Handle("/console/", console.Assets())
	mux.HandleFunc("/login", a.sessions.login)
	mux.HandleFunc("/logout", a.sessions.logout)
}

// What browsers may do with our answers. Pages load what they need from here and carry no script
// and no style of their own; everything else is data, and does nothing even where it is opened as
// a page.
const (
	pagePolicy = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self' data:; " +
		"connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
	dataPolicy = "default-src 'none'; frame-ancestors 'none'"
)

const policyHeader = "Content-Security-Policy"

// secured sets the headers that every answer of ours carries. Pages replace the policy.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set(policyHeader, dataPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if secure(r) {
			h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
		}
		next.ServeHTTP(w, r)
	})
}

// page lets a handler's answers be pages.
func page(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(policyHeader, pagePolicy)
		next.ServeHTTP(w, r)
	})
}

// listen opens addr and serves handler on it until the lifecycle stops it.
func (a *App) listen(ctx context.Context, name, addr string, handler http.Handler) (net.Addr, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, &ListenError{Addr: addr, Err: err}
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:    slog.NewLogLogger(a.logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	limited := netutil.LimitListener(listener, a.options.Config.MaxConnections)
	a.lifecycle.run(name+" listener", func(context.Context) error {
		if err := server.Serve(limited); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	a.lifecycle.onStop(name+" server", func(ctx context.Context) error {
		// Subscriptions never end by themselves: after a while their connections are closed.
		graceful, cancel := context.WithTimeout(ctx, a.options.Config.ShutdownGrace/2)
		defer cancel()
		if err := server.Shutdown(graceful); err != nil {
			return server.Close()
		}
		return nil
	})
	return listener.Addr(), nil
}

// ListenError says that a listener's address could not be taken.
type ListenError struct {
	Addr string
	Err  error
}

func (e *ListenError) Error() string {
	reason := "is not free: another process listens there; stop it or set LISTEN_ADDR"
	if !strings.Contains(e.Err.Error(), "address already in use") {
		reason = fmt.Sprintf("could not be opened: %v", e.Err)
	}
	return "address " + e.Addr + " " + reason
}

// Unwrap gives the system's own error.
func (e *ListenError) Unwrap() error { return e.Err }
