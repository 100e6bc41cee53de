package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// BlockedError means that an address may not be dialled. Its text says neither
// the address nor what is there: the name may be one that only resolves inside.
type BlockedError struct {
	Addr netip.Addr // for the operator's log, not for the tenant
}

// Error is a sentence for the person who wrote the target URL.
func (*BlockedError) Error() string { return "the target's address is not a public one" }

// LookupFunc resolves a host name to addresses. It must obey its context.
type LookupFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// SystemLookup resolves as the operating system is configured to.
func SystemLookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// Guard decides which addresses may be dialled: public unicast ones, and the
// exceptions that the operator allows. Immutable, safe for concurrent use.
type Guard struct {
	allow []netip.Prefix
}

// NewGuard makes a guard with exceptions, none by default. An address that was
// mapped into IPv6 is compared as IPv4. Metadata services of cloud providers are
// excepted only by a prefix that holds nothing else (/32, /128): a wide exception
// for an internal network must not open them.
func NewGuard(allow []netip.Prefix) *Guard { return &Guard{allow: slices.Clone(allow)} }

// ParseAllow reads exceptions: CIDRs, comma-separated, spaces around them
// ignored; empty for none. Errors name the entry.
func ParseAllow(text string) ([]netip.Prefix, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var allow []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		prefix, err := netip.ParsePrefix(part)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is not a CIDR such as 10.0.0.0/8 or fd00::/8", part)
		case prefix.Masked() != prefix:
			return nil, fmt.Errorf("%q has bits beyond its length: %s is meant", part, prefix.Masked())
		case prefix.Addr().Is4In6():
			return nil, fmt.Errorf("%q is an IPv4 network mapped into IPv6: write it as IPv4", part)
		}
		allow = append(allow, prefix)
	}
	return allow, nil
}

// Check returns a *BlockedError when addr may not be dialled. IPv4 addresses that
// an IPv6 one carries (mapped, NAT64, ISATAP) are judged themselves.
func (g *Guard) Check(addr netip.Addr) error {
	if !addr.IsValid() || addr.Zone() != "" {
		return &BlockedError{Addr: addr}
	}
	plain := addr.Unmap()
	inner, translated := nat64(plain)
	tunnelled := false
	if !translated {
		inner, tunnelled = isatap(plain)
	}
	var allowed bool
	switch {
	case slices.Contains(metadataServices, plain):
		allowed = slices.Contains(g.allow, netip.PrefixFrom(plain, plain.BitLen()))
	case slices.Contains(metadataServices, inner):
		allowed = g.Check(inner) == nil
	case slices.ContainsFunc(g.allow, func(prefix netip.Prefix) bool { return prefix.Contains(plain) }):
		allowed = true
	case translated:
		// Networks without IPv4 reach it in this way: as good as what it carries.
		allowed = g.Check(inner) == nil
	case tunnelled:
		allowed = isPublic(plain) && g.Check(inner) == nil
	default:
		allowed = isPublic(plain)
	}
	if !allowed {
		return &BlockedError{Addr: addr}
	}
	return nil
}

// CheckTarget is Check for a target that is about to be saved: a literal address,
// or every address that the name resolves to now. A name that does not resolve,
// or not in time, is allowed: each attempt is checked again when it connects. Only
// names that never are public ones are judged by what they stand for.
func (g *Guard) CheckTarget(ctx context.Context, target Target, lookup LookupFunc) error {
	if addr, ok := target.Addr(); ok {
		return g.Check(addr)
	}
	addrs, err := lookup(ctx, target.Hostname())
	if err == nil {
		return g.checkAll(addrs)
	}
	return g.checkAll(inward(target.Hostname()))
}

// inward is where a name leads that is not for the public DNS, whoever resolves it or
// does not: the machine itself (RFC 6761), or a cloud's metadata service.
func inward(host string) []netip.Addr {
	last := host[strings.LastIndexByte(host, '.')+1:]
	switch {
	case last == "localhost":
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	case slices.Contains(metadataNames, host):
		return metadataServices[:1]
	default:
		return nil
	}
}

// Control is for net.Dialer: it refuses the address that is about to be dialled,
// after every resolution and decision, with a *BlockedError.
func (g *Guard) Control(network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return errors.New("only TCP is dialled")
	}
	addrPort, err := netip.ParseAddrPort(address)
	if err != nil {
		return &BlockedError{}
	}
	return g.Check(addrPort.Addr())
}

// checkAll refuses all addresses for one that is forbidden: an answer that mixes
// public and internal addresses is an attempt to get past the guard.
func (g *Guard) checkAll(addrs []netip.Addr) error {
	for _, addr := range addrs {
		if err := g.Check(addr); err != nil {
			return err
		}
	}
	return nil
}
