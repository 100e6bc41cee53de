package graph_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
)

// What the transport, its limits and the execution cost without HTTP, a store or credentials.
func BenchmarkRequest(b *testing.B) {
	f := setup(b)
	tenant := "acme"
	principal := &auth.Principal{ID: "bench", Tenant: &tenant, Scopes: []models.Scope{models.ScopeRead}}
	for name, body := range map[string]string{
		"viewer":       `{"query":"{ viewer { tenant scopes } }"}`,
		"1KiB of data": `{"query":"query($data: JSON) { viewer { tenant @skip(if: false) } nodes(ids: []) { id } }","variables":{"input":{"eventType":"message.sent","data":{"text":"` + strings.Repeat("x", 1000) + `"}}}}`,
		"new document": "",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				text := body
				if text == "" {
					text = `{"query":"{ viewer { tenant scopes } } # ` + strconv.Itoa(i) + `"}`
				}
				r := httptest.NewRequestWithContext(auth.WithPrincipal(b.Context(), principal), http.MethodPost, "/graphql", strings.NewReader(text))
				r.Header.Set("Content-Type", "application/json")
				f.handler.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
}

// What share of a saturated emit is access and limits: "%" is the time of authenticating a caller and
// of holding its request against every limit, by that of whole emits, from as many callers at once as
// fill a group commit.
func BenchmarkAccessOfEmit(b *testing.B) {
	f := setup(b)
	body := []byte(`{"query":"mutation($input: EmitEventInput!) { emitEvent(input: $input) { event { id } matched } }","variables":{"input":{"eventType":"message.sent","data":{"text":"` +
		strings.Repeat("x", 200) + `"}}}}`)
	authenticator, header := f.authenticator, "Bearer "+f.emit
	admit := func(ctx context.Context) error {
		p, err := authenticator.Authenticate(auth.WithRemoteAddr(ctx, "192.0.2.1:1"), header)
		if err != nil {
			return err
		}
		return f.handler.Admit(ctx, body, p)
	}
	whole := authenticator.Middleware(f.handler)
	emit := func(ctx context.Context) error {
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/graphql", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		whole.ServeHTTP(w, r)
		if w.Code != http.StatusOK || strings.Contains(w.Body.String(), "errors") {
			return errors.New(w.Body.String())
		}
		return nil
	}
	run := func(callers int, do func(context.Context) error) time.Duration {
		var calls sync.WaitGroup
		var failed atomic.Pointer[error]
		start := time.Now()
		for n := range callers {
			calls.Go(func() {
				for i := n; i < b.N; i += callers {
					if err := do(b.Context()); err != nil {
						failed.Store(&err)
						return
					}
				}
			})
		}
		calls.Wait()
		if err := failed.Load(); err != nil {
			b.Fatal(*err)
		}
		return time.Since(start)
	}
	const callers = 256
	access := run(callers, admit)
	b.ResetTimer()
	emits := run(callers, emit)
	b.StopTimer()
	b.ReportMetric(float64(access.Nanoseconds())/float64(b.N), "access-ns/op")
	b.ReportMetric(100*float64(access)/float64(emits), "%")
}
