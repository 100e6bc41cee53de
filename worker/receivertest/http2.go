package receivertest

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// H2Setting is a setting that a raw HTTP/2 receiver announces.
type H2Setting = http2.Setting

// H2Behaviour answers one request of a raw HTTP/2 receiver, frame by frame. It
// runs on the connection's reader: while it runs, no further frame is read. An
// error of the connection ends it quietly.
type H2Behaviour func(ctx context.Context, conn *H2Conn, stream uint32)

// H2Conn is one connection of a raw HTTP/2 receiver.
type H2Conn struct {
	net.Conn
	Framer *http2.Framer

	encoder *hpack.Encoder
	block   *bytes.Buffer
}

// Headers sends a HEADERS frame; fields are name, value, name, value …. It
// reports whether the connection still takes frames.
func (c *H2Conn) Headers(stream uint32, end bool, fields ...string) bool {
	return c.Framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: c.Encode(fields...), EndHeaders: true, EndStream: end,
	}) == nil
}

// Encode returns the header block of fields.
func (c *H2Conn) Encode(fields ...string) []byte {
	c.block.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		_ = c.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(c.block.Bytes())
}

// H2Status answers an empty response.
func H2Status(status string) H2Behaviour {
	return func(_ context.Context, conn *H2Conn, stream uint32) { conn.Headers(stream, true, ":status", status) }
}

// H2GoAway refuses the stream by GOAWAY: last is the last stream that was
// handled, and code is why.
func H2GoAway(last uint32, code http2.ErrCode) H2Behaviour {
	return func(_ context.Context, conn *H2Conn, _ uint32) {
		_ = conn.Framer.WriteGoAway(last, code, nil)
		drain(conn)
	}
}

// H2Reset ends the stream with RST_STREAM.
func H2Reset(code http2.ErrCode) H2Behaviour {
	return func(_ context.Context, conn *H2Conn, stream uint32) { _ = conn.Framer.WriteRSTStream(stream, code) }
}

// H2ResetInBody begins a 200 and its body, and ends the stream with RST_STREAM.
func H2ResetInBody(code http2.ErrCode) H2Behaviour {
	return func(_ context.Context, conn *H2Conn, stream uint32) {
		conn.Headers(stream, false, ":status", "200")
		_ = conn.Framer.WriteData(stream, false, []byte("broken"))
		_ = conn.Framer.WriteRSTStream(stream, code)
	}
}

// H2PingFlood sends PING frames for ever instead of an answer.
func H2PingFlood() H2Behaviour {
	return func(ctx context.Context, conn *H2Conn, _ uint32) {
		flood(ctx, conn, func() bool { return conn.Framer.WritePing(false, [8]byte{1}) == nil })
	}
}

// H2SettingsFlood sends SETTINGS frames for ever instead of an answer.
func H2SettingsFlood() H2Behaviour {
	return func(ctx context.Context, conn *H2Conn, _ uint32) {
		flood(ctx, conn, func() bool { return conn.Framer.WriteSettings() == nil })
	}
}

// H2InformationalFlood sends 1xx responses without a field for ever.
func H2InformationalFlood() H2Behaviour {
	return func(ctx context.Context, conn *H2Conn, stream uint32) {
		flood(ctx, conn, func() bool { return conn.Headers(stream, false, ":status", "103") })
	}
}

// H2ContinuationFlood begins headers that CONTINUATION frames never end.
func H2ContinuationFlood() H2Behaviour {
	return func(ctx context.Context, conn *H2Conn, stream uint32) {
		block := conn.Encode(":status", "200")
		_ = conn.Framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block})
		more := conn.Encode("x-endless", strings.Repeat("v", 1000))
		flood(ctx, conn, func() bool { return conn.Framer.WriteContinuation(stream, false, more) == nil })
	}
}

// H2Hang answers nothing.
func H2Hang() H2Behaviour {
	return func(_ context.Context, conn *H2Conn, _ uint32) { drain(conn) }
}

// flood writes until the connection takes no more, and reads what comes so that
// the client's acknowledgements do not stop it.
func flood(ctx context.Context, conn *H2Conn, write func() bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, conn.Conn)
	}()
	for ctx.Err() == nil && write() {
	}
	_ = conn.Close()
	<-done
}

// serveFrames is a small HTTP/2 server: it acknowledges what it must, gathers one
// request after the other, keeps it, and lets the behaviour answer.
func (r *Receiver) serveFrames(ctx context.Context, conn net.Conn) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return
	}
	block := &bytes.Buffer{}
	framed := &H2Conn{Conn: conn, Framer: http2.NewFramer(conn, conn), encoder: hpack.NewEncoder(block), block: block}
	framed.Framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if framed.Framer.WriteSettings(r.settings...) != nil {
		return
	}
	open := map[uint32]*Request{}
	for {
		frame, err := framed.Framer.ReadFrame()
		if err != nil {
			return
		}
		ended := false
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framed.Framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				_ = framed.Framer.WritePing(true, frame.Data)
			}
		case *http2.MetaHeadersFrame:
			open[frame.StreamID] = newRequest(frame, conn.RemoteAddr().String())
			ended = frame.StreamEnded()
		case *http2.DataFrame:
			if request := open[frame.StreamID]; request != nil {
				request.Body = append(request.Body, frame.Data()...)
			}
			ended = frame.StreamEnded()
		case *http2.RSTStreamFrame:
			delete(open, frame.StreamID)
		}
		stream := frame.Header().StreamID
		if request := open[stream]; ended && request != nil {
			delete(open, stream)
			r.keep(request)
			r.raw(ctx, framed, stream)
		}
	}
}

func newRequest(frame *http2.MetaHeadersFrame, remote string) *Request {
	request := &Request{
		Method: frame.PseudoValue("method"), Proto: "HTTP/2.0", Host: frame.PseudoValue("authority"),
		Header: http.Header{}, RemoteAddr: remote, At: time.Now(),
	}
	request.Arrived = request.At
	request.Path, request.Query, _ = strings.Cut(frame.PseudoValue("path"), "?")
	for _, field := range frame.RegularFields() {
		request.Header.Add(field.Name, field.Value)
	}
	return request
}
