package egress_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// No byte of an event goes to a receiver that does not prove who it is.
func TestBadTLSIsATLSError(t *testing.T) {
	t.Parallel()
	says := map[receivertest.Mode]string{
		receivertest.Expired:           "not trusted: x509: certificate has expired",
		receivertest.NotYetValid:       "not trusted: x509: certificate has expired or is not yet valid",
		receivertest.SelfSigned:        "not trusted: x509: certificate signed by unknown authority",
		receivertest.UnknownCA:         "not trusted: x509: certificate signed by unknown authority",
		receivertest.WrongHost:         "not valid for the target's host",
		receivertest.NoNames:           "not valid for the target's host",
		receivertest.ClientAuthOnly:    "not trusted: x509: certificate specifies an incompatible key usage",
		receivertest.SignedByLeaf:      "not trusted: x509: ",
		receivertest.OutsideConstraint: "not trusted: x509: ",
		receivertest.OldVersion:        "protocol version",
		receivertest.NeedsClientCert:   "TLS",
		receivertest.NotTLS:            "does not speak TLS on this port",
		receivertest.ClosedHandshake:   "closed the connection during the TLS handshake",
	}
	for _, mode := range receivertest.BadModes() {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			receiver := receivertest.New(t, receivertest.TLS(mode))
			client := newClient(t, receiver)
			result := do(t, client, newRequest(t, receiver.NamedURL(), ample))
			require.Equal(t, egress.TLSError, result.Outcome, result.Error)
			require.Contains(t, result.Error, says[mode])
			require.Empty(t, receiver.Requests())
			require.Equal(t, receiver.AddrPort().String(), result.RemoteAddr)
		})
	}
}

func TestTLSThatNeverFinishesIsATimeout(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t, receivertest.TLS(receivertest.SilentHandshake))
	result := do(t, newClient(t, receiver), newRequest(t, receiver.NamedURL(), short))
	require.Equal(t, egress.Timeout, result.Outcome)
	require.Contains(t, result.Error, "while")
}

func TestGoodTLSByNameAndByAddress(t *testing.T) {
	t.Parallel()
	receiver := receivertest.New(t, receivertest.TLS(receivertest.Valid))
	client := newClient(t, receiver)
	require.Equal(t, egress.Success, do(t, client, newRequest(t, receiver.NamedURL(), ample)).Outcome)
	require.Equal(t, egress.Success, do(t, client, newRequest(t, receiver.URL(), ample)).Outcome)
}
