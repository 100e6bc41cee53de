package egress_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/egress"
)

func TestGuardChecks(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{ // true: may be dialled
		"8.8.8.8": true, "1.1.1.1": true, "93.184.215.14": true, "100.63.255.255": true, "100.128.0.0": true, "172.15.255.255": true,
		"172.32.0.0": true, "192.0.1.0": true, "198.17.255.255": true, "198.20.0.0": true, "223.255.255.255": true, "9.255.255.255": true, "11.0.0.0": true,

		"0.0.0.0": false, "0.255.255.255": false, "10.0.0.0": false, "10.255.255.255": false, "100.64.0.0": false, "100.127.255.255": false,
		"127.0.0.1": false, "127.255.255.255": false, "169.254.0.0": false, "169.254.169.254": false, "172.16.0.0": false, "172.31.255.255": false,
		"192.0.0.8": false, "192.0.0.9": false, "192.0.0.170": false, "192.0.2.1": false, "192.31.196.1": false, "192.52.193.1": false, "192.88.99.1": false,
		"192.168.0.1": false, "192.175.48.1": false, "198.18.0.0": false, "198.19.255.255": false, "198.51.100.1": false, "203.0.113.1": false,
		"224.0.0.1": false, "239.255.255.255": false, "240.0.0.0": false, "255.255.255.255": false,
		"168.63.129.16": false, "100.100.100.200": false,

		"2606:4700::1111": true, "2a00:1450::1": true, "2001:200::1": true, "2003::1": true, "2620:4f:8001::1": true,

		"::": false, "::1": false, "::8.8.8.8": false, "100::1": false, "100:0:0:1::1": false, "2001::1": false, "2001:2::1": false, "2001:10::1": false, "2001:20::1": false,
		"2001:30::1": false, "2001:1::1": false, "2001:db8::1": false, "2002:808:808::1": false, "2620:4f:8000::1": false, "3fff::1": false, "5f00::1": false,
		"fc00::1": false, "fd00:ec2::254": false, "fe80::1": false, "fec0::1": false, "ff02::1": false, "4000::1": false, "1000::1": false,

		// What an IPv6 address carries.
		"::ffff:8.8.8.8": true, "::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "64:ff9b::8.8.8.8": true, "64:ff9b::10.0.0.1": false,
		"64:ff9b::168.63.129.16": false, "64:ff9b:1::8.8.8.8": false, "2002:a00:1::1": false, "2001:0:4136:e378:8000:63bf:3fff:fdd2": false,
		"2606:4700::5efe:8.8.8.8": true, "2606:4700::5efe:10.0.0.1": false, "2606:4700::200:5efe:127.0.0.1": false, "fe80::5efe:8.8.8.8": false,
		"2606:4700::1:5efe:10.0.0.1": true, "::ffff:0:8.8.8.8": false,

		"fe80::1%eth0": false, "2606:4700::1111%eth0": false,
	}
	guard := egress.NewGuard(nil)
	for text, want := range tests {
		err := guard.Check(netip.MustParseAddr(text))
		require.Equal(t, want, err == nil, text)
		if err != nil {
			var blocked *egress.BlockedError
			require.ErrorAs(t, err, &blocked)
			require.Equal(t, netip.MustParseAddr(text), blocked.Addr)
			require.NotContains(t, err.Error(), text, "the text says nothing of what is inside")
		}
		if !strings.Contains(text, ":") {
			require.Equal(t, want, guard.Check(netip.MustParseAddr("::ffff:"+text)) == nil, "mapped %s", text)
			require.Equal(t, want, guard.Check(netip.MustParseAddr("64:ff9b::"+text)) == nil, "translated %s", text)
		}
	}
	require.Error(t, guard.Check(netip.Addr{}))
}

func TestGuardExceptions(t *testing.T) {
	t.Parallel()
	guard := func(text string) *egress.Guard {
		allow, err := egress.ParseAllow(text)
		require.NoError(t, err)
		return egress.NewGuard(allow)
	}
	check := func(allow, addr string) bool { return guard(allow).Check(netip.MustParseAddr(addr)) == nil }
	require.True(t, check("10.0.0.0/8", "10.1.2.3"))
	require.True(t, check("10.0.0.0/8", "::ffff:10.1.2.3"))
	require.True(t, check("10.0.0.0/8", "64:ff9b::10.1.2.3"))
	require.False(t, check("10.0.0.0/8", "2002:a01:203::1"), "only what it names")
	require.False(t, check("10.0.0.0/8", "192.168.0.1"))
	require.True(t, check(" 127.0.0.0/8 , ::1/128", "::1"))
	require.False(t, check("fe80::/10", "fe80::1%eth0"), "a zone is never dialled")
	require.False(t, check("169.254.0.0/16,0.0.0.0/0", "169.254.169.254"), "metadata only by itself")
	require.False(t, check("64:ff9b::/96,::/0", "64:ff9b::169.254.169.254"))
	require.False(t, check("fd00::/8", "fd00:ec2::254"))
	require.True(t, check("169.254.169.254/32", "169.254.169.254"))
	require.True(t, check("fd00:ec2::254/128", "fd00:ec2::254"))
}

