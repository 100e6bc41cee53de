package graph

import (
	"slices"
)

// request is what a caller asks for, as it came: variables are decoded when the operation tells
// their types.
type request struct {
	query         string
	operationName string
	variables     []byte // the text of a JSON object, empty for none
}

// malformedError is a body that is JSON and still no GraphQL request.
type malformedError struct{ message string }

func (e *malformedError) Error() string { return e.message }

// parseRequest reads the body of a request: one JSON object and nothing after it. Keys count as they
// are written; those that GraphQL over HTTP does not name are ignored.
func parseRequest(body []byte, maxDepth int) (request, error) {
	s := scanner{text: body, maxDepth: maxDepth}
	switch s.peek() {
	case '{':
	case '[':
		// Batches would multiply every limit.
		return request{}, &malformedError{"the body must be one request, not a list of them"}
	default:
		if _, err := s.value(); err != nil {
			return request{}, err
		}
		return request{}, &malformedError{"the body must be a JSON object"}
	}
	var r request
	var found bool
	err := s.uniqueMembers(func(key string) error {
		switch key {
		case "query":
			if s.peek() != '"' {
				return &malformedError{`"query" must be a text`}
			}
			text, err := s.quoted()
			if err == nil {
				r.query, found = unquote(text), true
			}
			return err
		case "operationName":
			return s.orNull('"', `"operationName" must be a text or null`, func(text []byte) { r.operationName = unquote(text) })
		case "variables":
			return s.orNull('{', `"variables" must be an object or null`, func(text []byte) { r.variables = text })
		case "extensions":
			return s.orNull('{', `"extensions" must be an object or null`, func([]byte) {})
		default:
			_, err := s.value()
			return err
		}
	})
	switch {
	case err != nil:
		return request{}, err
	case s.end() != nil:
		return request{}, errTrailing
	case !found:
		return request{}, &malformedError{`the body has no "query"`}
	}
	return r, nil
}

// orNull reads a value that starts with first, or null.
func (s *scanner) orNull(first byte, message string, found func(text []byte)) error {
	start := s.peek()
	if start != first && start != 'n' {
		return &malformedError{message}
	}
	text, err := s.value()
	if err == nil && start == first {
		found(text)
	}
	return err
}

// uniqueMembers is members for objects whose keys mean something to us: a key that comes twice is
// refused, because two readers of the same request could take different ones.
func (s *scanner) uniqueMembers(read func(key string) error) error {
	var few [8]string
	seen := few[:0]
	var many map[string]struct{}
	return s.members(func(quoted []byte) error {
		key := unquote(quoted)
		if many == nil {
			if slices.Contains(seen, key) {
				return errDuplicateKey
			}
			if seen = append(seen, key); len(seen) > len(few) {
				many = make(map[string]struct{}, 2*len(seen))
				for _, k := range seen {
					many[k] = struct{}{}
				}
			}
		} else {
			if _, ok := many[key]; ok {
				return errDuplicateKey
			}
			many[key] = struct{}{}
		}
		return read(key)
	})
}
