// Package auth says who is calling: it turns an Authorization header into a Principal, the
// tenant and scopes that the rest of the process asks about.
//
// It hides API keys (checked against the database once, then from memory), the configured
// administrator's key, and the platform's JSON Web Tokens with their rotating key sets.
//
// Invariants:
//   - a key is nowhere in memory or storage longer than the call that carries it: everything
//     works on its SHA-256;
//   - ADMIN never comes together with a tenant, whoever says so;
//   - a credential that is good in the steady state costs no database read and no signature
//     check; a revoked key stops working at the next Invalidate, at the latest after the cache's
//     age;
//   - whatever callers send, memory stays bounded: caches, rate limits and fetches have a size.
//
// Authenticating is separate from answering: Middleware leaves the principal or the error in the
// context, and whoever answers decides what to say.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/intervengine/webhooks/models"
)

// ErrNoCredentials says that a call carried no credentials at all.
var ErrNoCredentials = errors.New("no credentials: send the header Authorization: Bearer followed by an API key or a token")

// ErrBadCredentials says that the credentials of a call are not, or no longer, good. Errors that
// wrap it say why, in words that are safe to show to the caller.
var ErrBadCredentials = errors.New("credentials are not valid")

// RateLimitedError says that the caller's address failed to log in too often. The credentials
// were not looked at.
type RateLimitedError struct {
	RetryAfter time.Duration // when the next try will be looked at, more than zero
}

func (e *RateLimitedError) Error() string {
	return "too many failed logins from this address, try again in " + e.RetryAfter.Round(time.Second).String()
}

// Keys is where API keys are kept; *models.Store is one.
type Keys interface {
	// APIKeyByHash finds a key, revoked ones too; models.ErrNotFound where there is none.
	APIKeyByHash(ctx context.Context, hash string) (models.APIKey, error)
	// TouchAPIKeys raises lastUsedAt of the keys with these ids.
	TouchAPIKeys(ctx context.Context, used map[string]time.Time) error
}

var _ Keys = (*models.Store)(nil)

// Options configure an Authenticator. Store and Logger are required; zero durations and sizes
// mean the defaults.
type Options struct {
	Store  Keys
	Logger *slog.Logger
	// AdminKey is the configured platform key with scope ADMIN; "": there is none beside the
	// stored ones.
	AdminKey string
	// JWT says which tokens are taken; its zero value: none.
	JWT JWTOptions
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// CacheAge is how long a stored key is trusted without reading it again, 30 s by default.
	// It bounds how long a revoked key works where nobody calls Invalidate.
	CacheAge time.Duration
	// FlushInterval is how often lastUsedAt is written, 5 s by default.
	FlushInterval time.Duration
	// FailureBurst and FailureInterval bound failed logins per remote address: so many at once
	// (100), then one an interval (1 s).
	FailureBurst    int
	FailureInterval time.Duration
}

// Sizes of what is kept per process. Each entry is a few hundred bytes.
const (
	maxCachedKeys      = 10_000
	maxCachedTokens    = 10_000
	maxLimitedAddrs    = 10_000
	maxAdminAddrs      = 1_000
	maxCredentialBytes = 8 << 10
)

// Authenticator checks credentials. It is safe for concurrent use.
type Authenticator struct {
	keys     *keyCache
	used     *usage
	tokens   *tokens // nil: JWTs are not taken
	limiter  *limiter
	admin    *Principal // nil: there is no configured administrator
	adminSum [sha256.Size]byte
	now      func() time.Time
	logger   *slog.Logger
}

