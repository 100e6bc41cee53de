package catalogue

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

const (
	// maxBody bounds a shaped body, in bytes: aliases can ask for one value any number of times.
	maxBody = 1 << 20
	// maxScanned bounds the bytes that are looked at for one body.
	maxScanned = 32 << 20
	// fewSources is up to how many fields are faster compared one by one than looked up.
	fewSources = 8
)

// plan says what becomes of an object. It is immutable after prepare.
type plan struct {
	fields  []planField
	sources []string       // names to look for, each once
	lookup  map[string]int // sources by name, where they are many
}

// planField is one field of the result.
type planField struct {
	key      string // quoted, with its colon
	constant string // what it always is, "" where it depends
	typename bool   // the name of the event's GraphQL type
	whole    bool   // the object itself
	source   int    // else: which source
	within   *plan  // what becomes of objects in the value; nil: it stays as it is
}

// source gives the position of a name among the sources.
func (p *plan) source(name string) int {
	for i, s := range p.sources {
		if s == name {
			return i
		}
	}
	p.sources = append(p.sources, name)
	return len(p.sources) - 1
}

func (p *plan) prepare() {
	if len(p.sources) <= fewSources {
		return
	}
	p.lookup = make(map[string]int, len(p.sources))
	for i, s := range p.sources {
		p.lookup[s] = i
	}
}

// find gives the source with this name, -1 where none is wanted.
func (p *plan) find(name string) int {
	if p.lookup != nil {
		if i, ok := p.lookup[name]; ok {
			return i
		}
		return -1
	}
	for i, s := range p.sources {
		if s == name {
			return i
		}
	}
	return -1
}

var (
	errBodyTooLarge = fmt.Errorf("the shaped data is larger than %d bytes", maxBody)
	errScanned      = errors.New("the payload query does too much work for this event")
)

// projection is the state of one projection.
type projection struct {
	data     string
	out      []byte
	spans    []span // a stack: of each object that is open, where its sources' values are
	typename string
	scanned  int
}

// span is a value's place in data; the zero span stands for a value that is missing.
type span struct{ start, end int }

var projections = sync.Pool{New: func() any { return new(projection) }}

// project writes what the plan makes of a JSON object. It copies values byte for byte and decodes
// none. Data that is not valid JSON gives an error or nonsense, never a panic.
func (p *plan) project(data, typename string) (string, error) {
	r, _ := projections.Get().(*projection)
	r.data, r.out, r.spans, r.typename, r.scanned = data, r.out[:0], r.spans[:0], typename, 0
	defer func() {
		r.data = ""
		if cap(r.out) <= maxBody {
			projections.Put(r)
		}
	}()
	start := skipSpace(data, 0)
	if start == len(data) || data[start] != '{' {
		return "", errData
	}
	if err := r.object(p, start); err != nil {
		return "", err
	}
	return string(r.out), nil
}

// object writes what p makes of the object at start.
func (r *projection) object(p *plan, start int) error {
	base := len(r.spans)
	for range p.sources {
		r.spans = append(r.spans, span{})
	}
	end, err := r.locate(p, start, base)
	if err != nil {
		return err
	}
	r.out = append(r.out, '{')
	for i := range p.fields {
		f := &p.fields[i]
		if i > 0 {
			r.out = append(r.out, ',')
		}
		r.out = append(r.out, f.key...)
		switch {
		case f.constant != "":
			r.out = append(r.out, f.constant...)
		case f.typename:
			r.out = strconv.AppendQuote(r.out, r.typename)
		case f.whole:
			r.out = append(r.out, r.data[start:end]...)
		default:
			if err := r.value(f.within, r.spans[base+f.source]); err != nil {
				return err
			}
		}
		if len(r.out) > maxBody {
			return errBodyTooLarge
		}
	}
	r.out = append(r.out, '}')
	r.spans = r.spans[:base]
	return nil
}

