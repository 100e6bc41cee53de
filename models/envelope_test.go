package models

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestEnvelope(t *testing.T) {
	t.Parallel()
	berlin := time.FixedZone("", 2*3600)
	for name, tc := range map[string]struct {
		eventType string
		timestamp time.Time
		data      string
		want      string
	}{
		"digits, order and escapes are kept": {
			"participant.created", time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), `{"b":1.10,"a":"<&>\u00e9","n":9223372036854775808}`,
			`{"type":"participant.created","timestamp":"2026-03-01T12:00:00Z","data":{"b":1.10,"a":"<&>\u00e9","n":9223372036854775808}}`,
		},
		"the timestamp is UTC, cut to microseconds": {
			"a.b", time.Date(2026, 3, 1, 12, 0, 0, 123456789, berlin), `{}`,
			`{"type":"a.b","timestamp":"2026-03-01T10:00:00.123456Z","data":{}}`,
		},
		"a type cannot break out": {
			`x","data":"<y>`, time.Date(2026, 3, 1, 12, 0, 0, 500e6, time.UTC), `{}`,
			`{"type":"x\",\"data\":\"<y>","timestamp":"2026-03-01T12:00:00.5Z","data":{}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tc.want, string(Envelope(tc.eventType, tc.timestamp, tc.data)))
		})
	}
}
