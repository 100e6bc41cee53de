package auth_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
)

const secret = "a shared secret of more than 32 bytes"

func claimsOf(change jwt.MapClaims) jwt.MapClaims {
	c := jwt.MapClaims{
		"sub": "user-1", "tenant": "acme", "scopes": []string{"READ"}, "exp": time.Now().Add(time.Hour).Unix(),
	}
	for name, value := range change {
		if value == nil {
			delete(c, name)
			continue
		}
		c[name] = value
	}
	return c
}

func sign(t *testing.T, method jwt.SigningMethod, key any, kid string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	require.NoError(t, err)
	return "Bearer " + text
}

func withSecret(o *auth.Options) { o.JWT.Secret = []byte(secret) }

func TestTokenClaims(t *testing.T) {
	t.Parallel()
	plain, _ := setup(t, withSecret)
	strict, _ := setup(t, func(o *auth.Options) {
		withSecret(o)
		o.JWT.Issuer, o.JWT.Audience = "https://issuer.example", "webhooks"
	})
	tests := map[string]struct {
		strict bool
		claims jwt.MapClaims
		scopes []models.Scope
		tenant string
		bad    string
	}{
		"list of scopes":          {claims: jwt.MapClaims{"scopes": []string{"MANAGE", "EMIT"}}, scopes: []models.Scope{"MANAGE", "EMIT"}, tenant: "acme"},
		"OAuth's string":          {claims: jwt.MapClaims{"scopes": nil, "scope": "openid READ  EMIT"}, scopes: []models.Scope{"READ", "EMIT"}, tenant: "acme"},
		"list before string":      {claims: jwt.MapClaims{"scope": "MANAGE"}, scopes: []models.Scope{"READ"}, tenant: "acme"},
		"others' scopes":          {claims: jwt.MapClaims{"scopes": []string{"profile", "read"}}, tenant: "acme"},
		"no scopes":               {claims: jwt.MapClaims{"scopes": nil}, tenant: "acme"},
		"twice the same":          {claims: jwt.MapClaims{"scopes": []string{"EMIT", "EMIT"}}, scopes: []models.Scope{"EMIT"}, tenant: "acme"},
		"administrator":           {claims: jwt.MapClaims{"tenant": nil, "scopes": []string{"ADMIN"}}, scopes: []models.Scope{"ADMIN"}},
		"a clock that is ahead":   {claims: jwt.MapClaims{"nbf": time.Now().Add(8 * time.Second).Unix()}, scopes: []models.Scope{"READ"}, tenant: "acme"},
		"without subject":         {claims: jwt.MapClaims{"sub": nil}, scopes: []models.Scope{"READ"}, tenant: "acme"},
		"iss and aud not asked":   {claims: jwt.MapClaims{"iss": "x", "aud": "y"}, scopes: []models.Scope{"READ"}, tenant: "acme"},
		"iss and aud":             {strict: true, claims: jwt.MapClaims{"iss": "https://issuer.example", "aud": "webhooks"}, scopes: []models.Scope{"READ"}, tenant: "acme"},
		"one of many audiences":   {strict: true, claims: jwt.MapClaims{"iss": "https://issuer.example", "aud": []string{"x", "webhooks"}}, scopes: []models.Scope{"READ"}, tenant: "acme"},
		"scopes not a list":       {claims: jwt.MapClaims{"scopes": "READ"}, bad: "scopes"},
		"scopes of numbers":       {claims: jwt.MapClaims{"scopes": []int{1}}, bad: "scopes"},
		"scope not a string":      {claims: jwt.MapClaims{"scopes": nil, "scope": []string{"READ"}}, bad: "scope"},
		"ADMIN with a tenant":     {claims: jwt.MapClaims{"scopes": []string{"ADMIN"}}, bad: "ADMIN and a tenant"},
		"ADMIN with an empty one": {claims: jwt.MapClaims{"tenant": "", "scopes": []string{"ADMIN"}}, bad: "tenant"},
		"no tenant":               {claims: jwt.MapClaims{"tenant": nil}, bad: "lacks the claim tenant"},
		"no tenant, no scopes":    {claims: jwt.MapClaims{"tenant": nil, "scopes": nil}, bad: "lacks the claim tenant"},
		"empty tenant":            {claims: jwt.MapClaims{"tenant": ""}, bad: "not the name of a tenant"},
		"tenant with line break":  {claims: jwt.MapClaims{"tenant": "a\nb"}, bad: "not the name of a tenant"},
		"tenant a number":         {claims: jwt.MapClaims{"tenant": 7}, bad: "tenant must be a string"},
		"tenant by another case":  {claims: jwt.MapClaims{"tenant": nil, "Tenant": "acme"}, bad: "lacks the claim tenant"},
		"subject a number":        {claims: jwt.MapClaims{"sub": 7}, bad: "sub"},
		"no exp":                  {claims: jwt.MapClaims{"exp": nil}, bad: "lacks"},
		"exp a string":            {claims: jwt.MapClaims{"exp": "tomorrow"}, bad: "token"},
		"expired":                 {claims: jwt.MapClaims{"exp": time.Now().Add(-time.Minute).Unix()}, bad: "expired"},
		"expired a second ago":    {claims: jwt.MapClaims{"exp": time.Now().Add(-time.Second).Unix()}, bad: "the token has expired"},
		"not yet valid":           {claims: jwt.MapClaims{"nbf": time.Now().Add(time.Minute).Unix()}, bad: "not valid yet"},
		"other issuer":            {strict: true, claims: jwt.MapClaims{"iss": "https://evil.example", "aud": "webhooks"}, bad: "issuer"},
		"no issuer":               {strict: true, claims: jwt.MapClaims{"aud": "webhooks"}, bad: "lacks"},
		"other audience":          {strict: true, claims: jwt.MapClaims{"iss": "https://issuer.example", "aud": "billing"}, bad: "audience"},
		"no audience":             {strict: true, claims: jwt.MapClaims{"iss": "https://issuer.example"}, bad: "lacks"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := plain
			if tt.strict {
				a = strict
			}
			header := sign(t, jwt.SigningMethodHS256, []byte(secret), "", claimsOf(tt.claims))
			for range 2 { // the second is what the cache says
				p, err := a.Authenticate(t.Context(), header)
				if tt.bad != "" {
					require.ErrorIs(t, err, auth.ErrBadCredentials)
					require.ErrorContains(t, err, tt.bad)
					require.NotContains(t, err.Error(), header[7:20])
					continue
				}
				require.NoError(t, err)
				require.Equal(t, tt.scopes, p.Scopes)
				if tt.tenant == "" {
					require.Nil(t, p.Tenant)
				} else {
					require.Equal(t, tt.tenant, *p.Tenant)
				}
				require.NotNil(t, p.ExpiresAt)
				require.True(t, strings.HasPrefix(p.ID, "jwt:"))
			}
		})
	}
}

