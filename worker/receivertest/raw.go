package receivertest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"time"
)

// The answers in this file write bytes of their own choice to an HTTP/1.1
// connection; over HTTP/2 they fail the test.

// Raw takes the connection over and lets write do what it likes with it; ctx ends
// when the receiver stops. The connection is closed afterwards.
func Raw(write func(ctx context.Context, conn net.Conn)) Answer {
	return func(x *Exchange) {
		conn := x.hijack()
		if conn == nil {
			return
		}
		defer conn.Close()
		defer context.AfterFunc(x.receiver.closing, func() { _ = conn.Close() })()
		write(x.receiver.closing, conn)
	}
}

// Bytes answers exactly these bytes and closes the connection.
func Bytes(text string) Answer {
	return Raw(func(_ context.Context, conn net.Conn) {
		_, _ = conn.Write([]byte(text))
		finish(conn)
	})
}

// BytesKept answers exactly these bytes and keeps the connection open until the
// client closes it.
func BytesKept(text string) Answer {
	return Raw(func(_ context.Context, conn net.Conn) {
		_, _ = conn.Write([]byte(text))
		drain(conn)
	})
}

// BytesAndReset answers these bytes and resets the connection (RST, not FIN).
// Without bytes it is a reset before the headers.
func BytesAndReset(text string) Answer {
	return Raw(func(_ context.Context, conn net.Conn) {
		_, _ = conn.Write([]byte(text))
		Reset(conn)
	})
}

// CloseEarly closes the connection without an answer.
func CloseEarly() Answer { return Bytes("") }

// ResetBeforeHeaders resets the connection without an answer.
func ResetBeforeHeaders() Answer { return BytesAndReset("") }

// ResetInHeaders resets the connection inside the headers.
func ResetInHeaders() Answer { return BytesAndReset("HTTP/1.1 200 OK\r\nContent-Le") }

// ResetInBody resets the connection inside the body of a 200.
func ResetInBody() Answer {
	return BytesAndReset("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbroken")
}

// ShortBody answers a 200 that announces more bytes than it sends, and closes.
func ShortBody(announced int, body string) Answer {
	return Bytes(withLength(announced, body))
}

// LongBody answers a 200 that announces fewer bytes than it sends, and keeps the
// connection open.
func LongBody(announced int, body string) Answer {
	return BytesKept(withLength(announced, body))
}

// ReplyThenClose answers an empty 200 as if the connection were to be kept, and
// closes it at once: the race of every keep-alive timeout.
func ReplyThenClose() Answer { return Bytes("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") }

// DripHeaders answers a 200 and then a byte of a header each interval, for ever.
func DripHeaders(interval time.Duration) Answer {
	return Raw(func(ctx context.Context, conn net.Conn) {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		text := "HTTP/1.1 200 OK\r\nX-Drip: "
		for {
			if _, err := conn.Write([]byte(text)); err != nil {
				return
			}
			text = "."
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// EndlessHeaders answers headers that never end, as fast as they go.
func EndlessHeaders() Answer {
	return Raw(func(ctx context.Context, conn net.Conn) {
		_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\n"))
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := fmt.Fprintf(conn, "X-Endless-%d: value\r\n", i); err != nil {
				return
			}
		}
	})
}

// InformationalFlood answers 1xx responses for ever.
func InformationalFlood() Answer {
	return Raw(func(ctx context.Context, conn net.Conn) {
		for ctx.Err() == nil {
			if _, err := conn.Write([]byte("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")); err != nil {
				return
			}
		}
	})
}

// Reset closes conn with RST instead of FIN, TLS or not.
func Reset(conn net.Conn) {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func withLength(announced int, body string) string {
	return "HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(announced) + "\r\n\r\n" + body
}

func (x *Exchange) hijack() net.Conn {
	hijacker, ok := x.W.(interface {
		Hijack() (net.Conn, *bufio.ReadWriter, error)
	})
	if !ok {
		x.receiver.t.Errorf("receivertest: this answer needs HTTP/1.1, the request came over %s", x.R.Proto)
		return nil
	}
	conn, _, err := hijacker.Hijack()
	if err != nil {
		x.receiver.t.Errorf("receivertest: take the connection over: %v", err)
		return nil
	}
	return conn
}

// finish sends FIN and waits for the client's: closing with unread bytes in the
// socket would send RST and could take the answer with it.
func finish(conn net.Conn) {
	switch conn := conn.(type) {
	case *net.TCPConn:
		_ = conn.CloseWrite()
	case *tls.Conn:
		_ = conn.CloseWrite()
	}
	drain(conn)
}

// drain reads until the client closes the connection.
func drain(conn net.Conn) {
	buffer := make([]byte, 4096)
	for {
		if _, err := conn.Read(buffer); err != nil {
			return
		}
	}
}
