package signing

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// Scheme names how a webhook's requests are signed. The zero value is not a
// valid scheme.
type Scheme string

const (
	// HMACSHA256 signs with a key that sender and receiver share: "v1," entries.
	HMACSHA256 Scheme = "HMAC_SHA256"
	// Ed25519 signs with a private key that never leaves the service; receivers
	// verify with the public half: "v1a," entries.
	Ed25519 Scheme = "ED25519"
)

const (
	hmacPrefix    = "whsec_"
	publicPrefix  = "whpk_"
	privatePrefix = "whsk_"

	// Standard Webhooks allows 24 to 64 bytes; new keys have 32.
	minHMACKey = 24
	maxHMACKey = 64
	newHMACKey = 32

	secretText = "[secret]"
)

// ErrSecret is returned by every attempt to marshal a SecretKey.
var ErrSecret = errors.New("a secret key is never marshalled")

// SecretKey is a webhook's key: a shared secret (HMACSHA256) or a private key
// (Ed25519). It prints as "[secret]" under every verb, logs as "[secret]" and
// refuses to be marshalled. The zero value holds no key and signs nothing.
// Copies share the key. Safe for concurrent use.
type SecretKey struct {
	// Behind a pointer, because fmt does not call methods on unexported fields:
	// a struct that embeds a SecretKey would print the bytes of a plain array.
	m *material
}

type material struct {
	scheme  Scheme
	hmac    []byte
	private ed25519.PrivateKey
}

// NewSecretKey makes a random key for scheme: 32 bytes, or an Ed25519 key pair.
func NewSecretKey(scheme Scheme) (SecretKey, error) {
	switch scheme {
	case HMACSHA256:
		key := make([]byte, newHMACKey)
		_, _ = rand.Read(key) // documented never to fail
		return SecretKey{&material{scheme: scheme, hmac: key}}, nil
	case Ed25519:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return SecretKey{}, fmt.Errorf("generate key pair: %w", err)
		}
		return SecretKey{&material{scheme: scheme, private: private}}, nil
	default:
		return SecretKey{}, fmt.Errorf("unknown signing scheme %q", string(scheme))
	}
}

// ParseSecretKey reads a shared secret in the form that SecretKey.Reveal gives:
// "whsec_" and the standard base64 of 24 to 64 bytes. The error says what is
// wrong and never repeats the key.
func ParseSecretKey(text string) (SecretKey, error) {
	encoded, ok := strings.CutPrefix(text, hmacPrefix)
	if !ok {
		return SecretKey{}, errors.New(`parse secret key: it must start with "whsec_"`)
	}
	key, err := decodeBase64(encoded)
	if err != nil {
		return SecretKey{}, errors.New(`parse secret key: what follows "whsec_" is not standard base64 with padding`)
	}
	if len(key) < minHMACKey || len(key) > maxHMACKey {
		return SecretKey{}, fmt.Errorf("parse secret key: it holds %d bytes, must be %d to %d", len(key), minHMACKey, maxHMACKey)
	}
	return SecretKey{&material{scheme: HMACSHA256, hmac: key}}, nil
}

// Reveal returns "whsec_…" for a shared secret, and "" for Ed25519, whose
// private half nobody ever sees. Its result is shown to a user once.
func (k SecretKey) Reveal() string {
	if k.m == nil || k.m.scheme != HMACSHA256 {
		return ""
	}
	return hmacPrefix + base64.StdEncoding.EncodeToString(k.m.hmac)
}

// Hint returns the last 4 characters of a shared secret before the base64
// padding, so that a user can tell keys apart; "" for Ed25519.
func (k SecretKey) Hint() string {
	text := strings.TrimRight(k.Reveal(), "=")
	if text == "" {
		return ""
	}
	return text[len(text)-4:]
}

// PublicKey returns "whpk_" and the base64 of the public half for Ed25519, ""
// for a shared secret.
func (k SecretKey) PublicKey() string {
	if k.m == nil || k.m.scheme != Ed25519 {
		return ""
	}
	public, _ := k.m.private.Public().(ed25519.PublicKey)
	return publicPrefix + base64.StdEncoding.EncodeToString(public)
}

// Scheme returns what the key signs with; "" for the zero value.
func (k SecretKey) Scheme() Scheme {
	if k.m == nil {
		return ""
	}
	return k.m.scheme
}

// IsZero reports whether k holds no key.
func (k SecretKey) IsZero() bool { return k.m == nil }

// Equal reports in constant time whether both hold the same key.
func (k SecretKey) Equal(other SecretKey) bool {
	if k.m == nil || other.m == nil {
		return k.m == other.m
	}
	return k.m.scheme == other.m.scheme &&
		subtle.ConstantTimeCompare(k.m.hmac, other.m.hmac) == 1 &&
		subtle.ConstantTimeCompare(k.m.private, other.m.private) == 1
}

// String returns "[secret]".
func (SecretKey) String() string { return secretText }

// GoString returns "[secret]".
func (SecretKey) GoString() string { return secretText }

// Format writes "[secret]" under every verb; without it %d would reach the bytes.
func (SecretKey) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(secretText)) }

// LogValue returns "[secret]".
func (SecretKey) LogValue() slog.Value { return slog.StringValue(secretText) }

// MarshalJSON always fails with ErrSecret.
func (SecretKey) MarshalJSON() ([]byte, error) { return nil, ErrSecret }

// MarshalText always fails with ErrSecret.
func (SecretKey) MarshalText() ([]byte, error) { return nil, ErrSecret }

// encode returns the text that is sealed for storage; decode reads it back.
func (k SecretKey) encode() (string, error) {
	switch {
	case k.m == nil:
		return "", errors.New("the secret key is empty")
	case k.m.scheme == Ed25519:
		return privatePrefix + base64.StdEncoding.EncodeToString(k.m.private.Seed()), nil
	default:
		return k.Reveal(), nil
	}
}

func decode(text string) (SecretKey, error) {
	encoded, ok := strings.CutPrefix(text, privatePrefix)
	if !ok {
		return ParseSecretKey(text)
	}
	seed, err := decodeBase64(encoded)
	if err != nil || len(seed) != ed25519.SeedSize {
		return SecretKey{}, errors.New("parse private key: it is not the base64 of 32 bytes")
	}
	return SecretKey{&material{scheme: Ed25519, private: ed25519.NewKeyFromSeed(seed)}}, nil
}

var errBase64 = errors.New("not standard base64")

// decodeBase64 accepts one spelling for each value: padding is required, unused
// bits are zero, and line breaks, which encoding/base64 skips, are refused.
func decodeBase64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errBase64
	}
	decoded, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errBase64
	}
	return decoded, nil
}
