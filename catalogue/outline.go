package catalogue

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/intervengine/webhooks/models"
)

// outline says where the values of a JSON text are and in what order its keys come, which a
// decoded value has forgotten.
type outline struct {
	text    string
	offsets map[string]int      // by JSON pointer: where the value begins
	keys    map[string][]string // by JSON pointer: an object's keys, in order
}

// newOutline reads a text. Of one that is not valid JSON it has what comes before the fault. The
// text must not nest deep, because reading recurses.
func newOutline(text string) *outline {
	o := &outline{text: text, offsets: map[string]int{}, keys: map[string][]string{}}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	o.walk(dec, "")
	return o
}

func (o *outline) walk(dec *json.Decoder, pointer string) bool {
	start := int(dec.InputOffset())
	start += len(o.text[start:]) - len(strings.TrimLeft(o.text[start:], " \t\r\n,:"))
	token, err := dec.Token()
	if err != nil {
		return false
	}
	o.offsets[pointer] = start
	switch token {
	case json.Delim('{'):
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return false
			}
			key, _ := name.(string)
			o.keys[pointer] = append(o.keys[pointer], key)
			if !o.walk(dec, pointer+"/"+escapePointer(key)) {
				return false
			}
		}
		_, err = dec.Token()
	case json.Delim('['):
		for i := 0; dec.More(); i++ {
			if !o.walk(dec, pointer+"/"+strconv.Itoa(i)) {
				return false
			}
		}
		_, err = dec.Token()
	}
	return err == nil
}

// at gives the place of a value, nil where there is none.
func (o *outline) at(pointer string) []models.Location {
	offset, ok := o.offsets[pointer]
	if !ok {
		return nil
	}
	return []models.Location{locate(o.text, offset)}
}

// locate gives line and column of a byte.
func locate(text string, offset int) models.Location {
	before := text[:min(max(offset, 0), len(text))]
	line := 1 + strings.Count(before, "\n")
	return models.Location{Line: line, Column: 1 + utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])}
}

// escapePointer writes a key as a step of a JSON pointer (RFC 6901).
func escapePointer(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

// patternAt gives the pointer of a pattern in a schema that the library refuses: it tells the pattern,
// but another place.
func (o *outline) patternAt(pointer string) string {
	name := pointer[strings.LastIndexByte(pointer, '/')+1:]
	found := pointer
	for at, keys := range o.keys {
		if !strings.HasSuffix(at, "/patternProperties") {
			continue
		}
		for _, key := range keys {
			if full := at + "/" + name; escapePointer(key) == name && (found == pointer || full < found) {
				found = full
			}
		}
	}
	return found
}

// notText gives the place of the first byte that is not text.
func notText(text string) []models.Location {
	for i, r := range text {
		if r == 0 || r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)) {
			return []models.Location{locate(text, i)}
		}
	}
	return nil
}

// afterValue gives the byte where a JSON text goes on after its first value.
func afterValue(text string) int {
	dec := json.NewDecoder(strings.NewReader(text))
	var value json.RawMessage
	if err := dec.Decode(&value); err != nil {
		return 0
	}
	return skipSpace(text, int(dec.InputOffset()))
}

// deeperThan gives the byte where brackets outside of strings nest deeper than so many levels, -1
// where they do not. It does not recurse.
func deeperThan(text string, levels int) int {
	level, inString := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if level++; level > levels {
				return i
			}
		case c == '}' || c == ']':
			level--
		}
	}
	return -1
}
