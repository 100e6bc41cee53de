package egress

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxKeptHeaders     = 100
	maxKeptHeaderValue = 4 << 10
	maxKeptHeaderBytes = 32 << 10
)

// keptBody is what remains of a response's body.
type keptBody struct {
	text      []byte
	truncated bool
	err       error // why it broke off; nil when complete, or longer than what is kept
}

// wireLimit is how many bytes of body may be read to keep that many decoded:
// compression never makes a body that much longer, and without a limit a stream
// that decompresses to nothing could be read for ever.
func wireLimit(keep int) int64 { return int64(keep)*2 + 4<<10 }

// readBody reads until keep decoded bytes are exceeded, and no further.
func readBody(body io.Reader, encodings []string, keep int) keptBody {
	wire := &wireReader{from: body, left: wireLimit(keep), raw: make([]byte, 0, 512), keep: keep}
	decoder, err := decoderOf(wire, encodings)
	var kept []byte
	if decoder != nil {
		kept, err = readUpTo(decoder, keep+1)
		if len(kept) > keep {
			return keptText(kept[:keep], true, keep, nil)
		}
	}
	// Decoded to its end, or not decodable: only the wire says whether it is
	// complete, and what could not be decoded at all is kept as it came.
	wire.drain()
	undecoded := err != nil && len(kept) == 0
	if undecoded {
		kept = wire.raw[:min(len(wire.raw), keep)]
	}
	switch {
	case wire.exceeded, undecoded && len(wire.raw) > keep:
		return keptText(kept, true, keep, nil)
	case wire.err != nil:
		return keptText(kept, true, keep, wire.err)
	default:
		return keptText(kept, err != nil && !undecoded, keep, nil)
	}
}

// keptText makes text readable, which may lengthen it, and cuts it again.
func keptText(text []byte, wasCut bool, keep int, err error) keptBody {
	text = readable(text, wasCut)
	if len(text) > keep {
		text, wasCut = readable(text[:keep], true), true
	}
	return keptBody{text: text, truncated: wasCut, err: err}
}

// wireReader reads the body as it comes, remembers its beginning, and ends after
// left bytes.
type wireReader struct {
	from     io.Reader
	left     int64
	keep     int
	raw      []byte // the first keep+1 bytes
	done     bool
	exceeded bool  // there is more than left
	err      error // what broke it off; nil at its end
}

func (w *wireReader) Read(buffer []byte) (int, error) {
	switch {
	case w.done:
		return 0, io.EOF
	case w.left <= 0:
		w.done, w.exceeded = true, true
		return 0, io.EOF
	}
	if int64(len(buffer)) > w.left {
		buffer = buffer[:w.left]
	}
	n, err := w.from.Read(buffer)
	w.left -= int64(n)
	w.raw = append(w.raw, buffer[:min(n, w.keep+1-len(w.raw))]...)
	if err != nil {
		w.done = true
		if !errors.Is(err, io.EOF) {
			w.err = err
		}
	}
	return n, err
}

func (w *wireReader) drain() {
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{w})
}

// decoderOf returns what decodes the body: the wire itself when it is not encoded,
// nil when the encoding is unknown or its beginning is not what it says.
func decoderOf(wire *wireReader, encodings []string) (io.Reader, error) {
	encoding := strings.ToLower(strings.TrimSpace(strings.Join(encodings, ",")))
	switch encoding {
	case "", "identity":
		return wire, nil
	case "gzip", "x-gzip":
		reader, err := gzip.NewReader(wire)
		if err != nil {
			return nil, err
		}
		return reader, nil
	case "deflate":
		// The name means zlib's form; some servers send the bare one.
		buffered := bufio.NewReader(wire)
		if head, err := buffered.Peek(2); err == nil && head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
			reader, err := zlib.NewReader(buffered)
			if err != nil {
				return nil, err
			}
			return reader, nil
		}
		return flate.NewReader(buffered), nil
	default:
		return nil, errors.New("unknown encoding")
	}
}

func readUpTo(reader io.Reader, limit int) ([]byte, error) {
	kept := make([]byte, 0, 512)
	for len(kept) < limit {
		kept = slices.Grow(kept, 512)
		n, err := reader.Read(kept[len(kept):min(cap(kept), limit)])
		kept = kept[:len(kept)+n]
		if errors.Is(err, io.EOF) {
			return kept, nil
		}
		if err != nil {
			return kept, err
		}
	}
	return kept, nil
}

// readable returns text as valid UTF-8 that every database takes: each byte that
// is none, and NUL, becomes U+FFFD. A character that the cut divided is dropped.
func readable(text []byte, wasCut bool) []byte {
	if wasCut {
		for back := 1; back < utf8.UTFMax && back <= len(text); back++ {
			tail := text[len(text)-back:]
			if utf8.RuneStart(tail[0]) {
				if !utf8.FullRune(tail) {
					text = text[:len(text)-back]
				}
				break
			}
		}
	}
	if utf8.Valid(text) && bytes.IndexByte(text, 0) < 0 {
		return text
	}
	clean := make([]byte, 0, len(text)+len(text)/2)
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r == 0 {
			r = utf8.RuneError
		}
		clean = utf8.AppendRune(clean, r)
		text = text[size:]
	}
	return clean
}

// keepHeaders keeps at most 100 headers of 32 KiB together, sorted by name.
func keepHeaders(header http.Header) []ShownHeader {
	names := make([]string, 0, len(header))
	for name := range header {
		names = append(names, name)
	}
	slices.Sort(names)
	kept := make([]ShownHeader, 0, min(len(names), maxKeptHeaders))
	total := 0
	for _, name := range names {
		for _, value := range header[name] {
			field := show(Header{Name: cut(strings.ToLower(name), maxKeptHeaderValue), Value: cut(value, maxKeptHeaderValue)})
			if total += len(field.Name) + len(field.Value); len(kept) == maxKeptHeaders || total > maxKeptHeaderBytes {
				return kept
			}
			kept = append(kept, field)
		}
	}
	return kept
}

// cut returns the readable beginning of text, at most limit bytes before bytes
// that are no UTF-8 are replaced.
func cut(text string, limit int) string {
	if len(text) > limit {
		return string(readable([]byte(text[:limit]), true))
	}
	return string(readable([]byte(text), false))
}
