package egress

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

const (
	maxURL   = 2048
	maxHost  = 253
	maxLabel = 63
)

// TargetError says why a target URL is refused: one sentence for the person who
// wrote it, that says what is allowed. It does not repeat the URL.
type TargetError struct {
	Message string
}

// Error is the sentence.
func (e *TargetError) Error() string { return e.Message }

// Target is a target URL that was read and found sound; where it may be dialled
// is the Guard's to say. The zero value is no target. Immutable and comparable.
type Target struct {
	scheme string
	host   string // ASCII, lower case; a literal without brackets
	port   uint16 // 0: the scheme's
	rest   string // path and query as given, beginning with "/" or "?" or empty
	addr   netip.Addr
}

// ParseTarget reads a target URL: absolute, http or https, at most 2,048
// characters. What browsers, libraries and Go read differently is refused, never
// guessed. International host names are turned into the ASCII form that is
// dialled. The error is a *TargetError.
func ParseTarget(raw string) (Target, error) {
	if utf8.RuneCountInString(raw) > maxURL {
		return refuse("the URL is too long: at most 2,048 characters are allowed")
	}
	if raw == "" {
		return refuse("the URL is empty: an absolute http or https URL is needed")
	}
	if !utf8.ValidString(raw) {
		return refuse("the URL is not valid UTF-8")
	}
	for _, r := range raw {
		switch {
		case r <= ' ' || (r >= 0x7f && r < 0xa0):
			return refuse("the URL holds a space or a control character: write it percent-encoded")
		case r == '\\':
			return refuse(`the URL holds a backslash: use "/"`)
		}
	}
	scheme, after, ok := strings.Cut(raw, ":")
	if !ok || !isScheme(scheme) {
		return refuse("the URL is not absolute: it must begin with http:// or https://")
	}
	scheme = strings.ToLower(scheme)
	if scheme != "http" && scheme != "https" {
		return refuse("the URL's scheme is not allowed: use http or https")
	}
	after, ok = strings.CutPrefix(after, "//")
	if !ok {
		return refuse(`the URL lacks "//" after its scheme: it must begin with http:// or https://`)
	}
	authority, rest := after, ""
	if i := strings.IndexAny(after, "/?#"); i >= 0 {
		authority, rest = after[:i], after[i:]
	}
	if strings.Contains(rest, "#") {
		return refuse("the URL has a fragment (#…), which is never sent: leave it out")
	}
	if strings.Contains(authority, "@") {
		return refuse("the URL holds a user name or password: use a custom header for credentials")
	}
	t := Target{scheme: scheme, rest: rest}
	if err := parseAuthority(&t, authority); err != nil {
		return Target{}, err
	}
	if err := checkRest(rest); err != nil {
		return Target{}, err
	}
	if len(t.String()) > maxURL {
		return refuse("the URL is too long in ASCII: at most 2,048 characters are allowed")
	}
	// The last word: what net/http will dial must be what was read here.
	parsed, err := url.Parse(t.String())
	if err != nil || parsed.Hostname() != t.host || parsed.User != nil || parsed.Fragment != "" || parsed.Opaque != "" {
		return refuse("the URL is malformed")
	}
	return t, nil
}

// String returns the URL with its scheme and host as they are dialled.
func (t Target) String() string {
	if t.host == "" {
		return ""
	}
	return t.scheme + "://" + t.authority() + t.rest
}

// Hostname returns the host that is dialled: an ASCII name or an IP address
// without brackets.
func (t Target) Hostname() string { return t.host }

// Port returns the port that is dialled.
func (t Target) Port() uint16 {
	switch {
	case t.port != 0:
		return t.port
	case t.scheme == "https":
		return 443
	default:
		return 80
	}
}

// Addr returns the address when the host is one; false for a name.
func (t Target) Addr() (netip.Addr, bool) { return t.addr, t.addr.IsValid() }

// Secure reports whether the scheme is https.
func (t Target) Secure() bool { return t.scheme == "https" }

// IsZero reports whether t is no target.
func (t Target) IsZero() bool { return t.host == "" }

func (t Target) url() *url.URL {
	parsed, err := url.Parse(t.String())
	if err != nil {
		panic("egress: a parsed target does not parse") // ParseTarget has parsed the same text
	}
	return parsed
}

func (t Target) authority() string {
	host := t.host
	if t.addr.Is6() {
		host = "[" + host + "]"
	}
	if t.port != 0 {
		host += ":" + strconv.Itoa(int(t.port))
	}
	return host
}

func parseAuthority(t *Target, authority string) error {
	host, port, hasPort := authority, "", false
	if strings.HasPrefix(authority, "[") {
		end := strings.IndexByte(authority, ']')
		if end < 0 {
			return &TargetError{"the URL's IPv6 address lacks its closing bracket"}
		}
		host, port = authority[:end+1], authority[end+1:]
		if port != "" {
			if port, hasPort = strings.CutPrefix(port, ":"); !hasPort {
				return &TargetError{"the URL has something other than a port after its IPv6 address"}
			}
		}
	} else if before, after, ok := strings.Cut(authority, ":"); ok {
		host, port, hasPort = before, after, true
	}
	if hasPort {
		number, err := parsePort(port)
		if err != nil {
			return err
		}
		t.port = number
	}
	if literal, ok := strings.CutPrefix(host, "["); ok {
		return parseIPv6(t, strings.TrimSuffix(literal, "]"))
	}
	return parseHost(t, host)
}