func TestTokenExpiresWhileCached(t *testing.T) {
	t.Parallel()
	var now atomic.Pointer[time.Time]
	now.Store(new(time.Now()))
	a, _ := setup(t, func(o *auth.Options) {
		withSecret(o)
		o.Now = func() time.Time { return *now.Load() }
	})
	header := sign(t, jwt.SigningMethodHS256, []byte(secret), "", claimsOf(jwt.MapClaims{"exp": now.Load().Add(5 * time.Second).Unix()}))
	_, err := a.Authenticate(t.Context(), header)
	require.NoError(t, err)
	now.Store(new(now.Load().Add(5 * time.Second)))
	_, err = a.Authenticate(t.Context(), header)
	require.ErrorIs(t, err, auth.ErrBadCredentials)
	require.ErrorContains(t, err, "expired")
}

// keyServer is a real HTTP server of a key set that a test may change, and that counts.
type keyServer struct {
	*httptest.Server
	mu    sync.Mutex
	body  string
	code  int
	delay chan struct{}
	hits  int
}

func serveKeys(t *testing.T) *keyServer {
	t.Helper()
	s := &keyServer{code: http.StatusOK, body: `{"keys":[]}`}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		s.hits++
		body, code, delay := s.body, s.code, s.delay
		s.mu.Unlock()
		if delay != nil {
			<-delay
		}
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *keyServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits
}

