package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/intervengine/webhooks/models"
)

// JWTOptions say which JSON Web Tokens are taken. Without Secret and JWKSURL none are; with
// both, HS256 tokens are checked with the secret and all others with the key set.
type JWTOptions struct {
	// Secret checks HS256 tokens; nil: they are refused.
	Secret []byte
	// JWKSURL is where the public keys of RS, PS, ES and EdDSA tokens are; "": they are refused.
	JWKSURL string
	// Issuer and Audience are what iss and aud must be; "": they are not looked at.
	Issuer, Audience string
	// Client fetches the key set; nil: one of its own.
	Client *http.Client
	// MinRefresh is the least time between two fetches that unknown keys cause, 5 s by default:
	// a key that was just rotated in is found, made-up ones cause no stampede.
	MinRefresh time.Duration
	// Refresh is how often the key set is fetched without a cause, 15 min by default.
	Refresh time.Duration
}

func (o JWTOptions) enabled() bool { return len(o.Secret) > 0 || o.JWKSURL != "" }

const (
	// leeway is how far ahead the clock of who made a token may be: a token that was made just now
	// must be taken. The end of a token is exact.
	leeway = 10 * time.Second
	// tokenCacheAge is how long a checked token is trusted without checking its signature again.
	tokenCacheAge = 30 * time.Second
)

// asymmetric are the algorithms of a key set. HMAC is not among them: a public key must never
// serve as a shared secret.
var asymmetric = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// tokens verifies JWTs and remembers the good ones for a while.
type tokens struct {
	secret []byte
	keys   *keySet // nil: only the secret
	parser *jwt.Parser
	now    func() time.Time
	cache  *lru.Cache[[sha256.Size]byte, tokenEntry]
}

type tokenEntry struct {
	principal *Principal
	checkedAt time.Time
}

func newTokens(o JWTOptions, now func() time.Time) (*tokens, error) {
	t := &tokens{
		secret: slices.Clone(o.Secret), now: now,
		cache: newLRU[[sha256.Size]byte, tokenEntry](maxCachedTokens),
	}
	var methods []string
	if len(o.Secret) > 0 {
		methods = append(methods, "HS256")
	}
	if o.JWKSURL != "" {
		u, err := url.Parse(o.JWKSURL)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return nil, errors.New("the URL of the JSON Web Key Set must be an absolute http or https URL")
		}
		methods = append(methods, asymmetric...)
		t.keys = newKeySet(o, now)
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods(methods), jwt.WithExpirationRequired(), jwt.WithLeeway(leeway),
		jwt.WithTimeFunc(now), jwt.WithStrictDecoding(),
	}
	if o.Issuer != "" {
		options = append(options, jwt.WithIssuer(o.Issuer))
	}
	if o.Audience != "" {
		options = append(options, jwt.WithAudience(o.Audience))
	}
	t.parser = jwt.NewParser(options...)
	return t, nil
}

// run keeps the key set fresh until ctx ends.
func (t *tokens) run(ctx context.Context, logger *slog.Logger) {
	if t.keys != nil {
		t.keys.run(ctx, logger)
	}
}

// verify checks a token; sum is its SHA-256. A token that is not cached is checked only if
// mayCheck, else the answer is errNotChecked.
func (t *tokens) verify(ctx context.Context, token string, sum [sha256.Size]byte, mayCheck bool) (*Principal, error) {
	now := t.now()
	if e, ok := t.cache.Get(sum); ok && now.Sub(e.checkedAt) < tokenCacheAge && !e.principal.expired(now) {
		return e.principal, nil
	}
	if !mayCheck {
		return nil, errNotChecked
	}
	claims, err := t.parse(ctx, token)
	if err != nil {
		return nil, err
	}
	p, err := claimed(claims)
	if err != nil {
		return nil, err
	}
	if p.expired(now) { // the parser's leeway is for nbf
		return nil, fmt.Errorf("%w: the token has expired", ErrBadCredentials)
	}
	t.cache.Add(sum, tokenEntry{principal: p, checkedAt: now})
	return p, nil
}

