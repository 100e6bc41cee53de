package testenv_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv"
)

// echo is a server that sends back what it gets.
func echo(t *testing.T) (address string, received *atomic.Int64) {
	t.Helper()
	received = &atomic.Int64{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var work sync.WaitGroup
	t.Cleanup(func() {
		assert.NoError(t, listener.Close())
		work.Wait()
	})
	work.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer connection.Close()
				buffer := make([]byte, 4096)
				for {
					count, err := connection.Read(buffer)
					received.Add(int64(count))
					if _, errWrite := connection.Write(buffer[:count]); err != nil || errWrite != nil {
						return
					}
				}
			})
		}
	})
	return listener.Addr().String(), received
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	connection, err := net.DialTimeout("tcp", address, limit)
	require.NoError(t, err)
	require.NoError(t, connection.SetDeadline(time.Now().Add(limit)))
	t.Cleanup(func() { _ = connection.Close() }) // the test may have closed it
	return connection
}

func ask(t *testing.T, connection net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(connection, text)
	require.NoError(t, err)
	answer := make([]byte, len(text))
	_, err = io.ReadFull(connection, answer)
	require.NoError(t, err)
	require.Equal(t, text, string(answer))
}

// silent asserts that nothing comes, and readies the connection to go on.
func silent(t *testing.T, connection net.Conn) {
	t.Helper()
	require.NoError(t, connection.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	_, err := connection.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, connection.SetReadDeadline(time.Now().Add(limit)))
}

func TestProxy(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (*testenv.Proxy, net.Conn, *atomic.Int64) {
		t.Helper()
		address, received := echo(t)
		proxy := testenv.NewProxy(t, address)
		connection := dial(t, proxy.Addr())
		ask(t, connection, "hello")
		require.Equal(t, 1, proxy.Connections())
		return proxy, connection, received
	}
	eventuallyClosed := func(t *testing.T, proxy *testenv.Proxy) {
		t.Helper()
		require.Eventually(t, func() bool { return proxy.Connections() == 0 }, limit, time.Millisecond)
	}

	t.Run("passes everything and an orderly end", func(t *testing.T) {
		t.Parallel()
		proxy, connection, _ := setup(t)
		sent := bytes.Repeat([]byte("0123456789"), 200_000)
		var work sync.WaitGroup
		work.Go(func() {
			_, errWrite := connection.Write(sent)
			tcp, _ := connection.(*net.TCPConn)
			assert.NoError(t, errors.Join(errWrite, tcp.CloseWrite()))
		})
		answer, err := io.ReadAll(connection)
		require.NoError(t, err)
		require.Equal(t, sent, answer)
		work.Wait()
		eventuallyClosed(t, proxy)
	})
	t.Run("puts its address into a URL", func(t *testing.T) {
		t.Parallel()
		proxy, _, _ := setup(t)
		require.Equal(t, "redis://:key@"+proxy.Addr()+"/3", proxy.URL("redis://:key@127.0.0.1:1/3"))
	})
	t.Run("delays in order", func(t *testing.T) {
		t.Parallel()
		proxy, connection, _ := setup(t)
		proxy.Latency(50 * time.Millisecond)
		began := time.Now()
		ask(t, connection, "slow")
		require.GreaterOrEqual(t, time.Since(began), 100*time.Millisecond)
		proxy.Latency(time.Hour)
		_, err := io.WriteString(connection, "later")
		require.NoError(t, err)
		silent(t, connection)
		proxy.LatencyTo(testenv.ToServer, 0)
		proxy.LatencyTo(testenv.ToClient, 0)
		answer := make([]byte, len("later"))
		_, err = io.ReadFull(connection, answer)
		require.NoError(t, err, "a shorter latency frees what waits")
	})
	t.Run("slices", func(t *testing.T) {
		t.Parallel()
		proxy, connection, _ := setup(t)
		proxy.Slice(1, time.Millisecond)
		began := time.Now()
		ask(t, connection, "eleven long")
		require.GreaterOrEqual(t, time.Since(began), 10*time.Millisecond)
	})
	t.Run("cuts in order", func(t *testing.T) {
		t.Parallel()
		proxy, connection, _ := setup(t)
		proxy.Cut()
		_, err := connection.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		eventuallyClosed(t, proxy)
		ask(t, dial(t, proxy.Addr()), "again")
		require.Equal(t, 2, proxy.Accepted())
	})
	t.Run("resets", func(t *testing.T) {
		t.Parallel()
		proxy, connection, _ := setup(t)
		proxy.Reset()
		_, err := connection.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		ask(t, dial(t, proxy.Addr()), "again")
	})
	t.Run("is down and up", func(t *testing.T) {
		t.Parallel()
		proxy, connection, _ := setup(t)
		proxy.Down()
		proxy.Down()
		_, err := connection.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = net.DialTimeout("tcp", proxy.Addr(), limit)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.NoError(t, proxy.Up())
		require.NoError(t, proxy.Up())
		ask(t, dial(t, proxy.Addr()), "again")
	})
	t.Run("stalls half-open and heals", func(t *testing.T) {
		t.Parallel()
		proxy, connection, received := setup(t)
		before := received.Load()
		proxy.Stall()
		late := dial(t, proxy.Addr())
		for _, c := range []net.Conn{connection, late} {
			_, err := io.WriteString(c, "held")
			require.NoError(t, err)
			silent(t, c)
		}
		require.Equal(t, before, received.Load())
		proxy.Heal()
		for _, c := range []net.Conn{connection, late} {
			answer := make([]byte, len("held"))
			_, err := io.ReadFull(c, answer)
			require.NoError(t, err)
		}
	})
	t.Run("obeys its hook", func(t *testing.T) {
		t.Parallel()
		for _, test := range []struct {
			name    string
			verdict testenv.Verdict
			arrives bool
			reset   bool
		}{
			{"swallow", testenv.Swallow, false, false},
			{"reset before", testenv.ResetBefore, false, true},
			{"reset after", testenv.ResetAfter, true, true},
			{"stall after", testenv.StallAfter, true, false}, // of its direction: the answer comes
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				proxy, connection, received := setup(t)
				before := received.Load()
				proxy.SetHook(func(number int, direction testenv.Direction, chunk []byte) testenv.Verdict {
					assert.Equal(t, 1, number)
					if direction == testenv.ToServer && bytes.Contains(chunk, []byte("COMMIT")) {
						return test.verdict
					}
					return testenv.Pass
				})
				ask(t, connection, "BEGIN")
				before += int64(len("BEGIN"))
				_, err := io.WriteString(connection, "COMMIT")
				require.NoError(t, err)
				switch {
				case test.reset:
					_, err = connection.Read(make([]byte, 1))
					require.ErrorIs(t, err, syscall.ECONNRESET)
				case test.arrives:
					answer := make([]byte, len("COMMIT"))
					_, err = io.ReadFull(connection, answer)
					require.NoError(t, err)
				default:
					silent(t, connection)
				}
				want := before
				if test.arrives {
					want += int64(len("COMMIT"))
				}
				require.Eventually(t, func() bool { return received.Load() == want }, limit, time.Millisecond)
			})
		}
	})
}
