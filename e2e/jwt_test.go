package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
)

const jwtSecret = "the platform's secret of this test, 32 bytes or more"

// token signs claims; those of a good token are filled in unless they are given. nil removes one.
func token(t testing.TB, method jwt.SigningMethod, key any, kid string, claims map[string]any) string {
	t.Helper()
	all := jwt.MapClaims{"sub": "u-1", "exp": time.Now().Add(time.Hour).Unix(), "iss": "https://platform.example", "aud": "webhooks"}
	for name, value := range claims {
		if value == nil {
			delete(all, name)
			continue
		}
		all[name] = value
	}
	unsigned := jwt.NewWithClaims(method, all)
	if kid != "" {
		unsigned.Header["kid"] = kid
	}
	text, err := unsigned.SignedString(key)
	require.NoError(t, err)
	return text
}

type viewer struct {
	Tenant *string
	Scopes []string
}

// whoami is what the API says about a token: who it is, or the code of the refusal.
func whoami(t testing.TB, api *apptest.Client) (viewer, string) {
	t.Helper()
	a, err := api.Post(t.Context(), `{ viewer { tenant scopes } }`, nil)
	require.NoError(t, err)
	if codes := a.Codes(); len(codes) > 0 {
		require.Contains(t, []int{http.StatusUnauthorized, http.StatusTooManyRequests}, a.Status)
		require.NotContains(t, string(a.Body), api.Key, "an error never repeats a token")
		return viewer{}, codes[0]
	}
	var out struct{ Viewer viewer }
	require.NoError(t, json.Unmarshal(a.Data, &out))
	return out.Viewer, ""
}

func TestA1_TokensOfThePlatform(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		server := apptest.Start(t, stack, map[string]string{
			"JWT_SECRET": jwtSecret, "JWT_ISSUER": "https://platform.example", "JWT_AUDIENCE": "webhooks",
		})
		as := func(claims map[string]any) *apptest.Client {
			return server.As(token(t, jwt.SigningMethodHS256, []byte(jwtSecret), "", claims))
		}
		acme := "acme"
		for name, test := range map[string]struct {
			claims map[string]any
			want   viewer
			code   string
		}{
			"a tenant's, as a list": {map[string]any{"tenant": "acme", "scopes": []string{"READ", "EMIT"}}, viewer{&acme, []string{"READ", "EMIT"}}, ""},
			"OAuth's scope":         {map[string]any{"tenant": "acme", "scope": "READ MANAGE"}, viewer{&acme, []string{"READ", "MANAGE"}}, ""},
			"the platform's ADMIN":  {map[string]any{"scopes": []string{"ADMIN"}}, viewer{nil, []string{"ADMIN"}}, ""},
			"ADMIN with a tenant":   {map[string]any{"tenant": "acme", "scopes": []string{"ADMIN"}}, viewer{}, "UNAUTHENTICATED"},
			"READ without a tenant": {map[string]any{"scopes": []string{"READ"}}, viewer{}, "UNAUTHENTICATED"},
			"no scopes":             {map[string]any{"tenant": "acme"}, viewer{&acme, []string{}}, ""},
			"no exp":                {map[string]any{"tenant": "acme", "scopes": []string{"READ"}, "exp": nil}, viewer{}, "UNAUTHENTICATED"},
			"expired":               {map[string]any{"tenant": "acme", "scopes": []string{"READ"}, "exp": time.Now().Add(-time.Hour).Unix()}, viewer{}, "UNAUTHENTICATED"},
			"not yet":               {map[string]any{"tenant": "acme", "scopes": []string{"READ"}, "nbf": time.Now().Add(time.Hour).Unix()}, viewer{}, "UNAUTHENTICATED"},
			"another issuer":        {map[string]any{"tenant": "acme", "scopes": []string{"READ"}, "iss": "https://evil.example"}, viewer{}, "UNAUTHENTICATED"},
			"another audience":      {map[string]any{"tenant": "acme", "scopes": []string{"READ"}, "aud": "billing"}, viewer{}, "UNAUTHENTICATED"},
			"not a tenant's name":   {map[string]any{"tenant": "a\nb", "scopes": []string{"READ"}}, viewer{}, "UNAUTHENTICATED"},
		} {
			got, code := whoami(t, as(test.claims))
			require.Equal(t, test.code, code, name)
			require.Equal(t, test.want, got, name)
		}
		for name, text := range map[string]string{
			"another secret": token(t, jwt.SigningMethodHS256, []byte(jwtSecret+"x"), "", map[string]any{"tenant": "acme", "scopes": []string{"READ"}}),
			"HS512":          token(t, jwt.SigningMethodHS512, []byte(jwtSecret), "", map[string]any{"tenant": "acme", "scopes": []string{"READ"}}),
			"none":           token(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", map[string]any{"tenant": "acme", "scopes": []string{"READ"}}),
			"cut off":        token(t, jwt.SigningMethodHS256, []byte(jwtSecret), "", map[string]any{"tenant": "acme", "scopes": []string{"READ"}})[:60],
		} {
			_, code := whoami(t, server.As(text))
			require.Equal(t, "UNAUTHENTICATED", code, name)
		}

		// Scopes and tenants hold for tokens as for keys.
		manager := as(map[string]any{"tenant": "acme", "scopes": []string{"MANAGE"}})
		c := create(t, manager, map[string]any{"name": "w", "targetUrl": "https://example.com/", "eventTypes": []string{"*"}})
		require.Equal(t, "acme", c.Webhook.Tenant)
		for name, test := range map[string]struct {
			claims map[string]any
			query  string
			want   string
		}{
			"READ changes nothing":    {map[string]any{"tenant": "acme", "scopes": []string{"READ"}}, `mutation { pauseWebhook(id: "` + c.Webhook.ID + `") { webhook { id } } }`, "FORBIDDEN"},
			"EMIT reads nothing":      {map[string]any{"tenant": "acme", "scopes": []string{"EMIT"}}, `{ webhooks { nodes { id } } }`, "FORBIDDEN"},
			"MANAGE makes no keys":    {map[string]any{"tenant": "acme", "scopes": []string{"MANAGE"}}, `{ apiKeys { nodes { id } } }`, "FORBIDDEN"},
			"no other tenant's names": {map[string]any{"tenant": "other", "scopes": []string{"READ"}}, `{ webhooks(filter: {tenant: "acme"}) { nodes { id } } }`, "FORBIDDEN"},
		} {
			a, err := as(test.claims).Post(t.Context(), test.query, nil)
			require.NoError(t, err)
			require.Equal(t, []string{test.want}, a.Codes(), name)
		}
		var out struct{ Webhook *struct{ ID string } }
		as(map[string]any{"tenant": "other", "scopes": []string{"MANAGE"}}).Query(t, `query($id: ID!) { webhook(id: $id) { id } }`, map[string]any{"id": c.Webhook.ID}, &out)
		require.Nil(t, out.Webhook)
	})
}

