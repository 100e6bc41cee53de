package app

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/signing"
)

const (
	sessionCookie = "webhooks_session"
	sessionLife   = 12 * time.Hour
	loginLinkLife = 10 * time.Minute
	sessionAAD    = "session"
	loginBodyMax  = 16 << 10
)

// sessions lets a browser sign in with a key. The cookie holds the key itself, sealed with the
// master key: nothing is stored, any process can read it, and a revoked key ends its sessions
// because each request authenticates with it anew.
type sessions struct {
	keyring *signing.Keyring
	auth    *auth.Authenticator
	origin  *http.CrossOriginProtection
	now     func() time.Time

	mu    sync.Mutex
	links map[string]loginLink // one-time links, by token
}

type loginLink struct {
	credential string
	until      time.Time
}

type session struct {
	Credential string    `json:"c"`
	Until      time.Time `json:"u"`
}

func newSessions(keyring *signing.Keyring, a *auth.Authenticator, now func() time.Time) *sessions {
	return &sessions{keyring: keyring, auth: a, origin: http.NewCrossOriginProtection(), now: now, links: map[string]loginLink{}}
}

// link makes a token that signs a browser in once, with credential, within ten minutes.
func (s *sessions) link(credential string) string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	token := base64.RawURLEncoding.EncodeToString(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links[token] = loginLink{credential, s.now().Add(loginLinkLife)}
	return token
}

// redeem takes a link's token, once.
func (s *sessions) redeem(token string) (credential string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t, l := range s.links {
		if subtle.ConstantTimeCompare([]byte(t), []byte(token)) == 1 {
			delete(s.links, t)
			return l.credential, s.now().Before(l.until)
		}
	}
	return "", false
}

// attach turns a session's cookie into the header that the rest of the process knows. A request
// that brings its own header keeps it. Requests that change something and rely on the cookie
// must come from our own pages.
func (s *sessions) attach(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			if credential := s.read(r); credential != "" {
				if err := s.origin.Check(asChanging(r)); err != nil {
					http.Error(w, "cross-origin request refused", http.StatusForbidden)
					return
				}
				r = r.Clone(r.Context())
				r.Header.Set("Authorization", "Bearer "+credential)
			}
		}
		next.ServeHTTP(w, r)
	})
}

// asChanging gives a request in the form in which its origin is checked. A WebSocket begins with a
// GET, which any page may send, and then carries all that a POST could.
func asChanging(r *http.Request) *http.Request {
	if r.Header.Get("Upgrade") == "" {
		return r
	}
	changing := r.Clone(r.Context())
	changing.Method = http.MethodPost
	return changing
}

func (s *sessions) read(r *http.Request) (credential string) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return ""
	}
	plain, err := s.keyring.Open(cookie.Value, sessionAAD)
	if err != nil {
		return ""
	}
	var v session
	if json.Unmarshal(plain, &v) != nil || !s.now().Before(v.Until) {
		return ""
	}
	return v.Credential
}

func (s *sessions) write(w http.ResponseWriter, r *http.Request, credential string) error {
	v := session{Credential: credential, Until: s.now().Add(sessionLife)}
	plain, err := json.Marshal(v)
	if err != nil {
		return err
	}
	sealed, err := s.keyring.Seal(plain, sessionAAD)
	if err != nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure follows the connection: the default listener is plain loopback
		Name: sessionCookie, Value: sealed, Path: "/", Expires: v.Until, HttpOnly: true,
		SameSite: http.SameSiteStrictMode, Secure: secure(r),
	})
	return nil
}

// secure reports whether the browser came over TLS, to us or to a proxy before us.
func secure(r *http.Request) bool {
	return r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"
}

// login serves the login page (GET), takes a key from its form or a link's token as JSON (POST).
func (s *sessions) login(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		writeLoginPage(w, http.StatusOK, nextPath(r.URL.Query().Get("next")), "")
	case http.MethodPost:
		if err := s.origin.Check(r); err != nil {
			http.Error(w, "cross-origin request refused", http.StatusForbidden)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, loginBodyMax)
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
			s.loginByLink(w, r)
			return
		}
		s.loginByKey(w, r)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
}

func (s *sessions) loginByLink(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, "the body must be {\"token\": …}", http.StatusBadRequest)
		return
	}
	credential, ok := s.redeem(body.Token)
	if !ok {
		http.Error(w, "the link was used already or is too old", http.StatusUnauthorized)
		return
	}
	if err := s.write(w, r, credential); err != nil {
		http.Error(w, "could not sign in", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"next":"/"}`))
}

func (s *sessions) loginByKey(w http.ResponseWriter, r *http.Request) {
	next := nextPath(r.PostFormValue("next"))
	key := strings.TrimSpace(r.PostFormValue("key"))
	p, err := s.auth.Authenticate(auth.WithRemoteAddr(r.Context(), r.RemoteAddr), "Bearer "+key)
	var limited *auth.RateLimitedError
	var away *models.UnavailableError
	switch {
	case errors.As(err, &limited):
		writeLoginPage(w, http.StatusTooManyRequests, next, "Too many failed logins from this address. Wait a little and try again.")
	case errors.As(err, &away):
		writeLoginPage(w, http.StatusServiceUnavailable, next, "The key could not be checked: the database is unavailable. Try again.")
	case err != nil:
		writeLoginPage(w, http.StatusUnauthorized, next, "This key is not valid.")
	case operatorsPath(next) && !p.Has(models.ScopeAdmin):
		writeLoginPage(w, http.StatusForbidden, next, "This page needs a key with the scope ADMIN.")
	default:
		if err := s.write(w, r, key); err != nil {
			http.Error(w, "could not sign in", http.StatusInternalServerError)
			return
		}
		http.Redirect(w, r, next, http.StatusSeeOther) //nolint:gosec // nextPath lets paths of our own through alone
	}
}

// logout forgets the session in the browser.
func (s *sessions) logout(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || s.origin.Check(r) != nil {
		http.Error(w, "sign out with a POST from this site", http.StatusForbidden)
		return
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // as in write
		Name: sessionCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: secure(r),
	})
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// nextPath allows only paths of our own as the place to go after a login.
func nextPath(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(raw, "//") ||
		strings.ContainsRune(raw, '\\') {
		return "/"
	}
	return u.RequestURI()
}

var loginPage = template.Must(template.New("login").Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · Intervengine Webhooks</title>
<link rel="icon" href="/console/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/console/console.css">
</head>
<body>
<main class="card">
<h1>Intervengine Webhooks</h1>
<p>Sign in with an API key. It stays in this browser for twelve hours.</p>
<p id="status" role="status"{{if .Problem}} class="error"{{end}}>{{.Problem}}</p>
<form method="post" action="/login">
<input type="hidden" name="next" value="{{.Next}}">
<label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="off" required autofocus spellcheck="false">
<button type="submit">Sign in</button>
</form>
</main>
<script src="/console/login.js"></script>
</body>
</html>
`))

func writeLoginPage(w http.ResponseWriter, status int, next, problem string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set(policyHeader, pagePolicy)
	w.WriteHeader(status)
	_ = loginPage.Execute(w, struct{ Next, Problem string }{next, problem})
}