func (s *keyServer) set(change func(*keyServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// publish serves the public halves of keys by their kid.
func (s *keyServer) publish(t *testing.T, keys map[string]crypto.Signer, extra ...string) {
	t.Helper()
	items := extra
	for kid, key := range keys {
		jwk, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid}})
		require.NoError(t, err)
		text, err := json.Marshal(jwk.Marshal())
		require.NoError(t, err)
		items = append(items, string(text))
	}
	s.set(func(s *keyServer) { s.body = `{"keys":[` + strings.Join(items, ",") + `]}` })
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return key
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func TestKeySet(t *testing.T) {
	t.Parallel()
	server := serveKeys(t)
	rsaPrivate, ecPrivate, stranger := rsaKey(t), ecKey(t), ecKey(t)
	_, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	server.publish(t, map[string]crypto.Signer{"r": rsaPrivate, "e": ecPrivate, "d": edPrivate},
		`{"kty":"oct","kid":"shared","k":"`+base64.RawURLEncoding.EncodeToString([]byte(secret))+`"}`,
		`{"kty":"mystery","kid":"m"}`, `"nonsense"`)
	a, _ := setup(t, func(o *auth.Options) { o.JWT.JWKSURL = server.URL })
	both, _ := setup(t, func(o *auth.Options) { o.JWT.JWKSURL = server.URL; withSecret(o) })

	public, err := x509.MarshalPKIXPublicKey(rsaPrivate.Public())
	require.NoError(t, err)
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	critical := jwt.NewWithClaims(jwt.SigningMethodES256, claimsOf(nil))
	critical.Header["kid"], critical.Header["crit"] = "e", []string{"b64"}
	criticalText, err := critical.SignedString(ecPrivate)
	require.NoError(t, err)
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, claimsOf(nil)).SignedString(jwt.UnsafeAllowNoneSignatureType)
	require.NoError(t, err)
	noneNamed := jwt.NewWithClaims(jwt.SigningMethodNone, claimsOf(nil))
	noneNamed.Header["kid"] = "r"
	noneNamedText, err := noneNamed.SignedString(jwt.UnsafeAllowNoneSignatureType)
	require.NoError(t, err)
	good := sign(t, jwt.SigningMethodES256, ecPrivate, "e", claimsOf(nil))
	parts := strings.Split(good, ".")
	other := strings.Split(sign(t, jwt.SigningMethodES256, ecPrivate, "e", claimsOf(jwt.MapClaims{"tenant": "victim"})), ".")

	tests := map[string]struct {
		a      *auth.Authenticator
		header string
		ok     bool
	}{
		"RS256":                         {a, sign(t, jwt.SigningMethodRS256, rsaPrivate, "r", claimsOf(nil)), true},
		"PS512":                         {a, sign(t, jwt.SigningMethodPS512, rsaPrivate, "r", claimsOf(nil)), true},
		"ES256":                         {a, good, true},
		"EdDSA":                         {a, sign(t, jwt.SigningMethodEdDSA, edPrivate, "d", claimsOf(nil)), true},
		"no key named":                  {a, sign(t, jwt.SigningMethodES256, ecPrivate, "", claimsOf(nil)), true},
		"secret beside the set":         {both, sign(t, jwt.SigningMethodHS256, []byte(secret), "", claimsOf(nil)), true},
		"set beside the secret":         {both, sign(t, jwt.SigningMethodRS256, rsaPrivate, "r", claimsOf(nil)), true},
		"none":                          {a, "Bearer " + none, false},
		"none with a key":               {a, "Bearer " + noneNamedText, false},
		"public key as a secret":        {a, sign(t, jwt.SigningMethodHS256, publicPEM, "r", claimsOf(nil)), false},
		"public key, secret configured": {both, sign(t, jwt.SigningMethodHS256, publicPEM, "r", claimsOf(nil)), false},
		"shared secret in the set":      {a, sign(t, jwt.SigningMethodHS256, []byte(secret), "shared", claimsOf(nil)), false},
		"HS512 with the secret":         {both, sign(t, jwt.SigningMethodHS512, []byte(secret), "", claimsOf(nil)), false},
		"key of another kind":           {a, sign(t, jwt.SigningMethodES256, ecPrivate, "r", claimsOf(nil)), false},
		"stranger under a known name":   {a, sign(t, jwt.SigningMethodES256, stranger, "e", claimsOf(nil)), false},
		"stranger without a name":       {a, sign(t, jwt.SigningMethodES256, stranger, "", claimsOf(nil)), false},
		"unknown name":                  {a, sign(t, jwt.SigningMethodES256, ecPrivate, "x", claimsOf(nil)), false},
		"critical extension":            {a, "Bearer " + criticalText, false},
		"body exchanged":                {a, parts[0] + "." + other[1] + "." + parts[2], false},
		"no signature":                  {a, parts[0] + "." + parts[1] + ".", false},
		"not base64":                    {a, "Bearer a.b!.c", false},
		"empty parts":                   {a, "Bearer ..", false},
		"not JSON":                      {a, "Bearer " + base64.RawURLEncoding.EncodeToString([]byte("{")) + ".e30.", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := tt.a.Authenticate(t.Context(), tt.header)
			if !tt.ok {
				require.ErrorIs(t, err, auth.ErrBadCredentials)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "jwt:user-1", p.ID)
		})
	}
}