func (t *tokens) parse(ctx context.Context, token string) (jwt.MapClaims, error) {
	var unavailable *models.UnavailableError
	for again := false; ; again = true {
		before := t.generation()
		claims := jwt.MapClaims{}
		parsed, err := t.parser.ParseWithClaims(token, claims, func(tok *jwt.Token) (any, error) {
			return t.key(ctx, tok)
		})
		switch {
		case err == nil:
			return claims, nil
		case errors.As(err, &unavailable):
			return nil, unavailable
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		// A token that names no key was tried with all known ones; there may be newer ones.
		if !again && parsed != nil && errors.Is(err, jwt.ErrTokenSignatureInvalid) && t.namesNoKey(parsed) {
			if err := t.keys.refresh(ctx); err != nil {
				return nil, err
			}
			if t.generation() != before {
				continue
			}
		}
		return nil, fmt.Errorf("%w: %s", ErrBadCredentials, reason(err))
	}
}

func (t *tokens) generation() int {
	if t.keys == nil {
		return 0
	}
	return t.keys.generation()
}

func (t *tokens) namesNoKey(tok *jwt.Token) bool {
	_, named := tok.Header["kid"]
	return t.keys != nil && !named && tok.Method != nil && slices.Contains(asymmetric, tok.Method.Alg())
}

// key finds what tok's signature is checked with. The parser has checked the algorithm against
// the list before; the kind of algorithm chooses the kind of key here once more, so that neither
// can be used for the other.
func (t *tokens) key(ctx context.Context, tok *jwt.Token) (any, error) {
	if _, critical := tok.Header["crit"]; critical {
		return nil, errors.New("critical header extensions are not supported") // RFC 7515, 4.1.11
	}
	switch tok.Method.(type) {
	case *jwt.SigningMethodHMAC:
		if len(t.secret) == 0 {
			return nil, errors.New("no secret")
		}
		return t.secret, nil
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS, *jwt.SigningMethodECDSA, *jwt.SigningMethodEd25519:
		if t.keys == nil {
			return nil, errors.New("no key set")
		}
		return t.keys.find(ctx, tok)
	default:
		return nil, errors.New("unknown kind of algorithm")
	}
}

// reason says in a caller's words why a token was refused. It never repeats what the token says.
func reason(err error) string {
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return "the token has expired"
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return "the token is not valid yet"
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return "the token lacks a required claim (exp, and iss and aud where they are configured)"
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return "the token is from another issuer"
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return "the token is for another audience"
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return "the token's signature, algorithm or key is not accepted"
	default:
		return "the token is malformed"
	}
}

// claimed makes a principal of verified claims: scopes is a list, or scope OAuth's string; tenant
// is required unless ADMIN is among the scopes, and refused together with it. Scopes that are
// none of ours are ignored, because a platform's tokens serve other services too.
func claimed(claims jwt.MapClaims) (*Principal, error) {
	bad := func(why string) (*Principal, error) { return nil, fmt.Errorf("%w: %s", ErrBadCredentials, why) }
	var names []string
	if list, ok := claims["scopes"]; ok && list != nil {
		items, isList := list.([]any)
		if !isList {
			return bad("the token's claim scopes must be a list of strings")
		}
		for _, item := range items {
			name, isString := item.(string)
			if !isString {
				return bad("the token's claim scopes must be a list of strings")
			}
			names = append(names, name)
		}
	} else if text, ok := claims["scope"]; ok && text != nil {
		s, isString := text.(string)
		if !isString {
			return bad("the token's claim scope must be a string")
		}
		names = strings.Fields(s)
	}
	p := &Principal{}
	for _, name := range names {
		switch s := models.Scope(name); s {
		case models.ScopeRead, models.ScopeManage, models.ScopeEmit, models.ScopeAdmin:
			if !slices.Contains(p.Scopes, s) {
				p.Scopes = append(p.Scopes, s)
			}
		}
	}
	admin := slices.Contains(p.Scopes, models.ScopeAdmin)
	switch tenant := claims["tenant"].(type) {
	case nil:
		if !admin {
			return bad("the token lacks the claim tenant")
		}
	case string:
		if !ValidTenant(tenant) {
			return bad("the token's claim tenant is not the name of a tenant")
		}
		if admin {
			return bad("the token has the scope ADMIN and a tenant")
		}
		p.Tenant = &tenant
	default:
		return bad("the token's claim tenant must be a string")
	}
	subject, err := claims.GetSubject()
	if err != nil {
		return bad("the token's claim sub must be a string")
	}
	p.ID = "jwt:" + subject
	exp, err := claims.GetExpirationTime()
	if err != nil || exp == nil {
		return bad("the token lacks the claim exp")
	}
	p.ExpiresAt = &exp.Time
	return p, nil
}
