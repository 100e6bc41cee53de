package models

import (
	"bytes"
	"encoding/json"
	"time"
)

// timestampLayout is RFC 3339 with as many fractional digits as Precision needs, and no more.
const timestampLayout = "2006-01-02T15:04:05.999999Z07:00"

// FormatTime writes t as the API and the wire show times: RFC 3339, UTC, up to microseconds.
func FormatTime(t time.Time) string { return Instant(t).Format(timestampLayout) }

// Envelope is the body that an event's request carries, as Standard Webhooks lays it out:
// {"type":…,"timestamp":…,"data":…} without white space. data is JSON text and goes in as it is, so
// digits, key order and escapes are the emitter's. The same arguments always give the same bytes:
// that is what makes every attempt of a delivery, and its history, byte-identical.
func Envelope(eventType string, timestamp time.Time, data string) []byte {
	var b bytes.Buffer
	b.Grow(len(eventType) + len(data) + 80)
	b.WriteString(`{"type":`)
	// Names in the catalogue need no escaping; the encoder is here so that none could break out.
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(eventType) // a string always encodes, and a buffer always takes it
	b.Truncate(b.Len() - 1)   // the encoder's line feed
	b.WriteString(`,"timestamp":"`)
	b.WriteString(FormatTime(timestamp))
	b.WriteString(`","data":`)
	b.WriteString(data)
	b.WriteByte('}')
	return b.Bytes()
}
