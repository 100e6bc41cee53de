package signing

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// DefaultTolerance is how far a request's timestamp may be from now, either way.
const DefaultTolerance = 5 * time.Minute

// maxSignatures bounds the work that one request can ask for: a rotation shows
// two entries, and an Ed25519 entry costs a verification.
const maxSignatures = 32

// Reason says why a request was not accepted.
type Reason string

// The reasons in a VerifyError.
const (
	MissingHeader   Reason = "MISSING_HEADER"   // one of the three headers is absent or empty
	MalformedHeader Reason = "MALFORMED_HEADER" // repeated, not a number of seconds, or no signature in it
	TooOld          Reason = "TIMESTAMP_TOO_OLD"
	TooNew          Reason = "TIMESTAMP_TOO_NEW"
	NoMatch         Reason = "NO_SIGNATURE_MATCHES" // the key is another one, or id, timestamp or body were changed
)

// VerifyError says why a request was not accepted. It holds nothing secret.
type VerifyError struct {
	Reason Reason
	Header string        // the header at fault; "" for NoMatch
	Skew   time.Duration // TooOld and TooNew: how far the timestamp is from now
}

// Error is a sentence for the person who looks for the cause.
func (e *VerifyError) Error() string {
	switch e.Reason {
	case MissingHeader:
		return "verify: header " + e.Header + " is missing"
	case MalformedHeader:
		return "verify: header " + e.Header + " is malformed"
	case TooOld:
		return fmt.Sprintf("verify: the timestamp is %s old, more than is tolerated: an old request sent again, or a clock that is ahead", e.Skew.Round(time.Second))
	case TooNew:
		return fmt.Sprintf("verify: the timestamp is %s in the future, more than is tolerated: a clock that is behind", e.Skew.Round(time.Second))
	case NoMatch:
		return "verify: no signature matches: the key is not the webhook's, or the id, the timestamp or the body were changed"
	default:
		return "verify: " + string(e.Reason)
	}
}

// Verifier checks requests against one or more keys, prepared once. It prints as
// "[secret]". Safe for concurrent use.
type Verifier struct {
	keys *verifierKeys
}

type verifierKeys struct {
	secrets [][]byte
	publics []ed25519.PublicKey
}

// NewVerifier prepares keys: shared secrets ("whsec_…") and public keys
// ("whpk_…"), at least one. A request that any of them signed is accepted, which
// is what a receiver wants while a key is being rotated. Errors never repeat a key.
func NewVerifier(keys ...string) (*Verifier, error) {
	if len(keys) == 0 {
		return nil, errors.New("no key to verify with")
	}
	prepared := &verifierKeys{}
	for _, key := range keys {
		if strings.HasPrefix(key, publicPrefix) {
			public, err := parsePublicKey(key)
			if err != nil {
				return nil, err
			}
			prepared.publics = append(prepared.publics, public)
			continue
		}
		secret, err := ParseSecretKey(key)
		if err != nil {
			return nil, err
		}
		prepared.secrets = append(prepared.secrets, secret.m.hmac)
	}
	return &Verifier{prepared}, nil
}

// Verify checks one request against key, a shared secret ("whsec_…") or a public
// key ("whpk_…"); see Verifier.Verify. A key that cannot be read is an error that
// is not a *VerifyError.
func Verify(key string, header http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	verifier, err := NewVerifier(key)
	if err != nil {
		return err
	}
	return verifier.Verify(header, body, now, tolerance)
}

