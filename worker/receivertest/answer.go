package receivertest

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"net/http"
	"strconv"
	"time"
)

// Exchange is a request that waits for its answer.
type Exchange struct {
	W       http.ResponseWriter
	R       *http.Request
	Request Request

	receiver *Receiver
	released <-chan struct{}
}

// Answer answers one request. Tests write their own, or use those below.
type Answer func(*Exchange)

// Wait blocks for d, or until the client goes, the test releases it, or the
// receiver stops; it reports whether all of d passed.
func (x *Exchange) Wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-x.R.Context().Done():
	case <-x.released:
	case <-x.receiver.closing.Done():
	}
	return false
}

// Status answers an empty response; headers are name, value, name, value ….
func Status(status int, headers ...string) Answer { return Reply(status, "", headers...) }

// Reply answers with a body; headers are name, value, name, value ….
func Reply(status int, body string, headers ...string) Answer {
	return func(x *Exchange) {
		for i := 0; i+1 < len(headers); i += 2 {
			x.W.Header().Add(headers[i], headers[i+1])
		}
		x.W.WriteHeader(status)
		_, _ = x.W.Write([]byte(body))
	}
}

// Redirect answers with a location to follow.
func Redirect(status int, location string) Answer { return Status(status, "Location", location) }

// Hang answers nothing until the client goes; when the test releases it, 200.
func Hang() Answer {
	return func(x *Exchange) { x.hang() }
}

// HangIn answers the status and the beginning of a body, and hangs there.
func HangIn(status int, beginning string) Answer {
	return func(x *Exchange) {
		x.W.WriteHeader(status)
		_, _ = x.W.Write([]byte(beginning))
		x.flush()
		x.hang()
	}
}

// After answers as then does once the test releases it.
func After(then Answer) Answer {
	return func(x *Exchange) {
		x.hang()
		if x.R.Context().Err() == nil {
			then(x)
		}
	}
}

// Delay answers as then does after d, unless the client goes before.
func Delay(d time.Duration, then Answer) Answer {
	return func(x *Exchange) {
		x.Wait(d)
		if x.R.Context().Err() == nil {
			then(x)
		}
	}
}

// DripBody answers the status and then a byte of body each interval, for ever.
func DripBody(status int, interval time.Duration) Answer {
	return func(x *Exchange) {
		x.W.WriteHeader(status)
		x.flush()
		for x.Wait(interval) {
			if _, err := x.W.Write([]byte(".")); err != nil {
				return
			}
			x.flush()
		}
	}
}

// EndlessBody answers the status and a body that never ends, as fast as it goes.
func EndlessBody(status int) Answer {
	return func(x *Exchange) {
		x.W.WriteHeader(status)
		block := bytes.Repeat([]byte("endless "), 4096)
		for x.alive() {
			if _, err := x.W.Write(block); err != nil {
				return
			}
		}
	}
}

// Gzip answers with a compressed body.
func Gzip(status int, body string) Answer {
	var compressed bytes.Buffer
	writer := gzip.NewWriter(&compressed)
	_, _ = writer.Write([]byte(body))
	_ = writer.Close()
	return Reply(status, compressed.String(), "Content-Encoding", "gzip")
}

// Deflate answers with a body in zlib's form of deflate.
func Deflate(status int, body string) Answer {
	var compressed bytes.Buffer
	writer := zlib.NewWriter(&compressed)
	_, _ = writer.Write([]byte(body))
	_ = writer.Close()
	return Reply(status, compressed.String(), "Content-Encoding", "deflate")
}

// GzipBomb answers with a body that decompresses to size zeros, about a
// thousandth of it on the wire: the same member again and again.
func GzipBomb(status int, size int64) Answer {
	const memberSize = 16 << 20
	var member bytes.Buffer
	writer := gzip.NewWriter(&member)
	_, _ = writer.Write(make([]byte, memberSize))
	_ = writer.Close()
	return func(x *Exchange) {
		x.W.Header().Set("Content-Encoding", "gzip")
		x.W.WriteHeader(status)
		for sent := int64(0); sent < size && x.alive(); sent += memberSize {
			if _, err := x.W.Write(member.Bytes()); err != nil {
				return
			}
		}
	}
}

// GzipNothing answers with a gzip stream that goes on for ever and decompresses
// to nothing: empty members, one after the other.
func GzipNothing(status int) Answer {
	return func(x *Exchange) {
		x.W.Header().Set("Content-Encoding", "gzip")
		x.W.WriteHeader(status)
		var member bytes.Buffer
		_ = gzip.NewWriter(&member).Close()
		block := bytes.Repeat(member.Bytes(), 1000)
		for x.alive() {
			if _, err := x.W.Write(block); err != nil {
				return
			}
		}
	}
}

// HugeHeader answers with one header of size bytes.
func HugeHeader(status, size int) Answer {
	return Status(status, "X-Huge", string(bytes.Repeat([]byte("h"), size)))
}

// ManyHeaders answers with count small headers.
func ManyHeaders(status, count int) Answer {
	return func(x *Exchange) {
		for i := range count {
			x.W.Header().Set("X-Many-"+strconv.Itoa(i), "v")
		}
		x.W.WriteHeader(status)
	}
}

// Abort breaks the exchange off: the connection over HTTP/1.1, the stream with
// RST_STREAM over HTTP/2.
func Abort() Answer {
	return func(*Exchange) { panic(http.ErrAbortHandler) }
}

func (x *Exchange) alive() bool {
	return x.R.Context().Err() == nil && x.receiver.closing.Err() == nil
}

func (x *Exchange) hang() {
	select {
	case <-x.R.Context().Done():
	case <-x.released:
	case <-x.receiver.closing.Done():
	}
}

func (x *Exchange) flush() { _ = http.NewResponseController(x.W).Flush() }
