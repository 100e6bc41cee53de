package models

import (
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"

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

// maxIDDrift is how far an id's time may be off the time of creation of what it names. Lists go by
// id, and windows of time are found by it.
const maxIDDrift = 5 * time.Second

// IDClock makes ids follow the database's clock where the process's own is off.
type IDClock struct {
	now    time.Time
	offset time.Duration // what the process's clock lacks
}

// NewIDClock is for ids of what is created at now, by the database's clock.
func NewIDClock(now time.Time) IDClock { return IDClock{now: now, offset: time.Until(now)} }

// Fit gives id as it is where its time is about the clock's. Otherwise, be it that clocks are off or
// that the id waited for long, the time in it is changed; ids made one after the other keep their order.
func (c IDClock) Fit(id string) string {
	prefix, rest, ok := strings.Cut(id, "_")
	b, err := idEncoding.DecodeString(rest)
	if !ok || err != nil || len(b) != 16 {
		return id
	}
	at := time.UnixMilli(int64(binary.BigEndian.Uint64(b) >> 16))
	if c.now.Sub(at).Abs() <= maxIDDrift {
		return id
	}
	if at = at.Add(c.offset); c.now.Sub(at).Abs() > maxIDDrift {
		at = c.now
	}
	low := binary.BigEndian.Uint64(b) & (1<<16 - 1)
	binary.BigEndian.PutUint64(b, uint64(at.UnixMilli())<<16|low)
	return prefix + "_" + idEncoding.EncodeToString(b)
}
