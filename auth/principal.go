package auth

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/intervengine/webhooks/models"
)

// AdminID is the id of the principal of the configured administrator's key.
const AdminID = "admin"

// ErrForbiddenTenant says that a caller named another tenant than its own.
var ErrForbiddenTenant = errors.New("naming another tenant than one's own is not allowed")

// Principal is who calls. It is never changed once made, and safe for concurrent use.
type Principal struct {
	// ID names the credentials: an API key's id, AdminID, or "jwt:" and the token's subject.
	ID string
	// Tenant is the one tenant that the caller belongs to; nil: the platform.
	Tenant *string
	// Scopes are what the credentials say, without what they include; see Has.
	Scopes []models.Scope
	// ExpiresAt is when the credentials end; nil: never by themselves.
	ExpiresAt *time.Time

	hash string // of the API key, for Watch
}

// Has reports whether the caller may do what needs scope s. ADMIN includes all scopes, MANAGE
// includes READ, EMIT stands alone. A nil principal has none.
func (p *Principal) Has(s models.Scope) bool {
	if p == nil {
		return false
	}
	if slices.Contains(p.Scopes, models.ScopeAdmin) {
		return true
	}
	switch s {
	case models.ScopeRead:
		return slices.Contains(p.Scopes, models.ScopeRead) || slices.Contains(p.Scopes, models.ScopeManage)
	case models.ScopeManage, models.ScopeEmit:
		return slices.Contains(p.Scopes, s)
	case models.ScopeAdmin:
		return false
	default:
		return false
	}
}

// Reach is what the caller may see: everything for the platform, else one tenant's.
func (p *Principal) Reach() models.Reach {
	if p.Tenant == nil {
		return models.Reach{All: true}
	}
	return models.Reach{Tenant: *p.Tenant}
}

// TenantFor is the tenant that a write goes to: the caller's own, and for the platform the one
// that is named or models.DefaultTenant. Naming another than one's own is ErrForbiddenTenant.
// Whether the name is a possible one is ValidTenant's question.
func (p *Principal) TenantFor(named *string) (string, error) {
	switch {
	case p.Tenant == nil && named == nil:
		return models.DefaultTenant, nil
	case p.Tenant == nil:
		return *named, nil
	case named != nil && *named != *p.Tenant:
		return "", ErrForbiddenTenant
	default:
		return *p.Tenant, nil
	}
}

func (p *Principal) expired(now time.Time) bool {
	return p.ExpiresAt != nil && !now.Before(*p.ExpiresAt)
}

// MaxTenantLength is how many characters the name of a tenant may have.
const MaxTenantLength = 100

// ValidTenant reports whether name can name a tenant: 1 to MaxTenantLength printable characters
// without a space at either end.
func ValidTenant(name string) bool {
	if name == "" || !utf8.ValidString(name) || utf8.RuneCountInString(name) > MaxTenantLength {
		return false
	}
	for _, r := range name {
		if !unicode.IsPrint(r) { // of all spaces, only U+0020 is printable
			return false
		}
	}
	return name[0] != ' ' && name[len(name)-1] != ' '
}

type contextKey int

const (
	principalKey contextKey = iota
	errorKey
	addrKey
)

// WithPrincipal gives a context in which p calls.
func WithPrincipal(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, principalKey, p)
}

// FromContext is who calls in ctx; ok is false where nobody was authenticated.
func FromContext(ctx context.Context) (p *Principal, ok bool) {
	p, ok = ctx.Value(principalKey).(*Principal)
	return p, ok && p != nil
}

// ErrFromContext is why nobody was authenticated in ctx: what Middleware met, ErrNoCredentials
// where it did not run, nil where there is a principal.
func ErrFromContext(ctx context.Context) error {
	if _, ok := FromContext(ctx); ok {
		return nil
	}
	if err, ok := ctx.Value(errorKey).(error); ok {
		return err
	}
	return ErrNoCredentials
}

func withError(ctx context.Context, err error) context.Context {
	return context.WithValue(ctx, errorKey, err)
}

// WithRemoteAddr notes where a call comes from, as http.Request.RemoteAddr or an address alone.
// Middleware does it.
func WithRemoteAddr(ctx context.Context, addr string) context.Context {
	return context.WithValue(ctx, addrKey, addr)
}

// remoteAddr is the address that failures count against: an IPv4 address, or an IPv6 network of
// 64 bits, because one host has as many addresses of such a network as it likes.
func remoteAddr(ctx context.Context) string {
	addr, _ := ctx.Value(addrKey).(string)
	if host, _, err := net.SplitHostPort(addr); err == nil {
		addr = host
	}
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return addr
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	network, err := ip.Prefix(64)
	if err != nil {
		return ip.String()
	}
	return network.String()
}
