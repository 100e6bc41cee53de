// Package scalar is how the API's scalars look in JSON: Time, JSON, URL and Duration. It stands
// apart from graph only because the generated code, which graph imports, needs it.
//
// The functions are called with values that graph has checked already, where the request was read;
// their own errors are the last line of defence and never quote the value.
package scalar

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/99designs/gqlgen/graphql"

	"github.com/intervengine/webhooks/models"
)

// ErrTime says that a value is not a Time.
var ErrTime = errors.New("a Time is a text in RFC 3339 form with a zone, e.g. 2026-03-01T12:00:00Z, in the years 0001 to 9999")

// ErrJSON says that a value is not JSON.
var ErrJSON = errors.New("the value is not JSON")

// ErrText says that a value is not a text.
var ErrText = errors.New("the value is not a text")

// MarshalTime writes an instant: RFC 3339, UTC, up to microseconds.
func MarshalTime(t time.Time) graphql.Marshaler {
	return graphql.WriterFunc(func(w io.Writer) {
		_, _ = io.WriteString(w, `"`+models.FormatTime(t)+`"`)
	})
}

// UnmarshalTime reads an instant in the precision of the database. Years beyond 0001 to 9999, which
// RFC 3339 could not write back in UTC, are refused.
func UnmarshalTime(v any) (time.Time, error) {
	s, ok := v.(string)
	if !ok {
		return time.Time{}, ErrTime
	}
	return ParseTime(s)
}

// ParseTime is UnmarshalTime for a text.
func ParseTime(s string) (time.Time, error) {
	var t time.Time
	// UnmarshalText is strict where time.Parse takes a comma or a one-digit hour.
	if err := t.UnmarshalText([]byte(s)); err != nil {
		return time.Time{}, ErrTime
	}
	t = models.Instant(t)
	if y := t.Year(); y < 1 || y > 9999 {
		return time.Time{}, ErrTime
	}
	return t, nil
}

// MarshalJSON writes JSON text as it is: digits, order and escapes stay.
func MarshalJSON(text string) graphql.Marshaler {
	return graphql.WriterFunc(func(w io.Writer) {
		_, _ = io.WriteString(w, text)
	})
}

// UnmarshalJSON takes JSON text: raw from variables and literals, which graph keeps as they came.
// Any other Go value (an argument's default in the schema) is written as JSON.
func UnmarshalJSON(v any) (string, error) {
	if raw, ok := v.(json.RawMessage); ok {
		return string(raw), nil
	}
	text, err := AppendJSON(nil, v)
	if err != nil {
		return "", ErrJSON
	}
	return string(text), nil
}

// AppendJSON appends v as compact JSON without HTML's escapes.
func AppendJSON(dst []byte, v any) ([]byte, error) {
	if raw, ok := v.(json.RawMessage); ok {
		return append(dst, raw...), nil
	}
	b := bytes.NewBuffer(dst)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return dst, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// MarshalText writes a URL or a duration.
func MarshalText(s string) graphql.Marshaler { return graphql.MarshalString(s) }

// UnmarshalText takes a URL or a duration as it was written. Whether it is one is for the package
// that uses it to say, together with everything else that is wrong with the input; so a number or
// a boolean is taken as its text.
func UnmarshalText(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool, int, int64, float64, json.Number:
		text, err := AppendJSON(nil, v)
		return string(text), err
	default:
		return "", ErrText
	}
}