// keySet is a platform that publishes keys and counts how often it is asked.
type keySet struct {
	mu    sync.Mutex
	keys  map[string]*ecdsa.PrivateKey
	asked atomic.Int64
}

func (s *keySet) add(t testing.TB, kid string) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		s.keys = map[string]*ecdsa.PrivateKey{}
	}
	s.keys[kid] = key
	return key
}

func (s *keySet) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	s.asked.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []map[string]string{}
	for kid, key := range s.keys {
		point, err := key.PublicKey.ECDH()
		if err != nil {
			http.Error(w, "unusable key", http.StatusInternalServerError)
			return
		}
		raw := point.Bytes() // 4, x, y
		encode := base64.RawURLEncoding.EncodeToString
		list = append(list, map[string]string{
			"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": encode(raw[1:33]), "y": encode(raw[33:]),
		})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": list})
}

func TestA1_TokensOfAKeySetThatRotates(t *testing.T) {
	t.Parallel()
	set := &keySet{}
	first := set.add(t, "first")
	platform := httptest.NewServer(set)
	t.Cleanup(platform.Close)
	server := apptest.Start(t, apptest.Embedded, map[string]string{"JWT_JWKS_URL": platform.URL})
	claims := map[string]any{"tenant": "acme", "scopes": []string{"READ"}}
	_, code := whoami(t, server.As(token(t, jwt.SigningMethodES256, first, "first", claims)))
	require.Empty(t, code)

	// A stranger's keys bring nobody in, and do not make the platform busy.
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	_, code = whoami(t, server.As(token(t, jwt.SigningMethodES256, stranger, "first", claims)))
	require.Equal(t, "UNAUTHENTICATED", code)
	before := set.asked.Load()
	for n := range 20 {
		_, code = whoami(t, server.As(token(t, jwt.SigningMethodES256, stranger, "made-up-"+string(rune('a'+n)), claims)))
		require.Equal(t, "UNAUTHENTICATED", code)
	}
	require.LessOrEqual(t, set.asked.Load(), before+2)
	// The public key is no shared secret.
	point, err := first.PublicKey.ECDH()
	require.NoError(t, err)
	_, code = whoami(t, server.As(token(t, jwt.SigningMethodHS256, point.Bytes(), "first", claims)))
	require.Equal(t, "UNAUTHENTICATED", code)

	// A key that was just published is found.
	second := set.add(t, "second")
	apptest.Eventually(t, func() (bool, string) {
		_, code := whoami(t, server.As(token(t, jwt.SigningMethodES256, second, "second", claims)))
		return code == "", code
	})
}

// A1, issue 5: what one process revokes ends in every other within a second.
func TestA1_ARevokedKeyEndsWithinASecondInEveryProcess(t *testing.T) {
	t.Parallel()
	env := apptest.Environment(t, apptest.Production)
	first, second := start(t, env, "api"), start(t, with(env, map[string]string{"DATA_DIR": t.TempDir()}), "api")
	here, there := apptest.NewClient(first.url(), env["ADMIN_API_KEY"]), apptest.NewClient(second.url(), env["ADMIN_API_KEY"])
	for range 5 {
		var made struct {
			CreateAPIKey struct {
				Key    string
				APIKey struct{ ID string } `json:"apiKey"`
			} `json:"createApiKey"`
		}
		here.Query(t, `mutation { createApiKey(input: {name: "k", tenant: "acme", scopes: [READ]}) { key apiKey { id } } }`, nil, &made)
		for _, api := range []*apptest.Client{here, there} {
			_, code := whoami(t, api.As(made.CreateAPIKey.Key))
			require.Empty(t, code, "it works at once, everywhere")
		}
		here.Query(t, `mutation($id: ID!) { revokeApiKey(id: $id) { userErrors { message } } }`, map[string]any{"id": made.CreateAPIKey.APIKey.ID}, nil)
		revoked := time.Now()
		_, code := whoami(t, here.As(made.CreateAPIKey.Key))
		require.Equal(t, "UNAUTHENTICATED", code, "at once where it was revoked")
		apptest.Eventually(t, func() (bool, string) {
			asked := time.Now()
			_, code := whoami(t, there.As(made.CreateAPIKey.Key))
			if code == "" {
				require.Less(t, asked.Sub(revoked), time.Second, "still good in the other process")
			}
			return code == "UNAUTHENTICATED", "still good"
		})
	}
	first.stop()
	second.stop()
}
