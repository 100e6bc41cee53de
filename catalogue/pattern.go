package catalogue

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/intervengine/webhooks/models"
)

const (
	// maxPatterns bounds a webhook's event types.
	maxPatterns = 100
	// noticePrefix begins the names that only the system emits.
	noticePrefix = "webhook."
	// anyType is the pattern that matches everything but notices.
	anyType = "*"
)

var prefixPattern = regexp.MustCompile(`^[a-z0-9_]+(\.[a-z0-9_]+)*\.\*$`)

// MatchPattern reports whether a webhook with this pattern gets events of this type. An exact
// name matches itself; "participant.*" matches every name that begins with "participant."; "*"
// matches all but the notices, which only their exact names match.
func MatchPattern(pattern, eventType string) bool {
	if pattern == eventType {
		return true
	}
	if strings.HasPrefix(eventType, noticePrefix) {
		return false
	}
	if pattern == anyType {
		return true
	}
	prefix, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasSuffix(prefix, ".") && len(eventType) > len(prefix) && strings.HasPrefix(eventType, prefix)
}

// MatchPatterns reports whether any of the patterns matches.
func MatchPatterns(patterns []string, eventType string) bool {
	for _, p := range patterns {
		if MatchPattern(p, eventType) {
			return true
		}
	}
	return false
}

// CheckPatterns says what is wrong with a webhook's event types: 1 to 100 patterns, no pattern
// twice, exact names of types that exist and are not archived, "prefix.*" (whose types may come
// later) or "*".
func (c *Catalogue) CheckPatterns(patterns []string) models.Problems {
	var problems models.Problems
	if len(patterns) == 0 {
		problems.Add(models.CodeRequired, nil, `name at least one event type, for example "participant.created", "participant.*" or "*"`)
	}
	if len(patterns) > maxPatterns {
		problems.Add(models.CodeTooLarge, nil, "%d event types; at most %d are allowed", len(patterns), maxPatterns)
		return problems
	}
	seen := make(map[string]bool, len(patterns))
	for _, p := range patterns {
		if seen[p] {
			problems.Add(models.CodeInvalid, nil, "%s is named twice", quote(p))
			continue
		}
		seen[p] = true
		if problem := c.checkPattern(p); problem != nil {
			problems = append(problems, *problem)
		}
	}
	return problems
}

func (c *Catalogue) checkPattern(p string) *models.Problem {
	bad := func(code models.ProblemCode, format string, args ...any) *models.Problem {
		return &models.Problem{Code: code, Message: fmt.Sprintf(format, args...)}
	}
	if p == anyType {
		return nil
	}
	if strings.Contains(p, "*") {
		switch {
		case len(p) > maxNameLength || !prefixPattern.MatchString(p):
			return bad(models.CodeInvalid, `%s is not a pattern; a star stands alone or after a whole prefix, as in "participant.*"`, quote(p))
		case strings.HasPrefix(p, noticePrefix):
			return bad(models.CodeInvalid, "the notices webhook.* must be named one by one: %s, %s", NoticeFailing, NoticeDisabled)
		}
		return nil
	}
	t, ok := c.Type(p)
	switch {
	case !ok:
		return bad(models.CodeUnknownEventType, "%s", c.UnknownType(p))
	case t.Status == models.EventTypeArchived:
		return bad(models.CodeNotAllowedNow, "event type %s is archived and takes no new subscriptions", p)
	}
	return nil
}

// UnknownType is a sentence for a person who named an event type that does not exist; it offers
// the nearest one.
func (c *Catalogue) UnknownType(name string) string {
	text := "event type " + quote(name) + " does not exist"
	if near := nearest(name, c.names); near != "" {
		text += "; did you mean " + quote(near) + "?"
	}
	return text
}

// quote shows a caller's text in a message: quoted, on one line, and not at any length.
func quote(text string) string {
	const most = 100
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return fmt.Sprintf("%q", text)
}

// nearest gives the candidate that is the fewest edits away, "" where none is near. Of equally
// near ones it is the first.
func nearest(name string, candidates []string) string {
	const longest = 100 // of a name that is compared: the work is quadratic
	if len(name) > longest {
		return ""
	}
	// Two edits are an exchange of neighbours, the most usual mistake; in a word of three letters
	// they would leave next to nothing.
	most := max(2, len(name)/3)
	if len(name) <= 3 {
		most = 1
	}
	best, bestDistance := "", most+1
	for _, candidate := range candidates {
		if len(candidate) > longest {
			continue
		}
		if d := distance(strings.ToLower(name), strings.ToLower(candidate)); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// distance counts the insertions, deletions and substitutions that turn a into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
