package graph

import (
	"encoding/json"
	"errors"
	"unicode/utf8"
)

// What is wrong with a text that should be JSON. None of them quotes it.
var (
	errNotJSON      = errors.New("the body is not valid JSON")
	errNotUTF8      = errors.New("the body is not valid UTF-8")
	errTrailing     = errors.New("the body has text after its JSON value")
	errTooDeep      = errors.New("the body nests too deeply")
	errDuplicateKey = errors.New("the body has an object with the same key twice")
)

// scanner reads JSON where encoding/json would give away what matters here: it keeps the exact text
// of a value, compares keys as they are written, refuses a key that comes twice, and bounds the
// depth. It reads one value and never copies; the slices that it returns are parts of text.
type scanner struct {
	text     []byte
	at       int
	maxDepth int // of arrays and objects
	depth    int
}

func (s *scanner) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// peek is the first byte of the next token, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.at < len(s.text) {
		return s.text[s.at]
	}
	return 0
}

// end fails where there is more than white space left.
func (s *scanner) end() error {
	if s.peek() != 0 || s.at < len(s.text) {
		return errTrailing
	}
	return nil
}

// value reads one value of any kind and returns its text as it is written.
func (s *scanner) value() ([]byte, error) {
	var err error
	first := s.peek()
	start := s.at
	switch {
	case first == '{':
		err = s.members(func([]byte) error { _, err := s.value(); return err })
	case first == '[':
		err = s.elements(func(int) error { _, err := s.value(); return err })
	case first == '"':
		_, err = s.quoted()
	case first == '-' || first >= '0' && first <= '9':
		err = s.number()
	default:
		err = s.word()
	}
	return s.text[start:s.at], err
}

// members reads an object and calls read for each key, which must read the value. The key comes
// with its quotes, as it is written.
func (s *scanner) members(read func(key []byte) error) error {
	return s.items('}', func(int) error {
		if s.peek() != '"' {
			return errNotJSON
		}
		key, err := s.quoted()
		if err != nil {
			return err
		}
		if s.peek() != ':' {
			return errNotJSON
		}
		s.at++
		return read(key)
	})
}

// elements reads an array and calls read for each index, which must read the value.
func (s *scanner) elements(read func(index int) error) error { return s.items(']', read) }

// items reads what stands between two brackets, whose first has been peeked at.
func (s *scanner) items(closing byte, read func(index int) error) error {
	s.at++
	if s.depth++; s.depth > s.maxDepth {
		return errTooDeep
	}
	if s.peek() == closing {
		s.at++
		s.depth--
		return nil
	}
	for n := 0; ; n++ {
		if err := read(n); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.at++
		case closing:
			s.at++
			s.depth--
			return nil
		default:
			return errNotJSON
		}
	}
}

// quoted reads a string and returns it with its quotes.
func (s *scanner) quoted() ([]byte, error) {
	start := s.at
	s.at++
	for s.at < len(s.text) {
		c := s.text[s.at]
		switch {
		case c == '"':
			s.at++
			return s.text[start:s.at], nil
		case c < ' ':
			return nil, errNotJSON
		case c == '\\':
			if err := s.escape(); err != nil {
				return nil, err
			}
		case c < utf8.RuneSelf:
			s.at++
		default:
			r, size := utf8.DecodeRune(s.text[s.at:])
			if r == utf8.RuneError && size == 1 {
				return nil, errNotUTF8
			}
			s.at += size
		}
	}
	return nil, errNotJSON
}

func (s *scanner) escape() error {
	if s.at+1 >= len(s.text) {
		return errNotJSON
	}
	switch s.text[s.at+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.at += 2
		return nil
	case 'u':
		if s.at+6 > len(s.text) {
			return errNotJSON
		}
		for _, c := range s.text[s.at+2 : s.at+6] {
			if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
				return errNotJSON
			}
		}
		s.at += 6
		return nil
	default:
		return errNotJSON
	}
}

// number reads -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
func (s *scanner) number() error {
	if s.text[s.at] == '-' {
		s.at++
	}
	if s.at < len(s.text) && s.text[s.at] == '0' {
		s.at++
	} else if !s.digits() {
		return errNotJSON
	}
	if s.at < len(s.text) && s.text[s.at] == '.' {
		s.at++
		if !s.digits() {
			return errNotJSON
		}
	}
	if s.at < len(s.text) && s.text[s.at]|0x20 == 'e' {
		s.at++
		if s.at < len(s.text) && (s.text[s.at] == '+' || s.text[s.at] == '-') {
			s.at++
		}
		if !s.digits() {
			return errNotJSON
		}
	}
	return nil
}

func (s *scanner) digits() bool {
	start := s.at
	for s.at < len(s.text) && s.text[s.at] >= '0' && s.text[s.at] <= '9' {
		s.at++
	}
	return s.at > start
}

// word reads true, false or null.
func (s *scanner) word() error {
	for _, w := range [...]string{"true", "false", "null"} {
		if rest := s.text[s.at:]; len(rest) >= len(w) && string(rest[:len(w)]) == w {
			s.at += len(w)
			return nil
		}
	}
	return errNotJSON
}

// unquote is the string that quoted returned, without quotes and escapes. A lone surrogate becomes
// U+FFFD.
func unquote(quoted []byte) string {
	inner := quoted[1 : len(quoted)-1]
	for _, c := range inner {
		if c == '\\' {
			var text string
			if err := json.Unmarshal(quoted, &text); err != nil {
				return "" // quoted checked it
			}
			return text
		}
	}
	return string(inner)
}
