package graph_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

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
