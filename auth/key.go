package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"hash/crc32"
	"math/big"
	"strings"
)

// The form of a key: keyPrefix, keyBody characters that are 32 random bytes in base 62, and
// keyCheck characters that are the CRC-32 of those, in base 62 too. The checksum lets secret
// scanners, and us, tell a key from what only looks like one, without asking anybody.
const (
	keyPrefix = "iwk_"
	keyBytes  = 32
	keyBody   = 43 // 62^43 is the first power over 2^256
	keyCheck  = 6  // 62^6 is the first power over 2^32
	keyShown  = 6  // characters after keyPrefix that are kept to recognise a key by
)

// NewKey makes an API key: the key itself, which only its owner may ever see, the first
// characters to recognise it by, and the hash to store.
func NewKey() (key, prefix, hash string) {
	random := make([]byte, keyBytes)
	_, _ = rand.Read(random) // never fails: the runtime ends the process where randomness is gone
	body := base62(new(big.Int).SetBytes(random), keyBody)
	key = keyPrefix + body + checksum(body)
	return key, key[:len(keyPrefix)+keyShown], hashOf(key)
}

// HashKey is the hash under which key is stored; ok is false where key does not have the form
// that NewKey gives keys, or its checksum is wrong.
func HashKey(key string) (hash string, ok bool) {
	if !wellFormed(key) {
		return "", false
	}
	return hashOf(key), true
}

func wellFormed(key string) bool {
	rest, ok := strings.CutPrefix(key, keyPrefix)
	if !ok || len(rest) != keyBody+keyCheck {
		return false
	}
	for _, c := range []byte(rest) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return checksum(rest[:keyBody]) == rest[keyBody:]
}

func checksum(body string) string {
	return base62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(body)))), keyCheck)
}

// base62 writes n with digits 0-9a-zA-Z, filled with zeros to width.
func base62(n *big.Int, width int) string {
	text := n.Text(62)
	return strings.Repeat("0", width-len(text)) + text
}

func hashOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}
