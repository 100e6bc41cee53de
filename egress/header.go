package egress

import "strings"

// Mask stands in history and previews for the value of a sensitive header.
const Mask = "********"

const (
	maxHeaderName  = 100
	maxHeaderValue = 4096
)

// Header is a custom header of a webhook.
type Header struct {
	Name, Value string
}

// ShownHeader is a header as people see it: the value of a sensitive one is Mask.
type ShownHeader struct {
	Name, Value string
	Masked      bool
}

// HeaderError says why a custom header is refused: one sentence for the person
// who wrote it. It never repeats the value.
type HeaderError struct {
	// OfValue is true when the value is at fault, false when the name is.
	OfValue bool
	Message string
}

// Error is the sentence.
func (e *HeaderError) Error() string { return e.Message }

// reservedHeaders are set by the sender, or steer the connection.
var reservedHeaders = map[string]bool{
	"accept-encoding": true, "connection": true, "content-encoding": true, "content-length": true, "content-type": true,
	"expect": true, "host": true, "http2-settings": true, "keep-alive": true, "te": true, "trailer": true,
	"transfer-encoding": true, "upgrade": true, "user-agent": true,
}

// ValidateHeader checks a custom header: the name a token of at most 100
// characters that is not reserved, the value at most 4,096 visible ASCII
// characters, spaces and tabs, not Mask itself. The error is a *HeaderError.
func ValidateHeader(name, value string) error {
	if err := validateName(name); err != "" {
		return &HeaderError{Message: err}
	}
	if err := validateValue(value); err != "" {
		return &HeaderError{OfValue: true, Message: err}
	}
	return nil
}

func validateName(name string) string {
	lower := strings.ToLower(name)
	switch {
	case name == "":
		return "the header's name is empty"
	case len(name) > maxHeaderName:
		return "the header's name is too long: at most 100 characters are allowed"
	case strings.IndexFunc(name, func(r rune) bool { return !isToken(r) }) >= 0:
		return "the header's name holds a character that is not allowed: letters, digits and !#$%&'*+-.^_`|~ are"
	case reservedHeaders[lower], strings.HasPrefix(lower, "webhook-"), strings.HasPrefix(lower, "proxy-"):
		return "the header is reserved: it is set by the sender or steers the connection"
	default:
		return ""
	}
}

func validateValue(value string) string {
	switch {
	case len(value) > maxHeaderValue:
		return "the header's value is too long: at most 4,096 characters are allowed"
	case value == Mask:
		return "the header's value is the mask that stands for a stored one: leave the value out to keep it"
	case strings.Trim(value, " \t") != value:
		return "the header's value begins or ends with a space, which would be lost on the way"
	case strings.IndexFunc(value, func(r rune) bool { return r != '\t' && (r < ' ' || r > '~') }) >= 0:
		return "the header's value holds a character that is not allowed: visible ASCII characters, spaces and tabs are"
	default:
		return ""
	}
}

// SensitiveHeader reports whether the value of a header is masked wherever it is
// shown: names that carry credentials by their meaning, and those that say so.
func SensitiveHeader(name string) bool {
	lower := strings.ToLower(name)
	if strings.HasPrefix(lower, "webhook-") || lower == "www-authenticate" || lower == "proxy-authenticate" {
		return false // what we send for anyone to see, and challenges
	}
	for _, word := range sensitiveWords {
		if strings.Contains(lower, word) {
			return true
		}
	}
	return false
}

var sensitiveWords = []string{
	"auth", "bearer", "cookie", "credential", "csrf", "hmac", "jwt", "key", "passphrase", "passwd", "password", "private", "pwd", "secret",
	"session", "signature", "token", "xsrf",
}

func show(field Header) ShownHeader {
	if SensitiveHeader(field.Name) {
		return ShownHeader{Name: field.Name, Value: Mask, Masked: true}
	}
	return ShownHeader{Name: field.Name, Value: field.Value}
}

// isToken reports a character of a token, as RFC 9110 defines it.
func isToken(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}