// Verify reports whether one of the keys signed the request: nil, or a
// *VerifyError. Body is exactly what was received, before any parsing. The
// timestamp must be within tolerance of now, either way: 0 means
// DefaultTolerance, a negative tolerance leaves the timestamp unchecked, which
// accepts replays. Signatures of unknown versions are passed over.
func (v *Verifier) Verify(header http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	id, err := single(header, HeaderID)
	if err != nil {
		return err
	}
	stamp, err := single(header, HeaderTimestamp)
	if err != nil {
		return err
	}
	signatures := strings.Fields(strings.Join(header.Values(HeaderSignature), " "))
	if len(signatures) == 0 {
		return &VerifyError{Reason: MissingHeader, Header: HeaderSignature}
	}
	timestamp, ok := parseTimestamp(stamp)
	if !ok {
		return &VerifyError{Reason: MalformedHeader, Header: HeaderTimestamp}
	}
	if len(signatures) > maxSignatures {
		return &VerifyError{Reason: MalformedHeader, Header: HeaderSignature}
	}
	if err := checkAge(timestamp, now, tolerance); err != nil {
		return err
	}
	return v.match(signatures, appendPrefix(nil, id, timestamp), body)
}

func (v *Verifier) match(signatures []string, prefix, body []byte) error {
	var sums [][]byte
	var message []byte
	readable := false
	for _, entry := range signatures {
		version, encoded, ok := strings.Cut(entry, ",")
		if !ok {
			continue
		}
		readable = true
		given, err := decodeBase64(encoded)
		if err != nil {
			continue
		}
		switch version {
		case versionHMAC:
			if sums == nil {
				sums = v.sums(prefix, body)
			}
			for _, sum := range sums {
				if hmac.Equal(sum, given) {
					return nil
				}
			}
		case versionEd25519:
			if message == nil {
				message = append(append(message, prefix...), body...)
			}
			for _, public := range v.keys.publics {
				if len(given) == ed25519.SignatureSize && ed25519.Verify(public, message, given) {
					return nil
				}
			}
		}
	}
	if !readable {
		return &VerifyError{Reason: MalformedHeader, Header: HeaderSignature}
	}
	return &VerifyError{Reason: NoMatch}
}

func (v *Verifier) sums(prefix, body []byte) [][]byte {
	sums := make([][]byte, 0, len(v.keys.secrets))
	for _, secret := range v.keys.secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write(prefix)
		mac.Write(body)
		sums = append(sums, mac.Sum(nil))
	}
	return sums
}

// String returns "[secret]".
func (*Verifier) String() string { return secretText }

// LogValue returns "[secret]".
func (*Verifier) LogValue() slog.Value { return slog.StringValue(secretText) }

// MarshalJSON always fails with ErrSecret.
func (*Verifier) MarshalJSON() ([]byte, error) { return nil, ErrSecret }

// single returns a header that must be there exactly once: with two values,
// sender and receiver could each mean another one.
func single(header http.Header, name string) (string, error) {
	values := header.Values(name)
	switch {
	case len(values) == 0 || (len(values) == 1 && values[0] == ""):
		return "", &VerifyError{Reason: MissingHeader, Header: name}
	case len(values) > 1:
		return "", &VerifyError{Reason: MalformedHeader, Header: name}
	default:
		return values[0], nil
	}
}

// parseTimestamp reads whole seconds, digits alone. Twelve of them reach the year
// 33658; more would overflow time's arithmetic.
func parseTimestamp(text string) (time.Time, bool) {
	if len(text) > 12 {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 || strconv.FormatInt(seconds, 10) != text {
		return time.Time{}, false
	}
	return time.Unix(seconds, 0), true
}

func checkAge(timestamp, now time.Time, tolerance time.Duration) error {
	if tolerance < 0 {
		return nil
	}
	if tolerance == 0 {
		tolerance = DefaultTolerance
	}
	age := now.Sub(timestamp)
	switch {
	case age > tolerance:
		return &VerifyError{Reason: TooOld, Header: HeaderTimestamp, Skew: age}
	case age < -tolerance:
		return &VerifyError{Reason: TooNew, Header: HeaderTimestamp, Skew: -age}
	default:
		return nil
	}
}

func parsePublicKey(text string) (ed25519.PublicKey, error) {
	encoded, ok := strings.CutPrefix(text, publicPrefix)
	if !ok {
		return nil, errors.New(`parse public key: it must start with "whpk_"`)
	}
	key, err := decodeBase64(encoded)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, errors.New(`parse public key: what follows "whpk_" must be the standard base64 of 32 bytes`)
	}
	return key, nil
}
