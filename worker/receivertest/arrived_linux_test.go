package receivertest_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/worker/receivertest"
)

// heldListener accepts nothing until it is let.
type heldListener struct {
	net.Listener

	let chan struct{}
}

func (l heldListener) Accept() (net.Conn, error) {
	<-l.let
	return l.Listener.Accept()
}

// A receiver that has no time for a request knows when it came all the same.
func TestReceiverKnowsWhenARequestCame(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	held := heldListener{listener, make(chan struct{})}
	receiver := receivertest.New(t, receivertest.Listener(held))
	client, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", listener.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	const tick = 10 * time.Millisecond
	sent := time.Now()
	_, err = client.Write([]byte("POST /hook HTTP/1.1\r\nHost: receiver.test\r\nContent-Length: 2\r\n\r\n{}"))
	require.NoError(t, err)
	came := time.Now()
	<-time.After(10 * tick)
	let := time.Now()
	close(held.let)
	request := receiver.Wait(t, 1)[0]
	require.False(t, request.At.Before(let))
	require.False(t, request.Arrived.Before(sent.Add(-tick)), "%s before it was sent", sent.Sub(request.Arrived))
	require.False(t, request.Arrived.After(came.Add(tick)), "%s after it was sent", request.Arrived.Sub(came))
}
