package testenv

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A link is one connection through a proxy: a pump per direction, each a reader that stamps chunks
// with their time of arrival and a writer that sends them on when the faults let it.
type link struct {
	proxy  *Proxy
	number int
	client net.Conn
	server net.Conn
	once   sync.Once
	ended  chan struct{}  // closed by cut and reset
	quiet  [2]atomic.Bool // by direction: nothing goes on any more
}

// A chunk waits between reader and writer.
type chunk struct {
	bytes []byte
	at    time.Time
}

// backlog bounds what a direction holds back, in chunks; then TCP's own flow control works.
const backlog = 256

// forward pumps one direction until either side or the link ends.
func (l *link) forward(direction Direction) {
	from, to := l.client, l.server
	if direction == ToClient {
		from, to = l.server, l.client
	}
	chunks := make(chan chunk, backlog)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(chunks)
		for {
			buffer := make([]byte, 16<<10)
			count, err := from.Read(buffer)
			if count > 0 {
				select {
				case chunks <- chunk{buffer[:count], time.Now()}:
				case <-l.ended:
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					l.reset() // the far side's reset is the near side's
				}
				return
			}
		}
	})
	for c := range chunks {
		if !l.send(direction, to, c) {
			break
		}
	}
	select {
	case <-l.ended:
	default:
		if half, ok := to.(*net.TCPConn); ok && l.waitUntilHealed() {
			_ = half.CloseWrite() // an orderly end goes on as one
		}
	}
	reader.Wait()
}

// send does to one chunk what the faults of now say, and reports whether the direction lives on.
func (l *link) send(direction Direction, to net.Conn, c chunk) bool {
	if !l.delay(direction, c.at) || !l.waitUntilHealed() {
		return false
	}
	now, _ := l.proxy.current()
	verdict := Pass
	if now.hook != nil {
		verdict = now.hook(l.number, direction, c.bytes)
	}
	switch verdict {
	case Swallow:
		return true
	case ResetBefore:
		l.reset()
		return false
	case ResetAfter:
		l.quiet[1-direction].Store(true) // the answer may be quicker than the reset
	case Pass, StallAfter:
	}
	if l.quiet[direction].Load() {
		return true
	}
	if !l.write(to, c.bytes, now.slice, now.pause) {
		return false
	}
	switch verdict {
	case ResetAfter:
		l.end(func() {
			_ = to.Close() // in order: a reset could overtake the chunk
			for _, side := range []net.Conn{l.client, l.server} {
				if side != to {
					reset(side)
				}
			}
		})
		return false
	case StallAfter:
		<-l.ended
		return false
	case Pass, Swallow, ResetBefore:
	}
	return true
}

func (l *link) write(to net.Conn, bytes []byte, slice int, pause time.Duration) bool {
	if slice <= 0 {
		slice = len(bytes)
	}
	for len(bytes) > 0 {
		piece := bytes[:min(slice, len(bytes))]
		if _, err := to.Write(piece); err != nil {
			l.reset()
			return false
		}
		bytes = bytes[len(piece):]
		if len(bytes) > 0 && !l.wait(time.Now().Add(pause), nil) {
			return false
		}
	}
	return true
}

// delay waits until the chunk is as old as the latency of now, which may change meanwhile.
func (l *link) delay(direction Direction, arrived time.Time) bool {
	for {
		now, changed := l.proxy.current()
		due := arrived.Add(now.latency[direction])
		if !time.Now().Before(due) {
			return true
		}
		if !l.wait(due, changed) {
			return false
		}
	}
}

// waitUntilHealed returns true when the proxy is not stalled, false when the link ended first.
func (l *link) waitUntilHealed() bool {
	for {
		now, changed := l.proxy.current()
		if !now.stalled {
			return true
		}
		select {
		case <-changed:
		case <-l.ended:
			return false
		}
	}
}

// wait returns true at the time or when early closes, false when the link ended first.
func (l *link) wait(until time.Time, early <-chan struct{}) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-early:
		return true
	case <-l.ended:
		return false
	}
}

// cut ends the link in order.
func (l *link) cut() {
	l.end(func() {
		_ = l.client.Close() // both only end what is to end
		_ = l.server.Close()
	})
}

// reset ends the link with RST on both sides.
func (l *link) reset() {
	l.end(func() {
		reset(l.client)
		reset(l.server)
	})
}

// end ends the link once, in the way of the first caller.
func (l *link) end(hangUp func()) {
	l.once.Do(func() {
		close(l.ended)
		hangUp()
	})
}

func reset(connection net.Conn) {
	if tcp, ok := connection.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // close then discards and sends RST
	}
	_ = connection.Close()
}
