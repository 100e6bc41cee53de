package catalogue

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/intervengine/webhooks/models"
)

var typeName = regexp.MustCompile(`^[a-z0-9_]+(\.[a-z0-9_]+)+$`)

// CheckType says what is wrong with an event type that is to be written. Unlike elsewhere in this
// package the problems have paths, relative to the event type: name, title, description, schema,
// example or status.
func (c *Catalogue) CheckType(t models.EventType) models.Problems {
	problems := c.checkName(t.Name)
	problems = append(problems, checkText("title", &t.Title, maxTitle)...)
	problems = append(problems, checkText("description", t.Description, maxSummary)...)
	switch t.Status {
	case models.EventTypeActive, models.EventTypeDeprecated, models.EventTypeArchived:
	default:
		problems.Add(models.CodeInvalid, []string{"status"}, "the status must be ACTIVE, DEPRECATED or ARCHIVED")
	}
	var s *schema
	if t.Schema != nil {
		compiled, bad := compileSchema(*t.Schema)
		if s = compiled; s != nil {
			bad = recursionIn(s)
		}
		problems = append(problems, under("schema", bad)...)
	} else if t.Strict {
		problems.Add(models.CodeRequired, []string{"schema"}, "a strict event type needs a schema")
	}
	if t.Example != nil {
		problems = append(problems, under("example", checkExample(*t.Example, s))...)
	}
	return problems
}

func under(name string, problems models.Problems) models.Problems {
	for i := range problems {
		problems[i].Path = []string{name}
	}
	return problems
}

func (c *Catalogue) checkName(name string) models.Problems {
	var problems models.Problems
	path := []string{"name"}
	switch {
	case name == "":
		problems.Add(models.CodeRequired, path, "the event type needs a name, such as order.created")
	case len(name) > maxNameLength:
		problems.Add(models.CodeTooLong, path, "the name has %d characters; at most %d are allowed", utf8.RuneCountInString(name), maxNameLength)
	case !typeName.MatchString(name):
		problems.Add(models.CodeInvalid, path, "the name must be two or more words of a–z, 0–9 and _ with dots between them, such as order.created")
	case strings.HasPrefix(name, noticePrefix):
		problems.Add(models.CodeInvalid, path, "names that begin with %s are reserved for the system's own notices", noticePrefix)
	default:
		if _, exists := c.types[name]; exists {
			break
		}
		if other := c.graphqlOwner(graphqlName(name)); other != "" {
			problems.Add(models.CodeInvalid, path, "the name would be %s in payload queries, which %s is already", graphqlName(name), other)
		}
	}
	return problems
}

func checkText(name string, text *string, most int) models.Problems {
	var problems models.Problems
	switch {
	case text == nil:
	case utf8.RuneCountInString(*text) > most:
		problems.Add(models.CodeTooLong, []string{name}, "the %s has %d characters; at most %d are allowed", name, utf8.RuneCountInString(*text), most)
	case !utf8.ValidString(*text) || strings.ContainsRune(*text, 0):
		problems.Add(models.CodeInvalid, []string{name}, "the %s must be text without NUL characters", name)
	}
	return problems
}

// checkExample says what is wrong with an example; s may be nil.
func checkExample(text string, s *schema) models.Problems {
	if len(text) > maxSchema {
		return models.Problems{{Code: models.CodeTooLarge, Message: fmt.Sprintf("the example has %d bytes; at most %d are allowed", len(text), maxSchema)}}
	}
	invalid := models.Problems{{Code: models.CodeInvalid, Message: "the example must be a JSON object"}}
	if !utf8.ValidString(text) || deeperThan(text, maxDataDepth) >= 0 {
		return invalid
	}
	if _, err := decodeData(text); err != nil {
		return invalid
	}
	if s == nil {
		return nil
	}
	return s.check(text)
}
