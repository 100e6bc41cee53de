package egress_test

import (
	"bufio"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/egress"
)

// A header that is accepted is one line on the wire, says what was written, and displaces none of ours.
func FuzzHeader(f *testing.F) {
	for _, seed := range [][2]string{
		{"X-Team", "crm"},
		{"Authorization", "Bearer x"},
		{"X", "a\r\nHost: evil"},
		{"X\r\nHost", "evil"},
		{"Webhook-Id", "x"},
		{"host", "x"},
		{"X", egress.Mask},
		{"X", ""},
		{"X", " a"},
		{"X", "a\tb"},
		{"X:", "a"},
		{"X", "\x00"},
		{"é", "é"},
		{strings.Repeat("a", 101), "a"},
		{"a", strings.Repeat("a", 4097)},
		{"Content-Length", "0"},
	} {
		f.Add(seed[0], seed[1])
	}
	ours := []string{
		"content-type", "content-length", "user-agent", "host", "connection", "transfer-encoding", "webhook-id", "webhook-timestamp", "webhook-signature",
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		err := egress.ValidateHeader(name, value)
		if err != nil {
			var refused *egress.HeaderError
			require.ErrorAs(t, err, &refused)
			if len(value) > 40 {
				require.NotContains(t, err.Error(), value)
			}
			return
		}
		for _, reserved := range ours {
			require.False(t, strings.EqualFold(name, reserved), name)
		}
		var wire strings.Builder
		require.NoError(t, http.Header{name: {value}}.Write(&wire))
		require.Equal(t, name+": "+value+"\r\n", wire.String())
		read, err := textproto.NewReader(bufio.NewReader(strings.NewReader(wire.String() + "\r\n"))).ReadMIMEHeader()
		require.NoError(t, err)
		require.Len(t, read, 1)
		require.Equal(t, []string{value}, read[textproto.CanonicalMIMEHeaderKey(name)])
	})
}
