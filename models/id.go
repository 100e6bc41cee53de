package models

import (
	"encoding/base32"
	"strings"

	"github.com/google/uuid"
)

// Prefixes of public ids. An id is its prefix and 26 lower-case base32hex characters of a
// UUIDv7 (RFC 9562, section 5.7), so ids of a kind sort by creation and say what they name.
const (
	PrefixWebhook   = "wh_"
	PrefixEventType = "et_"
	PrefixEvent     = "evt_"
	PrefixDelivery  = "dlv_"
	PrefixAttempt   = "att_"
	PrefixReplay    = "rpl_"
	PrefixAPIKey    = "key_"
)

// base32hex keeps the order of the bytes in the order of the text, which plain base32 does not.
var idEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// NewID makes an id of the kind that prefix names. Ids made later by the same process sort later.
func NewID(prefix string) string {
	// NewV7 fails only where the system has no randomness left; nothing sensible could go on then.
	u := uuid.Must(uuid.NewV7())
	return prefix + idEncoding.EncodeToString(u[:])
}

// ValidID reports whether id has the form that NewID gives ids of this kind. An attempt's id is
// its delivery's characters, an underscore and its number (see AttemptID).
func ValidID(prefix, id string) bool {
	rest, ok := strings.CutPrefix(id, prefix)
	if !ok || len(rest) != 26 {
		return false
	}
	b, err := idEncoding.DecodeString(rest)
	// The last character carries two unused bits; only the canonical spelling is an id.
	return err == nil && idEncoding.EncodeToString(b) == rest
}
