package egress_test

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/egress"
)

func TestParseTargetAccepts(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", 63)
	tests := map[string]struct {
		raw, want, host string
		port            uint16
	}{
		"plain":              {"https://example.com/hook", "https://example.com/hook", "example.com", 443},
		"no path":            {"http://example.com", "http://example.com", "example.com", 80},
		"query alone":        {"http://example.com?a=1", "http://example.com?a=1", "example.com", 80},
		"case folded":        {"HTTPS://EXAMPLE.Com/Hook?A=b", "https://example.com/Hook?A=b", "example.com", 443},
		"port":               {"https://example.com:8443/", "https://example.com:8443/", "example.com", 8443},
		"default port kept":  {"http://example.com:80/", "http://example.com:80/", "example.com", 80},
		"highest port":       {"http://example.com:65535", "http://example.com:65535", "example.com", 65535},
		"percent in path":    {"https://example.com/a%20b%2Fc?q=%C3%A9", "https://example.com/a%20b%2Fc?q=%C3%A9", "example.com", 443},
		"brackets in query":  {"https://example.com/?a[]=1&b[c]=2", "https://example.com/?a[]=1&b[c]=2", "example.com", 443},
		"at sign in path":    {"https://example.com/@me?x=a@b", "https://example.com/@me?x=a@b", "example.com", 443},
		"double slash":       {"https://example.com//a//b", "https://example.com//a//b", "example.com", 443},
		"dots in names":      {"https://example.com/a.b/..c/...", "https://example.com/a.b/..c/...", "example.com", 443},
		"one label":          {"http://receiver:8080/", "http://receiver:8080/", "receiver", 8080},
		"IPv4":               {"http://93.184.215.14/", "http://93.184.215.14/", "93.184.215.14", 80},
		"IPv6":               {"http://[2606:2800:21F:CB07:6820:80da:af6b:8b2c]:81/", "http://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:81/", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", 81},
		"IPv6 shortened":     {"http://[2606:0:0:0:0:0:0:1]/", "http://[2606::1]/", "2606::1", 80},
		"IPv6 mapped":        {"http://[::ffff:8.8.8.8]/", "http://[::ffff:8.8.8.8]/", "::ffff:8.8.8.8", 80},
		"digits in a label":  {"https://1.2.3.example/", "https://1.2.3.example/", "1.2.3.example", 443},
		"0x inside a label":  {"https://a0x7f/", "https://a0x7f/", "a0x7f", 443},
		"international":      {"https://bücher.example/", "https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443},
		"international caps": {"https://BÜCHER.example/", "https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443},
		"already ASCII form": {"https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443},
		"not Latin":          {"https://例え.テスト/", "https://xn--r8jz45g.xn--zckzah/", "xn--r8jz45g.xn--zckzah", 443},
		"label of 63":        {"https://" + label + ".example/", "https://" + label + ".example/", label + ".example", 443},
		"host of 253":        {"https://" + strings.Repeat(label+".", 3) + strings.Repeat("a", 61) + "/", "https://" + strings.Repeat(label+".", 3) + strings.Repeat("a", 61) + "/", strings.Repeat(label+".", 3) + strings.Repeat("a", 61), 443},
		"2,048 characters":   {"https://example.com/" + strings.Repeat("a", 2028), "https://example.com/" + strings.Repeat("a", 2028), "example.com", 443},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parsed, err := egress.ParseTarget(test.raw)
			require.NoError(t, err)
			require.Equal(t, test.want, parsed.String())
			require.Equal(t, test.host, parsed.Hostname())
			require.Equal(t, test.port, parsed.Port())
			require.False(t, parsed.IsZero())
			require.Equal(t, strings.HasPrefix(test.want, "https:"), parsed.Secure())
			addr, literal := parsed.Addr()
			expected, err := netip.ParseAddr(test.host)
			require.Equal(t, err == nil, literal)
			require.Equal(t, expected, addr)
			again, err := egress.ParseTarget(parsed.String())
			require.NoError(t, err)
			require.Equal(t, parsed, again)
		})
	}
}

func TestParseTargetRefuses(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", 64)
	tests := map[string]struct{ raw, says string }{
		"empty":                    {"", "is empty"},
		"relative":                 {"/hook", "not absolute"},
		"no scheme":                {"example.com/hook", "not absolute"},
		"scheme relative":          {"//example.com/", "not absolute"},
		"host and port alone":      {"example.com:80", "scheme is not allowed"},
		"file":                     {"file:///etc/passwd", "scheme is not allowed"},
		"ftp":                      {"ftp://example.com/", "scheme is not allowed"},
		"javascript":               {"javascript:alert(1)", "scheme is not allowed"},
		"gopher":                   {"gopher://127.0.0.1:6379/_INFO", "scheme is not allowed"},
		"scheme with digits":       {"http2://example.com/", "scheme is not allowed"},
		"scheme begins with digit": {"1http://example.com/", "not absolute"},
		"one slash":                {"http:/example.com/", `lacks "//"`},
		"no slash":                 {"http:example.com", `lacks "//"`},
		"three slashes":            {"http:///example.com/", "no host"},
		"no host":                  {"http://", "no host"},
		"no host, port":            {"http://:80/", "no host"},
		"no host, query":           {"http://?x", "no host"},
		"leading space":            {" http://example.com/", "a space or a control character"},
		"trailing newline":         {"http://example.com/\n", "a space or a control character"},
		"tab inside scheme":        {"ht\ttp://example.com/", "a space or a control character"},
		"CR LF in path":            {"http://example.com/\r\nX-Evil: 1", "a space or a control character"},
		"NUL in host":              {"http://exa\x00mple.com/", "a space or a control character"},
		"DEL":                      {"http://example.com/\x7f", "a space or a control character"},
		"C1 control":               {"http://example.com/\u0085", "a space or a control character"},
		"not UTF-8":                {"http://example.com/\xff", "not valid UTF-8"},
		"backslash for slash":      {`http:\\example.com\`, "backslash"},
		"backslash in host":        {`http://example.com\@evil.example/`, "backslash"},
		"user":                     {"http://user@example.com/", "user name or password"},
		"password":                 {"http://user:canary@example.com/", "user name or password"},
		"empty user":               {"http://@example.com/", "user name or password"},
		"host hidden by user":      {"http://example.com:80@127.0.0.1/", "user name or password"},
		"two at signs":             {"http://a@b@example.com/", "user name or password"},
		"fragment":                 {"http://example.com/#x", "fragment"},
		"empty fragment":           {"http://example.com/#", "fragment"},
		"fragment hides host":      {"http://example.com#@evil.example/", "fragment"},
		"port 0":                   {"http://example.com:0/", "port"},
		"port 65536":               {"http://example.com:65536/", "port"},
		"port huge":                {"http://example.com:99999999999999999999/", "port"},
		"port negative":            {"http://example.com:-1/", "port"},
		"port with plus":           {"http://example.com:+80/", "port"},
		"port with zeros":          {"http://example.com:080/", "port"},
		"port not a number":        {"http://example.com:http/", "port"},
		"port empty":               {"http://example.com:/", "no port"},
		"two ports":                {"http://example.com:80:81/", "port"},
		"port full-width":          {"http://example.com:８０/", "port"},
		"leading dot":              {"http://.example.com/", "empty label"},
		"two dots":                 {"http://example..com/", "empty label"},
		"trailing dot":             {"http://example.com./", "empty label"},
		"dot alone":                {"http://./", "empty label"},
		"label of 64":              {"http://" + label + ".example/", "more than 63"},
		"host of 254":              {"http://" + strings.Repeat("a.", 126) + "aa/", "at most 253"},
		"2,049 characters":         {"http://example.com/" + strings.Repeat("a", 2030), "at most 2,048"},
		"long once in ASCII":       {"http://bücher.example/" + strings.Repeat("a", 2026), "at most 2,048"},
		"hyphen at the start":      {"http://-a.example/", "hyphen"},
		"hyphen at the end":        {"http://a-.example/", "hyphen"},
		"underscore":               {"http://my_service/", "letters, digits, hyphens and dots"},
		"percent-encoded host":     {"http://%31%32%37.0.0.1/", "percent-encoded"},
		"percent-encoded dot":      {"http://example%2ecom/", "percent-encoded"},
		"comma":                    {"http://a,b/", "letters, digits"},
		"semicolon":                {"http://a;b/", "letters, digits"},
		"pipe in host":             {"http://a|b/", "letters, digits"},
		"brackets around a name":   {"http://[example.com]/", "do not hold an IPv6 address"},
		"brackets around IPv4":     {"http://[127.0.0.1]/", "do not hold an IPv6 address"},
		"bracket open":             {"http://[::1/", "closing bracket"},
		"text after bracket":       {"http://[::1]x/", "after its IPv6 address"},
		"zone":                     {"http://[fe80::1%eth0]/", "zone"},
		"zone encoded":             {"http://[fe80::1%25eth0]/", "zone"},
		"IPv6 without brackets":    {"http://::1/", "port"},
		"IPv4 short":               {"http://127.1/", "looks like an IPv4 address"},
		"IPv4 one number":          {"http://2130706433/", "looks like an IPv4 address"},
		"IPv4 octal":               {"http://0177.0.0.1/", "looks like an IPv4 address"},
		"IPv4 leading zero":        {"http://127.0.0.01/", "looks like an IPv4 address"},
		"IPv4 hexadecimal":         {"http://0x7f.0.0.1/", "looks like an IPv4 address"},
		"IPv4 hexadecimal number":  {"http://0x7f000001/", "looks like an IPv4 address"},
		"IPv4 hex capitals":        {"http://0X7F000001/", "looks like an IPv4 address"},
		"IPv4 empty hex":           {"http://127.0.0.0x/", "looks like an IPv4 address"},
		"IPv4 five parts":          {"http://1.2.3.4.5/", "looks like an IPv4 address"},
		"IPv4 over 255":            {"http://256.0.0.1/", "looks like an IPv4 address"},
		"ends in a number":         {"http://example.1/", "looks like an IPv4 address"},
		"full-width digits":        {"http://１２７.0.0.1/", "stands for a plain one"},
		"full-width dot":           {"http://127．0.0.1/", "stands for a plain one"},
		"ideographic dot":          {"http://127。0.0.1/", "stands for a plain one"},
		"half-width dot":           {"http://example｡com/", "stands for a plain one"},
		"circled digits":           {"http://①②⑦.0.0.1/", "stands for a plain one"},
		"ligature":                 {"http://oﬃce.example/", "stands for a plain one"},
		"Kelvin sign":              {"http://\u212aelvin.example/", "stands for a plain one"},
		"soft hyphen":              {"http://exam\u00adple.com/", "stands for a plain one"},
		"zero-width space":         {"http://exam\u200bple.com/", "stands for a plain one"},
		"bad ASCII form":           {"http://xn--a/", "not a valid international domain name"},
		"right to left mixed":      {"http://אa1.example/", "not a valid international domain name"},
		"non-ASCII path":           {"http://example.com/é", "percent-encoded"},
		"non-ASCII query":          {"http://example.com/?é", "percent-encoded"},
		"quote in path":            {`http://example.com/"`, "percent-encoded"},
		"braces in path":           {"http://example.com/{id}", "percent-encoded"},
		"bracket in path":          {"http://example.com/[x]", "percent-encoded"},
		"bare percent":             {"http://example.com/100%", "percent sign"},
		"bad percent":              {"http://example.com/%zz", "percent sign"},
		"dot segment":              {"http://example.com/a/./b", "segment"},
		"dot-dot segment":          {"http://example.com/a/../b", "segment"},
		"dot-dot at the end":       {"http://example.com/..", "segment"},
		"encoded dot-dot":          {"http://example.com/a/%2E%2e/b", "segment"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parsed, err := egress.ParseTarget(test.raw)
			var targetError *egress.TargetError
			require.ErrorAs(t, err, &targetError, "accepted as %q", parsed)
			require.Contains(t, targetError.Message, test.says)
			require.NotContains(t, targetError.Message, "canary")
			require.True(t, parsed.IsZero())
			require.Empty(t, parsed.String())
		})
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{
		"https://example.com/hook?a=b", "http://127.0.0.1:80/", "http://[::1]:8080/x", "https://bücher.example/", "http://0x7f.1/",
		"http://a@b/", "http://example.com\\@evil", "http://１２７.0.0.1", "http://[fe80::1%25eth0]/", "http://a/?[]%", "http://xn--a/", "HTTP://A.B:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		parsed, err := egress.ParseTarget(raw)
		if err != nil {
			var targetError *egress.TargetError
			require.ErrorAs(t, err, &targetError)
			require.True(t, parsed.IsZero())
			return
		}
		text := parsed.String()
		again, err := egress.ParseTarget(text)
		require.NoError(t, err, "%q came from %q", text, raw)
		require.Equal(t, parsed, again)
		require.LessOrEqual(t, len(text), 2048)
		for _, c := range []byte(text) {
			require.True(t, c > ' ' && c < 0x7f && c != '\\' && c != '#', "%q", text)
		}
		// net/http sees the same host, port and request line.
		standard, err := url.Parse(text)
		require.NoError(t, err)
		require.Equal(t, parsed.Hostname(), standard.Hostname())
		require.Nil(t, standard.User)
		require.Contains(t, []string{"http", "https"}, standard.Scheme)
		_, after, _ := strings.Cut(text, "://")
		if i := strings.IndexAny(after, "/?"); i >= 0 {
			want := after[i:]
			if want[0] == '?' {
				want = "/" + want
			}
			require.Equal(t, want, standard.RequestURI())
		}
		// What looks like an address to anyone is one to us.
		labels := strings.Split(parsed.Hostname(), ".")
		if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
			_, literal := parsed.Addr()
			require.True(t, literal)
		}
	})
}
