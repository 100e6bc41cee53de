package egress

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A process that was stopped while it dialled goes on with a connection and without time.
func TestConnectionIsNotUsedAfterTheAttemptsTime(t *testing.T) {
	t.Parallel()
	const written = "POST"
	for _, c := range []struct {
		name           string
		startBy        time.Duration // from now
		deadline       time.Duration
		reused, refuse bool
	}{
		{"made late, in time", -time.Minute, time.Hour, false, false},
		{"made after the end", -time.Minute, -time.Second, false, true},
		{"made after the end, early enough by itself", time.Minute, -time.Second, false, true},
		{"kept, in time", time.Minute, time.Hour, true, false},
		{"kept, late", -time.Second, time.Hour, true, true},
		{"kept, after the end", time.Minute, -time.Second, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			near, far := net.Pipe()
			defer func() { require.NoError(t, far.Close()) }()
			conn := newMeteredConn(near)
			defer func() { _ = conn.Close() }()
			read := make(chan int, 1)
			go func() {
				n, _ := far.Read(make([]byte, 64))
				read <- n
			}()
			observed := &observation{startBy: time.Now().Add(c.startBy), deadline: time.Now().Add(c.deadline)}
			observed.limitStart(conn, c.reused)
			_, err := conn.Write([]byte(written))
			require.Equal(t, c.refuse, observed.late.Load())
			if c.refuse {
				require.ErrorIs(t, err, errLate)
				require.Zero(t, <-read)
				return
			}
			require.NoError(t, err)
			require.Equal(t, len(written), <-read)
		})
	}
}