func TestRotatedKeyIsFound(t *testing.T) {
	t.Parallel()
	var now atomic.Pointer[time.Time]
	now.Store(new(time.Now()))
	server := serveKeys(t)
	first, second := ecKey(t), ecKey(t)
	server.publish(t, map[string]crypto.Signer{"1": first})
	a, _ := setup(t, func(o *auth.Options) {
		o.JWT.JWKSURL = server.URL
		o.Now = func() time.Time { return *now.Load() }
	})
	ctx := auth.WithRemoteAddr(t.Context(), "192.0.2.1:1")
	_, err := a.Authenticate(ctx, sign(t, jwt.SigningMethodES256, first, "1", claimsOf(nil)))
	require.NoError(t, err)
	require.Equal(t, 1, server.count())

	server.publish(t, map[string]crypto.Signer{"2": second})
	rotated := sign(t, jwt.SigningMethodES256, second, "2", claimsOf(nil))
	_, err = a.Authenticate(ctx, rotated)
	require.ErrorIs(t, err, auth.ErrBadCredentials, "fetched a moment ago")
	require.Equal(t, 1, server.count())

	now.Store(new(now.Load().Add(6 * time.Second)))
	_, err = a.Authenticate(ctx, rotated)
	require.NoError(t, err)
	require.Equal(t, 2, server.count())
	_, err = a.Authenticate(ctx, sign(t, jwt.SigningMethodES256, first, "1", claimsOf(jwt.MapClaims{"sub": "other"})))
	require.ErrorIs(t, err, auth.ErrBadCredentials, "the key that was rotated out is gone")

	server.publish(t, map[string]crypto.Signer{"": first})
	now.Store(new(now.Load().Add(6 * time.Second)))
	_, err = a.Authenticate(ctx, sign(t, jwt.SigningMethodES256, first, "", claimsOf(nil)))
	require.NoError(t, err, "a token without a name is looked for in a newer set, too")
	require.Equal(t, 3, server.count())
}

func TestUnknownKeysDoNotStampede(t *testing.T) {
	t.Parallel()
	server := serveKeys(t)
	key := ecKey(t)
	server.publish(t, map[string]crypto.Signer{"1": key})
	gate := make(chan struct{})
	server.set(func(s *keyServer) { s.delay = gate })
	a, _ := setup(t, func(o *auth.Options) { o.JWT.JWKSURL = server.URL; o.FailureBurst = 1000 })
	var calls sync.WaitGroup
	unknown, good := make([]error, 50), make([]error, 10)
	for i := range unknown {
		header := sign(t, jwt.SigningMethodES256, key, "made-up-"+strconv.Itoa(i), claimsOf(nil))
		calls.Go(func() { _, unknown[i] = a.Authenticate(t.Context(), header) })
	}
	for i := range good {
		header := sign(t, jwt.SigningMethodES256, key, "1", claimsOf(jwt.MapClaims{"sub": strconv.Itoa(i)}))
		calls.Go(func() { _, good[i] = a.Authenticate(t.Context(), header) })
	}
	require.Eventually(t, func() bool { return server.count() == 1 }, 30*time.Second, time.Millisecond)
	close(gate)
	calls.Wait()
	for _, err := range unknown {
		require.ErrorIs(t, err, auth.ErrBadCredentials)
	}
	for _, err := range good {
		require.NoError(t, err, "who comes during a fetch waits for it")
	}
	require.Equal(t, 1, server.count())
}

