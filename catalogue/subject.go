package catalogue

import (
	"errors"
	"time"

	"cel.dev/cel-go/cel"
)

// maxMatchTime bounds the time that all filters that loop may take together for one event.
const maxMatchTime = 2 * time.Second

// Subject is an event while it is matched: its data is decoded once, when the first filter asks.
// It serves any number of filters and payload queries, one after the other; it is not safe for
// concurrent use.
type Subject struct {
	event    Event
	vars     *variables
	err      error
	spent    time.Duration // by filters that loop
	bodies   map[*Shape]body
	resolved map[*path]resolved
}

// NewSubject prepares an event. Data that is not a JSON object fails in every filter and payload
// query that looks at it.
func NewSubject(ev Event) *Subject { return &Subject{event: ev} }

var errData = errors.New("the event's data is not a JSON object")

// variables are what filters can name.
type variables struct {
	id, name  string
	timestamp time.Time
	data      map[string]any
}

func (s *Subject) variables() (*variables, error) {
	if s.vars == nil && s.err == nil {
		data, err := decodeData(s.event.Data)
		if err != nil {
			s.err = errData
			return nil, errData
		}
		s.vars = &variables{id: s.event.ID, name: s.event.Type, timestamp: s.event.Timestamp, data: data}
	}
	return s.vars, s.err
}

// ResolveName gives a variable's value.
func (v *variables) ResolveName(name string) (any, bool) {
	switch name {
	case "data":
		return v.data, true
	case "type":
		return v.name, true
	case "id":
		return v.id, true
	case "timestamp":
		return v.timestamp, true
	}
	return nil, false
}

// Parent gives nil: there are no outer variables.
func (v *variables) Parent() cel.Activation { return nil }

// body is what a payload query made of the event.
type body struct {
	text string
	err  error
}

// body gives what a payload query makes of the event, once for all webhooks that share it.
func (s *Subject) body(shape *Shape) (string, error) {
	if known, ok := s.bodies[shape]; ok {
		return known.text, known.err
	}
	text, err := shape.Body(s)
	if s.bodies == nil {
		s.bodies = map[*Shape]body{}
	}
	s.bodies[shape] = body{text, err}
	return text, err
}