// New makes an Authenticator. It panics where a required option is missing, and fails where the
// JWT options contradict each other. It does no I/O: Run loads what must be loaded.
func New(o Options) (*Authenticator, error) {
	if o.Store == nil || o.Logger == nil {
		panic("auth: Store and Logger are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CacheAge <= 0 {
		o.CacheAge = 30 * time.Second
	}
	if o.FlushInterval <= 0 {
		o.FlushInterval = 5 * time.Second
	}
	if o.FailureBurst <= 0 {
		o.FailureBurst = 100
	}
	if o.FailureInterval <= 0 {
		o.FailureInterval = time.Second
	}
	a := &Authenticator{
		keys:    newKeyCache(o.Store, o.Now, o.CacheAge),
		used:    &usage{store: o.Store, every: o.FlushInterval, times: map[string]time.Time{}},
		limiter: newLimiter(o.FailureBurst, o.FailureInterval, o.Now),
		now:     o.Now,
		logger:  o.Logger,
	}
	if o.AdminKey != "" {
		a.admin = &Principal{ID: AdminID, Scopes: []models.Scope{models.ScopeAdmin}}
		a.adminSum = sha256.Sum256([]byte(o.AdminKey))
	}
	if o.JWT.enabled() {
		t, err := newTokens(o.JWT, o.Now)
		if err != nil {
			return nil, err
		}
		a.tokens = t
	}
	return a, nil
}

// Authenticate checks the value of an Authorization header. The errors are ErrNoCredentials,
// one that wraps ErrBadCredentials, *RateLimitedError, or *models.UnavailableError where the
// credentials could not be checked. The principal is shared: treat it as read-only.
//
// Failures count against the remote address of ctx (see WithRemoteAddr). Credentials that are
// known to be good go through from any address, so that one bad client behind a shared address
// does not lock out its neighbours.
func (a *Authenticator) Authenticate(ctx context.Context, header string) (*Principal, error) {
	if strings.TrimSpace(header) == "" {
		return nil, ErrNoCredentials
	}
	addr := remoteAddr(ctx)
	wait, limited := a.limiter.blocked(addr)
	p, err := a.check(ctx, header, addr, limited)
	switch {
	case err == nil:
		return p, nil
	case errors.Is(err, errNotChecked):
		return nil, &RateLimitedError{RetryAfter: wait}
	case errors.Is(err, ErrBadCredentials):
		a.limiter.fail(addr)
		if limited {
			return nil, &RateLimitedError{RetryAfter: wait}
		}
	}
	return nil, err
}

// errNotChecked says that looking at the credentials would cost something and the address has
// used up its failures.
var errNotChecked = errors.New("not checked")

func (a *Authenticator) check(ctx context.Context, header, addr string, limited bool) (*Principal, error) {
	scheme, credential, ok := strings.Cut(strings.TrimSpace(header), " ")
	credential = strings.TrimSpace(credential)
	if !ok || !strings.EqualFold(scheme, "Bearer") || credential == "" {
		return nil, fmt.Errorf("%w: the Authorization header must be Bearer followed by an API key or a token", ErrBadCredentials)
	}
	if len(credential) > maxCredentialBytes {
		return nil, fmt.Errorf("%w: longer than any key or token", ErrBadCredentials)
	}
	sum := sha256.Sum256([]byte(credential))

	// The administrator's key was chosen by a person, so guessing it must not be free: an address
	// that has used up its failures is compared only if that key came from it before.
	if a.admin != nil && (!limited || a.limiter.knowsAdmin(addr)) &&
		subtle.ConstantTimeCompare(sum[:], a.adminSum[:]) == 1 {
		a.limiter.rememberAdmin(addr)
		return a.admin, nil
	}
	if strings.HasPrefix(credential, keyPrefix) {
		if !wellFormed(credential) {
			return nil, fmt.Errorf("%w: not an API key, its checksum is wrong", ErrBadCredentials)
		}
		p, id, err := a.keys.lookup(ctx, hex.EncodeToString(sum[:]), !limited)
		if err != nil {
			return nil, err
		}
		a.used.note(id, a.now())
		return p, nil
	}
	// A token has one spelling, and the decoder of base64 skips line breaks, which a header cannot
	// have and the first message of a WebSocket can.
	if a.tokens != nil && strings.Count(credential, ".") == 2 && !strings.ContainsAny(credential, "\r\n") {
		return a.tokens.verify(ctx, credential, sum, !limited)
	}
	return nil, fmt.Errorf("%w: unknown key or token", ErrBadCredentials)
}

// Invalidate makes the next use of every stored key read it again. Call it when keys changed;
// it costs one read per key in use.
func (a *Authenticator) Invalidate() { a.keys.invalidate() }

// Run writes lastUsedAt and keeps the key set of tokens fresh until ctx ends; then it writes
// what is left and returns nil. Authenticate works without it.
func (a *Authenticator) Run(ctx context.Context) error {
	flush := time.NewTicker(a.used.every)
	defer flush.Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if a.tokens != nil {
			a.tokens.run(ctx, a.logger)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			<-done
			// The process stops, and what was used until now must still be told.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			a.flush(last)
			return nil
		case <-flush.C:
			a.flush(ctx)
		}
	}
}

func (a *Authenticator) flush(ctx context.Context) {
	if err := a.used.flush(ctx); err != nil {
		a.logger.WarnContext(ctx, "last use of API keys not written, will be tried again", "error", err)
	}
}

// Watch returns once p's credentials are no longer good, with an error that wraps
// ErrBadCredentials, or when ctx ends, with its error. Long-lived connections end by it.
func (a *Authenticator) Watch(ctx context.Context, p *Principal) error {
	for {
		changed := a.keys.changes() // before the check, so that a change during it is not missed
		if p.hash != "" {
			_, _, err := a.keys.lookup(ctx, p.hash, true)
			if errors.Is(err, ErrBadCredentials) {
				return err
			}
			// Any other error: the database is away, and the next round asks again.
		}
		if p.expired(a.now()) {
			return fmt.Errorf("%w: expired", ErrBadCredentials)
		}
		wait := a.keys.maxAge
		if p.ExpiresAt != nil {
			wait = min(wait, p.ExpiresAt.Sub(a.now()))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// Middleware authenticates each request and hands on its context with the principal or the
// error in it, and with the remote address. It answers nothing itself.
func (a *Authenticator) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := WithRemoteAddr(r.Context(), r.RemoteAddr)
		p, err := a.Authenticate(ctx, r.Header.Get("Authorization"))
		if err != nil {
			ctx = withError(ctx, err)
		} else {
			ctx = WithPrincipal(ctx, p)
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