func TestParseAllow(t *testing.T) {
	t.Parallel()
	for _, empty := range []string{"", "  "} {
		allow, err := egress.ParseAllow(empty)
		require.NoError(t, err)
		require.Empty(t, allow)
	}
	for text, says := range map[string]string{
		"10.0.0.0": "is not a CIDR", "10.0.0.0/8,": `"" is not a CIDR`, "10.0.0.0/33": "is not a CIDR", "10.1.2.3/8": "10.0.0.0/8 is meant",
		"localhost": "is not a CIDR", "::ffff:10.0.0.0/104": "write it as IPv4", "fe80::%eth0/10": "is not a CIDR",
	} {
		_, err := egress.ParseAllow(text)
		require.ErrorContains(t, err, says, text)
	}
}

func TestCheckTarget(t *testing.T) {
	t.Parallel()
	answers := func(addrs ...string) egress.LookupFunc {
		return func(context.Context, string) ([]netip.Addr, error) {
			parsed := make([]netip.Addr, len(addrs))
			for i, addr := range addrs {
				parsed[i] = netip.MustParseAddr(addr)
			}
			return parsed, nil
		}
	}
	never := func(context.Context, string) ([]netip.Addr, error) { return nil, &net.DNSError{IsNotFound: true} }
	guard := egress.NewGuard(nil)
	tests := map[string]struct {
		url    string
		lookup egress.LookupFunc
		want   bool
	}{
		"public literal":    {"http://8.8.8.8/", never, true},
		"forbidden literal": {"http://127.0.0.1/", never, false},
		"forbidden IPv6":    {"http://[::1]/", never, false},
		"mapped":            {"http://[::ffff:a00:1]/", never, false},
		"public name":       {"http://example.com/", answers("8.8.8.8", "2606:4700::1111"), true},
		"private name":      {"http://example.com/", answers("10.0.0.1"), false},
		"one of two":        {"http://example.com/", answers("8.8.8.8", "::1"), false},
		"unresolved":        {"http://example.com/", never, true},
		"no address":        {"http://example.com/", answers(), true},
		"this machine":      {"http://localhost/", never, false},
		"under localhost":   {"http://any.LocalHost:8080/", never, false},
		"not localhost":     {"http://localhost.example.com/", never, true},
		"metadata service":  {"http://metadata.google.internal/computeMetadata/v1/", never, false},
		"of another cloud":  {"http://metadata/", never, false},
		"a name like it":    {"http://metadata.example.com/", never, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := guard.CheckTarget(t.Context(), target(t, test.url), test.lookup)
			if test.want {
				require.NoError(t, err)
				return
			}
			var blocked *egress.BlockedError
			require.ErrorAs(t, err, &blocked)
		})
	}
	allow := egress.NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})
	require.NoError(t, allow.CheckTarget(t.Context(), target(t, "http://any.localhost/"), never), "what is excepted is so by name too")
}

func TestControlVetsWhatIsDialled(t *testing.T) {
	t.Parallel()
	guard := egress.NewGuard(nil)
	require.NoError(t, guard.Control("tcp4", "8.8.8.8:443", nil))
	require.NoError(t, guard.Control("tcp6", "[2606:4700::1111]:443", nil))
	require.Error(t, guard.Control("udp4", "8.8.8.8:53", nil))
	var blocked *egress.BlockedError
	for _, address := range []string{"127.0.0.1:80", "[::1]:80", "[fe80::1%lo]:80", "localhost:80", ""} {
		require.ErrorAs(t, guard.Control("tcp4", address, nil), &blocked, address)
	}
	_, err := (&net.Dialer{Control: guard.Control}).DialContext(t.Context(), "tcp", "127.0.0.1:9")
	require.ErrorAs(t, err, &blocked)
}

// oracle says which addresses may be dialled, written from IANA's registries as
// ranges of numbers, with none of the guard's own code or tables.
type oracle struct{ low4, high4, low6, high6 []*big.Int }