func TestKeyServerAway(t *testing.T) {
	t.Parallel()
	var now atomic.Pointer[time.Time]
	now.Store(new(time.Now()))
	server := serveKeys(t)
	key := ecKey(t)
	for name, broken := range map[string]func(*keyServer){
		"status":   func(s *keyServer) { s.code = http.StatusInternalServerError },
		"no JSON":  func(s *keyServer) { s.code, s.body = http.StatusOK, "<html>" },
		"no keys":  func(s *keyServer) { s.body = `{"keys":[]}` },
		"enormous": func(s *keyServer) { s.body = strings.Repeat(" ", 2<<20) + `{"keys":[]}` },
	} {
		server.set(broken)
		a, _ := setup(t, func(o *auth.Options) { o.JWT.JWKSURL = server.URL })
		var unavailable *models.UnavailableError
		_, err := a.Authenticate(t.Context(), sign(t, jwt.SigningMethodES256, key, "1", claimsOf(nil)))
		require.ErrorAs(t, err, &unavailable, name)
		require.NotContains(t, err.Error(), "<html>")
	}

	server.set(func(s *keyServer) { s.code = http.StatusOK })
	server.publish(t, map[string]crypto.Signer{"1": key})
	a, _ := setup(t, func(o *auth.Options) {
		o.JWT.JWKSURL = server.URL
		o.Now = func() time.Time { return *now.Load() }
	})
	_, err := a.Authenticate(t.Context(), sign(t, jwt.SigningMethodES256, key, "1", claimsOf(nil)))
	require.NoError(t, err)
	server.set(func(s *keyServer) { s.code = http.StatusInternalServerError })
	now.Store(new(now.Load().Add(time.Minute)))
	_, err = a.Authenticate(t.Context(), sign(t, jwt.SigningMethodES256, key, "1", claimsOf(jwt.MapClaims{"sub": "2"})))
	require.NoError(t, err, "the last good set stays in use")
	var unavailable *models.UnavailableError
	_, err = a.Authenticate(t.Context(), sign(t, jwt.SigningMethodES256, key, "2", claimsOf(nil)))
	require.ErrorAs(t, err, &unavailable, "nobody can tell whether this key is good")
}

func TestRunFetchesKeys(t *testing.T) {
	t.Parallel()
	server := serveKeys(t)
	key := ecKey(t)
	server.publish(t, map[string]crypto.Signer{"1": key})
	a, _ := setup(t, func(o *auth.Options) {
		o.JWT.JWKSURL, o.JWT.Refresh = server.URL, 10*time.Millisecond
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	require.Eventually(t, func() bool { return server.count() >= 3 }, 30*time.Second, time.Millisecond)
	stop()
	require.NoError(t, <-ended)
	_, err := a.Authenticate(t.Context(), sign(t, jwt.SigningMethodES256, key, "1", claimsOf(nil)))
	require.NoError(t, err)
}

func TestBadKeySetURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"not a URL\x00", "ftp://example.com/keys", "/keys", "https://"} {
		_, err := auth.New(auth.Options{
			Store: &memory{}, Logger: slog.New(slog.DiscardHandler), JWT: auth.JWTOptions{JWKSURL: url},
		})
		require.Error(t, err, url)
	}
}

func FuzzToken(f *testing.F) {
	m := &memory{keys: map[string]models.APIKey{}}
	a, err := auth.New(auth.Options{
		Store: m, Logger: slog.New(slog.DiscardHandler), AdminKey: "administrator",
		JWT: auth.JWTOptions{Secret: []byte(secret)}, FailureBurst: 1 << 30,
	})
	require.NoError(f, err)
	// The same token in each of the processes that fuzz, whatever second it is there.
	good, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claimsOf(jwt.MapClaims{
		"exp": time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).Unix(),
	})).SignedString([]byte(secret))
	require.NoError(f, err)
	for _, seed := range []string{good, "a.b.c", "..", "eyJhbGciOiJub25lIn0.e30.", "iwk_" + strings.Repeat("0", 49)} {
		f.Add("Bearer " + seed)
	}
	f.Add("Bearer " + good[:len(good)-8] + "\n" + good[len(good)-8:])
	f.Fuzz(func(t *testing.T, header string) {
		p, err := a.Authenticate(t.Context(), header)
		require.Equal(t, err == nil, p != nil)
		if p != nil && p.ID != auth.AdminID {
			require.True(t, strings.HasSuffix(strings.TrimSpace(header), good))
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	m := &memory{keys: map[string]models.APIKey{}}
	a, err := auth.New(auth.Options{Store: m, Logger: slog.New(slog.DiscardHandler), AdminKey: "administrator"})
	require.NoError(b, err)
	header, _ := m.add(nil)
	ctx := auth.WithRemoteAddr(b.Context(), "192.0.2.1:1")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(ctx, header); err != nil {
			b.Fatal(err)
		}
	}
}