// value writes a value: objects as within has it, in lists as well; all else as it is.
func (r *projection) value(within *plan, v span) error {
	switch {
	case v.end == 0:
		r.out = append(r.out, "null"...)
		return nil
	case within != nil && r.data[v.start] == '{':
		return r.object(within, v.start)
	case within != nil && r.data[v.start] == '[':
		return r.list(within, v)
	}
	if len(r.out)+v.end-v.start > maxBody {
		return errBodyTooLarge
	}
	r.out = append(r.out, r.data[v.start:v.end]...)
	return nil
}

func (r *projection) list(within *plan, v span) error {
	r.out = append(r.out, '[')
	i := skipSpace(r.data, v.start+1)
	for first := true; i < v.end && r.data[i] != ']'; first = false {
		if !first {
			r.out = append(r.out, ',')
		}
		end, err := r.skip(i)
		if err != nil {
			return err
		}
		if err := r.value(within, span{i, end}); err != nil {
			return err
		}
		if len(r.out) > maxBody {
			return errBodyTooLarge
		}
		i = skipSpace(r.data, end)
		if i < v.end && r.data[i] == ',' {
			i = skipSpace(r.data, i+1)
		}
	}
	r.out = append(r.out, ']')
	return nil
}

// locate finds the values of p's sources in the object at start, and gives its end. Of a key that
// comes twice the last one counts, as for every decoder.
func (r *projection) locate(p *plan, start, base int) (int, error) {
	data := r.data
	i := skipSpace(data, start+1)
	for i < len(data) && data[i] != '}' {
		if data[i] != '"' {
			return 0, errData
		}
		keyEnd := skipString(data, i)
		if keyEnd < 0 {
			return 0, errData
		}
		name := data[i+1 : keyEnd-1]
		if strings.IndexByte(name, '\\') >= 0 {
			name = unquote(data[i:keyEnd])
		}
		i = skipSpace(data, keyEnd)
		if i == len(data) || data[i] != ':' {
			return 0, errData
		}
		i = skipSpace(data, i+1)
		end, err := r.skip(i)
		if err != nil {
			return 0, err
		}
		if n := p.find(name); n >= 0 {
			r.spans[base+n] = span{i, end}
		}
		i = skipSpace(data, end)
		if i < len(data) && data[i] == ',' {
			i = skipSpace(data, i+1)
		}
	}
	if i >= len(data) {
		return 0, errData
	}
	return i + 1, nil
}

// unquote decodes a key that has escapes. It is apart because a variable whose address is taken
// would be allocated for every key.
func unquote(quoted string) string {
	var name string
	if err := json.Unmarshal([]byte(quoted), &name); err != nil {
		return "" // not JSON: no plan looks for it
	}
	return name
}

// skip gives the end of the value at start, without recursion.
func (r *projection) skip(start int) (int, error) {
	end := skipValue(r.data, start)
	if end < 0 {
		return 0, errData
	}
	if r.scanned += end - start; r.scanned > maxScanned {
		return 0, errScanned
	}
	return end, nil
}

// skipValue gives the end of the JSON value that begins at start, -1 where there is none.
func skipValue(data string, start int) int {
	if start >= len(data) {
		return -1
	}
	switch data[start] {
	case '"':
		return skipString(data, start)
	case '{', '[':
		level := 0
		for i := start; i < len(data); i++ {
			switch data[i] {
			case '"':
				if i = skipString(data, i) - 1; i < 0 {
					return -1
				}
			case '{', '[':
				level++
			case '}', ']':
				if level--; level == 0 {
					return i + 1
				}
			}
		}
		return -1
	}
	i := start
	for i < len(data) && strings.IndexByte(",]} \t\r\n:\"[{", data[i]) < 0 {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// skipString gives the end of the JSON text that begins at start, -1 where it has none.
func skipString(data string, start int) int {
	for i := start + 1; ; {
		n := strings.IndexByte(data[i:], '"')
		if n < 0 {
			return -1
		}
		end := i + n
		escapes := 0
		for end-1-escapes > start && data[end-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return end + 1
		}
		i = end + 1
	}
}

func skipSpace(data string, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r') {
		i++
	}
	return i
}
