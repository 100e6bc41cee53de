package egress

import "net/netip"

// The tables follow IANA's registries of special-purpose addresses for IPv4 and
// IPv6. Every entry is refused, whether the registry calls it globally reachable
// or not: no receiver of webhooks lives in any of them.

// special4 holds what is not public unicast in IPv4.
var special4 = prefixes(
	"0.0.0.0/8",       // this network
	"10.0.0.0/8",      // private use
	"100.64.0.0/10",   // shared address space (carrier-grade NAT)
	"127.0.0.0/8",     // loopback
	"169.254.0.0/16",  // link-local, metadata services
	"172.16.0.0/12",   // private use
	"192.0.0.0/24",    // IETF protocol assignments: DS-Lite, NAT64 discovery, anycast
	"192.0.2.0/24",    // documentation
	"192.31.196.0/24", // AS112
	"192.52.193.0/24", // AMT
	"192.88.99.0/24",  // 6to4 relays, deprecated
	"192.168.0.0/16",  // private use
	"192.175.48.0/24", // AS112, direct delegation
	"198.18.0.0/15",   // benchmarking
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"224.0.0.0/4",     // multicast
	"240.0.0.0/4",     // reserved, limited broadcast
)

// global6 is the one part of IPv6 that is given out for global unicast; all else
// is refused without naming it: unspecified, loopback, IPv4-compatible, local
// NAT64 (64:ff9b:1::/48), discard-only (100::/64), SRv6 (5f00::/16), unique local,
// link-local, site-local, multicast, and what is not assigned.
var global6 = netip.MustParsePrefix("2000::/3")

// special6 holds what is not public unicast within global6.
var special6 = prefixes(
	"2001::/23",         // IETF protocol assignments: Teredo, benchmarking, ORCHID, AMT, drones
	"2001:db8::/32",     // documentation
	"2002::/16",         // 6to4: carries IPv4 addresses past every filter, deprecated
	"2620:4f:8000::/48", // AS112
	"3fff::/20",         // documentation
)

// metadataServices are addresses at which cloud providers hand credentials to
// whoever asks; one of them lies in public space.
var metadataServices = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // AWS, GCP, Azure, and most others
	netip.MustParseAddr("169.254.170.2"),   // AWS ECS tasks
	netip.MustParseAddr("169.254.170.23"),  // AWS EKS pod identity
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("168.63.129.16"),   // Azure's host, public space
	netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud classic
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd00:ec2::23"),    // AWS EKS pod identity
	netip.MustParseAddr("fd20:ce::254"),    // GCP
}

// metadataNames lead to one of them inside of their clouds, and nowhere outside.
var metadataNames = []string{
	"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal", "metadata.azure.internal",
	"metadata.tencentyun.com", "metadata.packet.net", "metadata.platformequinix.com",
}

var nat64Prefix = netip.MustParsePrefix("64:ff9b::/96")

// isPublic reports whether an address that is not mapped is public unicast.
func isPublic(addr netip.Addr) bool {
	table := special6
	if addr.Is4() {
		table = special4
	} else if !global6.Contains(addr) {
		return false
	}
	for _, prefix := range table {
		if prefix.Contains(addr) {
			return false
		}
	}
	return true
}

// nat64 returns the IPv4 address that the well-known NAT64 prefix carries.
func nat64(addr netip.Addr) (netip.Addr, bool) {
	if !nat64Prefix.Contains(addr) {
		return netip.Addr{}, false
	}
	bytes := addr.As16()
	return netip.AddrFrom4([4]byte(bytes[12:])), true
}

// isatap returns the IPv4 address in an ISATAP interface identifier, which any
// prefix may have before it (RFC 5214): 0000:5efe or 0200:5efe and the address.
func isatap(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	bytes := addr.As16()
	if bytes[8]&^0x02 != 0 || bytes[9] != 0 || bytes[10] != 0x5e || bytes[11] != 0xfe {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(bytes[12:])), true
}

func prefixes(texts ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		parsed[i] = netip.MustParsePrefix(text)
	}
	return parsed
}