func parseIPv6(t *Target, literal string) error {
	if strings.Contains(literal, "%") {
		return &TargetError{"the URL's IPv6 address has a zone, which is never public: leave it out"}
	}
	addr, err := netip.ParseAddr(literal)
	if err != nil || !addr.Is6() {
		return &TargetError{"the URL's brackets do not hold an IPv6 address"}
	}
	t.addr, t.host = addr, addr.String()
	return nil
}

func parseHost(t *Target, host string) error {
	switch {
	case host == "":
		return &TargetError{"the URL has no host"}
	case strings.Contains(host, "%"):
		return &TargetError{"the URL's host is percent-encoded: write the host itself"}
	}
	ascii, err := toASCII(host)
	if err != nil {
		return err
	}
	labels := strings.Split(ascii, ".")
	for _, label := range labels {
		switch {
		case label == "":
			return &TargetError{"the URL's host has an empty label: two dots in a row, or a dot at its start or end"}
		case len(label) > maxLabel:
			return &TargetError{"the URL's host has a label of more than 63 characters"}
		case label[0] == '-' || label[len(label)-1] == '-':
			return &TargetError{"the URL's host has a label that begins or ends with a hyphen"}
		}
	}
	if len(ascii) > maxHost {
		return &TargetError{"the URL's host is too long: at most 253 characters are allowed"}
	}
	if looksNumeric(labels[len(labels)-1]) {
		// Whatever ends in a number is read as an IPv4 address by browsers and by
		// some resolvers: octal, hexadecimal and short forms included.
		addr, err := netip.ParseAddr(ascii)
		if err != nil || !addr.Is4() {
			return &TargetError{"the URL's host looks like an IPv4 address but is not four decimal numbers from 0 to 255 without leading zeros"}
		}
		t.addr = addr
	}
	t.host = ascii
	return nil
}

// toASCII returns the host as it is dialled.
func toASCII(host string) (string, error) {
	international := false
	for _, r := range host {
		switch {
		case r >= utf8.RuneSelf:
			international = true
			// A character that stands for ASCII ones (full-width digits and dots,
			// ligatures, the Kelvin sign) only serves to disguise a host.
			if mapped, err := idna.Lookup.ToASCII(string(r)); isFullStop(r) || (err == nil && !strings.HasPrefix(mapped, "xn--")) {
				return "", &TargetError{"the URL's host holds a character that stands for a plain one, such as a full-width digit or dot: write the plain one"}
			}
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.':
		default:
			return "", &TargetError{"the URL's host holds a character that host names do not have: letters, digits, hyphens and dots are allowed"}
		}
	}
	host = strings.ToLower(host)
	if !international && !strings.Contains(host, "xn--") {
		return host, nil
	}
	ascii, err := idna.Lookup.ToASCII(host)
	if err != nil || ascii == "" {
		return "", &TargetError{"the URL's host is not a valid international domain name"}
	}
	return ascii, nil
}

// isFullStop reports the characters that IDNA reads as a dot.
func isFullStop(r rune) bool { return r == '\u3002' || r == '\uff0e' || r == '\uff61' }

// looksNumeric reports whether WHATWG's URL parser would read a host with this
// last label as an IPv4 address.
func looksNumeric(label string) bool {
	if digits(label) {
		return true
	}
	hex, ok := strings.CutPrefix(label, "0x") // the host is in lower case
	return ok && strings.Trim(hex, "0123456789abcdef") == ""
}

func digits(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

func parsePort(text string) (uint16, error) {
	if text == "" {
		return 0, &TargetError{"the URL has a colon but no port after its host"}
	}
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil || number == 0 || !digits(text) || text[0] == '0' {
		return 0, &TargetError{"the URL's port is not a number from 1 to 65535"}
	}
	return uint16(number), nil
}

// checkRest accepts in path and query what RFC 3986 does, and square brackets in
// the query, which frameworks use and nobody reads differently.
func checkRest(rest string) error {
	path, query, _ := strings.Cut(rest, "?")
	for i := range len(rest) {
		c := rest[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~!$&'()*+,;=:@/?", c) >= 0:
		case c == '%':
			if i+2 >= len(rest) || !isHex(rest[i+1]) || !isHex(rest[i+2]) {
				return &TargetError{"the URL holds a percent sign that two hexadecimal digits do not follow"}
			}
		case (c == '[' || c == ']') && i >= len(rest)-len(query):
		default:
			return &TargetError{"the URL's path or query holds a character that must be percent-encoded"}
		}
	}
	for segment := range strings.SplitSeq(path, "/") {
		plain := strings.ReplaceAll(strings.ToLower(segment), "%2e", ".")
		if plain == "." || plain == ".." {
			return &TargetError{`the URL's path has a "." or ".." segment: write the path that is meant`}
		}
	}
	return nil
}

func isScheme(text string) bool {
	for i := range len(text) {
		c := text[i] | 0x20
		if (c < 'a' || c > 'z') && (i == 0 || !strings.ContainsRune("0123456789+-.", rune(text[i]))) {
			return false
		}
	}
	return text != ""
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func refuse(message string) (Target, error) { return Target{}, &TargetError{message} }
