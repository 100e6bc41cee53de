package signing

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

const (
	sealVersion   = "v1"
	masterKeySize = 32
)

var (
	// ErrUnknownKey means that the master key which sealed the value is not in the
	// keyring.
	ErrUnknownKey = errors.New("sealed with a master key that is not configured")
	// ErrCorrupt means that the sealed value was damaged, or was sealed for another
	// place (another aad).
	ErrCorrupt = errors.New("sealed value is corrupt")
)

// Keyring holds the master keys that seal what is stored: the first seals, all
// open. It never prints its keys. Safe for concurrent use.
type Keyring struct {
	primary string
	keys    map[string]cipher.AEAD // by key id; AES-256-GCM that makes its own nonce
}

// GenerateMasterKey returns a new random master key in the form that
// ParseKeyring reads.
func GenerateMasterKey() string {
	key := make([]byte, masterKeySize)
	_, _ = rand.Read(key) // documented never to fail
	return base64.StdEncoding.EncodeToString(key)
}

// ParseKeyring reads master keys, comma-separated, each the standard base64 of
// 32 bytes; spaces around a key are ignored. Errors name a key's position and
// never its value.
func ParseKeyring(text string) (*Keyring, error) {
	if strings.TrimSpace(text) == "" {
		return nil, errors.New("parse master keys: none is given")
	}
	ring := &Keyring{keys: map[string]cipher.AEAD{}}
	for i, part := range strings.Split(text, ",") {
		key, err := decodeBase64(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("parse master keys: key %d is not standard base64 with padding", i+1)
		}
		if len(key) != masterKeySize {
			return nil, fmt.Errorf("parse master keys: key %d holds %d bytes, must be %d", i+1, len(key), masterKeySize)
		}
		sum := sha256.Sum256(key)
		id := hex.EncodeToString(sum[:4])
		if _, taken := ring.keys[id]; taken {
			return nil, fmt.Errorf("parse master keys: key %d is there twice", i+1)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("parse master keys: key %d: %w", i+1, err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("parse master keys: key %d: %w", i+1, err)
		}
		ring.keys[id] = aead
		if i == 0 {
			ring.primary = id
		}
	}
	return ring, nil
}

// PrimaryID returns the id of the key that seals: the first 8 hexadecimal digits
// of its SHA-256.
func (k *Keyring) PrimaryID() string { return k.primary }

// IDs returns the ids of all keys, the one that seals first, the others sorted.
func (k *Keyring) IDs() []string {
	ids := make([]string, 0, len(k.keys))
	for id := range k.keys {
		if id != k.primary {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Insert(ids, 0, k.primary)
}

// SealedPrefixes returns how every text begins that a key of the ring sealed, in the order of IDs.
// They all have the same length.
func (k *Keyring) SealedPrefixes() []string {
	prefixes := k.IDs()
	for i, id := range prefixes {
		prefixes[i] = sealVersion + "." + id + "."
	}
	return prefixes
}

// SealedID returns the id of the key that sealed a text, "" where Seal did not make it.
func SealedID(sealed string) string {
	id, _, err := splitSealed(sealed)
	if err != nil {
		return ""
	}
	return id
}

// Seal encrypts plaintext with the first key, bound to aad: a value copied to
// another row does not open there. The result is
// "v1.<key id>.<base64url of nonce and ciphertext>".
func (k *Keyring) Seal(plaintext []byte, aad string) (string, error) {
	aead, ok := k.keys[k.primary]
	if !ok {
		return "", errors.New("seal: the keyring is empty")
	}
	sealed := aead.Seal(nil, nil, plaintext, []byte(aad)) //nolint:gosec // this AEAD draws its own random nonce
	return sealVersion + "." + k.primary + "." + base64.RawURLEncoding.EncodeToString(sealed), nil
}

// Open decrypts what Seal made with any key of the ring and the same aad. Errors
// are ErrUnknownKey or ErrCorrupt.
func (k *Keyring) Open(sealed, aad string) ([]byte, error) {
	id, encoded, err := splitSealed(sealed)
	if err != nil {
		return nil, err
	}
	aead, ok := k.keys[id]
	if !ok {
		return nil, fmt.Errorf("%w (key id %s)", ErrUnknownKey, id)
	}
	ciphertext, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, ErrCorrupt
	}
	plaintext, err := aead.Open(nil, nil, ciphertext, []byte(aad))
	if err != nil {
		return nil, ErrCorrupt
	}
	return plaintext, nil
}

// SealSecret seals a webhook's key; see Seal.
func (k *Keyring) SealSecret(key SecretKey, aad string) (string, error) {
	text, err := key.encode()
	if err != nil {
		return "", fmt.Errorf("seal secret key: %w", err)
	}
	return k.Seal([]byte(text), aad)
}

// OpenSecret opens what SealSecret made; see Open.
func (k *Keyring) OpenSecret(sealed, aad string) (SecretKey, error) {
	text, err := k.Open(sealed, aad)
	if err != nil {
		return SecretKey{}, err
	}
	key, err := decode(string(text))
	if err != nil {
		return SecretKey{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return key, nil
}

// NeedsReseal reports whether sealed is not sealed with the first key: true for
// an older key, an unknown one, and for text that Seal did not make.
func (k *Keyring) NeedsReseal(sealed string) bool {
	id, _, err := splitSealed(sealed)
	return err != nil || id != k.primary
}

// String returns "[secret]".
func (*Keyring) String() string { return secretText }

// GoString returns "[secret]".
func (*Keyring) GoString() string { return secretText }

// Format writes "[secret]" under every verb.
func (*Keyring) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(secretText)) }

// LogValue returns "[secret]".
func (*Keyring) LogValue() slog.Value { return slog.StringValue(secretText) }

// MarshalJSON always fails with ErrSecret.
func (*Keyring) MarshalJSON() ([]byte, error) { return nil, ErrSecret }

// splitSealed accepts the one spelling that Seal produces; base64 skips line
// breaks, so they are refused here.
func splitSealed(sealed string) (id, encoded string, err error) {
	parts := strings.Split(sealed, ".")
	if len(parts) != 3 || parts[0] != sealVersion || len(parts[1]) != 8 || strings.ContainsAny(sealed, "\r\n") {
		return "", "", ErrCorrupt
	}
	if _, err := hex.DecodeString(parts[1]); err != nil || strings.ToLower(parts[1]) != parts[1] {
		return "", "", ErrCorrupt
	}
	return parts[1], parts[2], nil
}