func newOracle() *oracle {
	o := &oracle{}
	add := func(low, high *[]*big.Int, from, to string) {
		*low = append(*low, new(big.Int).SetBytes(net.ParseIP(from)))
		*high = append(*high, new(big.Int).SetBytes(net.ParseIP(to)))
	}
	for _, r := range [][2]string{
		{"0.0.0.0", "0.255.255.255"},
		{"10.0.0.0", "10.255.255.255"},
		{"100.64.0.0", "100.127.255.255"},
		{"127.0.0.0", "127.255.255.255"},
		{"169.254.0.0", "169.254.255.255"},
		{"172.16.0.0", "172.31.255.255"},
		{"192.0.0.0", "192.0.0.255"},
		{"192.0.2.0", "192.0.2.255"},
		{"192.31.196.0", "192.31.196.255"},
		{"192.52.193.0", "192.52.193.255"},
		{"192.88.99.0", "192.88.99.255"},
		{"192.168.0.0", "192.168.255.255"},
		{"192.175.48.0", "192.175.48.255"},
		{"198.18.0.0", "198.19.255.255"},
		{"198.51.100.0", "198.51.100.255"},
		{"203.0.113.0", "203.0.113.255"},
		{"224.0.0.0", "255.255.255.255"},
		{"168.63.129.16", "168.63.129.16"},
	} {
		add(&o.low4, &o.high4, r[0], r[1])
	}
	for _, r := range [][2]string{
		{"::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff"},
		{"3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		add(&o.low6, &o.high6, r[0], r[1])
	}
	return o
}

func (o *oracle) allows(ip net.IP) bool {
	within := func(number *big.Int, low, high []*big.Int) bool {
		for i := range low {
			if number.Cmp(low[i]) >= 0 && number.Cmp(high[i]) <= 0 {
				return true
			}
		}
		return false
	}
	if four := ip.To4(); four != nil { // mapped ones too
		return !within(new(big.Int).SetBytes(four.To16()), o.low4, o.high4)
	}
	text := ip.String()
	carried := net.IPv4(ip[12], ip[13], ip[14], ip[15])
	if strings.HasPrefix(text, "64:ff9b::") && binary.BigEndian.Uint64(ip[4:12]) == 0 {
		return o.allows(carried)
	}
	marker := binary.BigEndian.Uint32(ip[8:12])
	if (marker == 0x00005efe || marker == 0x02005efe) && !o.allows(carried) {
		return false
	}
	return !within(new(big.Int).SetBytes(ip.To16()), o.low6, o.high6)
}

func TestGuardAgreesWithTheRegistries(t *testing.T) {
	t.Parallel()
	o, guard := newOracle(), egress.NewGuard(nil)
	var edges4, edges6 []net.IP
	for i := range o.low4 {
		edges4 = append(edges4, edges(o.low4[i], 16)...)
		edges4 = append(edges4, edges(o.high4[i], 16)...)
	}
	for i := range o.low6 {
		edges6 = append(edges6, edges(o.low6[i], 16)...)
		edges6 = append(edges6, edges(o.high6[i], 16)...)
	}
	check := func(ip net.IP) error {
		addr, _ := netip.AddrFromSlice(ip)
		if want, got := o.allows(ip), guard.Check(addr) == nil; want != got {
			return errors.New(ip.String() + ": the guard and the registries disagree")
		}
		return nil
	}
	for _, ip := range slices.Concat(edges4, edges6) {
		require.NoError(t, check(ip))
	}
	rapid.Check(t, func(t *rapid.T) {
		ip := net.IP(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "ip"))
		four := net.IP(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "four"))
		if rapid.Bool().Draw(t, "near an edge") {
			four = rapid.SampledFrom(edges4).Draw(t, "edge")[12:]
		}
		switch rapid.IntRange(0, 8).Draw(t, "form") {
		case 0:
			ip = four
		case 1: // mapped
			ip = four.To16()
		case 2: // compatible
			ip = slices.Concat(make(net.IP, 12), four)
		case 3: // NAT64
			ip = slices.Concat(net.ParseIP("64:ff9b::")[:12], four)
		case 4: // local NAT64
			ip = slices.Concat(net.ParseIP("64:ff9b:1::")[:12], four)
		case 5: // 6to4
			ip = append(append(net.IP{0x20, 0x02}, four...), ip[6:]...)
		case 6: // Teredo
			ip = append(net.IP{0x20, 0x01, 0, 0}, ip[4:]...)
		case 7: // ISATAP in public space
			ip = append(append(net.ParseIP("2606:4700::")[:8:8], rapid.SampledFrom([][]byte{{0, 0, 0x5e, 0xfe}, {2, 0, 0x5e, 0xfe}}).Draw(t, "marker")...), four...)
		case 8:
			ip = rapid.SampledFrom(edges6).Draw(t, "edge6")
		}
		if err := check(ip); err != nil {
			t.Fatal(err)
		}
	})
}

// edges returns a number and its neighbours as addresses.
func edges(number *big.Int, size int) []net.IP {
	var around []net.IP
	for _, step := range []int64{-1, 0, 1} {
		moved := new(big.Int).Add(number, big.NewInt(step))
		if moved.Sign() >= 0 && moved.BitLen() <= size*8 {
			around = append(around, moved.FillBytes(make([]byte, size)))
		}
	}
	return around
}
