package intake

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/intervengine/webhooks/models"
)

// fingerprint is what must be the same for two calls under one idempotency key: all that a
// caller says about the event. The data counts as JSON and not as text: a caller that repeats a
// call may write the same object with its keys in another order.
func fingerprint(in Input, data string) string {
	h := sha256.New()
	instant := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return models.Instant(*t).Format(time.RFC3339Nano)
	}
	// Lengths first, so that no two different calls run into the same bytes.
	for _, part := range []string{in.EventType, instant(in.Timestamp), instant(in.DeliverAt), canonical(data)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// canonical is one text for all spellings of the same JSON: keys are sorted, and strings are written
// without escapes. Numbers stay as they are, because receivers get their digits. data is valid and
// compact.
func canonical(data string) string {
	c := canonicalizer{text: data, out: make([]byte, 0, len(data))}
	c.value()
	return string(c.out)
}

// canonicalizer walks over text and writes out.
type canonicalizer struct {
	text string
	at   int
	out  []byte
}

func (c *canonicalizer) value() {
	switch c.text[c.at] {
	case '{':
		c.object()
	case '[':
		c.list()
	case '"':
		c.string()
	default:
		start := c.at
		for c.at < len(c.text) && c.text[c.at] != ',' && c.text[c.at] != ']' && c.text[c.at] != '}' {
			c.at++
		}
		c.out = append(c.out, c.text[start:c.at]...)
	}
}

// copy writes the next character as it is.
func (c *canonicalizer) copy() {
	c.out = append(c.out, c.text[c.at])
	c.at++
}

func (c *canonicalizer) list() {
	for c.copy(); c.text[c.at] != ']'; {
		if c.text[c.at] == ',' {
			c.copy()
		}
		c.value()
	}
	c.copy()
}

// member is a part of out: an object's key, and its whole member.
type member struct{ start, key, end int }

func (c *canonicalizer) object() {
	c.copy()
	var members []member
	begin := len(c.out)
	for c.text[c.at] != '}' {
		if c.text[c.at] == ',' {
			c.at++
		}
		m := member{start: len(c.out)}
		c.string()
		m.key = len(c.out)
		c.copy()
		c.value()
		m.end = len(c.out)
		members = append(members, m)
	}
	byKey := func(a, b member) int { return bytes.Compare(c.out[a.start:a.key], c.out[b.start:b.key]) }
	if !slices.IsSortedFunc(members, byKey) {
		// Stable: of a key that comes twice, the order says something.
		slices.SortStableFunc(members, byKey)
		sorted := make([]byte, 0, len(c.out)-begin)
		for _, m := range members {
			sorted = append(sorted, c.out[m.start:m.end]...)
		}
		copy(c.out[begin:], sorted)
	}
	c.copy()
}

// string writes a string's length and its characters.
func (c *canonicalizer) string() {
	end := c.at + 1
	escaped := false
	for ; c.text[end] != '"'; end++ {
		if c.text[end] == '\\' {
			escaped = true
			end++
		}
	}
	inner := c.text[c.at+1 : end]
	c.at = end + 1
	if escaped {
		inner = unescape(inner)
	}
	c.out = append(c.out, '"')
	c.out = strconv.AppendInt(c.out, int64(len(inner)), 10)
	c.out = append(c.out, ':')
	c.out = append(c.out, inner...)
}

// unescape gives the characters of a string's inner text. Half a surrogate pair, which is no
// character, becomes three bytes that are in no valid text.
func unescape(inner string) string {
	out := make([]byte, 0, len(inner))
	for i := 0; i < len(inner); i++ {
		if inner[i] != '\\' {
			out = append(out, inner[i])
			continue
		}
		i++
		if inner[i] != 'u' {
			out = append(out, cmp.Or(map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}[inner[i]], inner[i]))
			continue
		}
		r := hexRune(inner[i+1:])
		i += 4
		if utf16.IsSurrogate(r) {
			if i+6 < len(inner) && inner[i+1] == '\\' && inner[i+2] == 'u' {
				if pair := utf16.DecodeRune(r, hexRune(inner[i+3:])); pair != utf8.RuneError {
					out = utf8.AppendRune(out, pair)
					i += 6
					continue
				}
			}
			out = append(out, 0xE0|byte(r>>12), 0x80|byte(r>>6&0x3F), 0x80|byte(r&0x3F)) //nolint:gosec // a surrogate has 16 bits
			continue
		}
		out = utf8.AppendRune(out, r)
	}
	return string(out)
}

// hexRune reads the four digits that text begins with.
func hexRune(text string) rune {
	n, _ := strconv.ParseUint(text[:4], 16, 16) // checked when the text was compacted
	return rune(n)
}
