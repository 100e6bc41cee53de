package control

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/intervengine/webhooks/models"
)

// Bounds of what a webhook may say.
const (
	maxName         = 200
	maxURL          = 2048
	maxExternalID   = 200
	maxEventTypes   = 100
	maxHeaders      = 20
	maxFilter       = 4 << 10
	maxPayloadQuery = 16 << 10
	maxSteps        = 50
	maxStep         = 7 * 24 * time.Hour
	minTimeout      = time.Millisecond
	maxTimeout      = 60 * time.Second
	maxRate         = 1_000_000
	maxOverlap      = 7 * 24 * time.Hour
)

// checker collects what is wrong with one call. Its paths begin with prefix.
type checker struct {
	prefix   []string
	problems models.Problems
}

func (k *checker) add(code models.ProblemCode, path []string, format string, args ...any) {
	k.problems.Add(code, k.path(path...), format, args...)
}

func (k *checker) path(path ...string) []string {
	return append(append(make([]string, 0, len(k.prefix)+len(path)), k.prefix...), path...)
}

// adopt takes over what another package found wrong with the value at path.
func (k *checker) adopt(found models.Problems, path ...string) {
	for _, p := range found {
		p.Path = append(k.path(path...), p.Path...)
		k.problems = append(k.problems, p)
	}
}

// name checks a name that a person gives something.
func (k *checker) name(name string, field string) {
	switch {
	case strings.TrimSpace(name) == "":
		k.add(models.CodeRequired, []string{field}, "a name is needed, of 1 to %d characters", maxName)
	case utf8.RuneCountInString(name) > maxName:
		k.add(models.CodeTooLong, []string{field}, "the name has %d characters, at most %d are allowed",
			utf8.RuneCountInString(name), maxName)
	case !printable(name):
		k.add(models.CodeInvalid, []string{field}, "the name must be valid UTF-8 without control characters")
	}
}

func (k *checker) externalID(id string) {
	path := []string{"externalId"}
	switch {
	case id == "":
		k.add(models.CodeInvalid, path, "an external id has 1 to %d characters; leave it out to have none", maxExternalID)
	case utf8.RuneCountInString(id) > maxExternalID:
		k.add(models.CodeTooLong, path, "the external id has %d characters, at most %d are allowed",
			utf8.RuneCountInString(id), maxExternalID)
	case !printable(id):
		k.add(models.CodeInvalid, path, "the external id must be valid UTF-8 without control characters")
	}
}

// printable refuses what could disguise a text in a log or on a screen, and what Postgres cannot
// store.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
	})
}

// duration reads a length of time that must lie between the bounds.
func (k *checker) duration(text string, least, most time.Duration, path ...string) time.Duration {
	d, err := models.ParseDuration(text)
	switch {
	case err != nil:
		k.add(models.CodeInvalid, path, "%s", models.ErrDuration.Error())
	case d < least || d > most:
		k.add(models.CodeInvalid, path, "must be from %s to %s", models.FormatDuration(least), models.FormatDuration(most))
	case d%time.Millisecond != 0:
		k.add(models.CodeInvalid, path, "must be whole milliseconds")
	}
	return d
}

func (k *checker) timeout(text string) models.Millis {
	return models.Millis(k.duration(text, minTimeout, maxTimeout, "timeout"))
}

func (k *checker) schedule(steps []string) models.Schedule {
	if len(steps) > maxSteps {
		k.add(models.CodeTooLong, []string{"retrySchedule"}, "the schedule has %d steps, at most %d are allowed", len(steps), maxSteps)
		return nil
	}
	schedule := make(models.Schedule, 0, len(steps))
	for i, step := range steps {
		schedule = append(schedule, k.duration(step, time.Millisecond, maxStep, "retrySchedule", itoa(i)))
	}
	return schedule
}

func (k *checker) rate(perSecond int) {
	if perSecond < 1 || perSecond > maxRate {
		k.add(models.CodeInvalid, []string{"rateLimitPerSecond"}, "must be from 1 to %d; leave it out to have no limit", maxRate)
	}
}

// text checks the length of a filter or a payload query before it is compiled.
func (k *checker) text(text string, most int, field string) bool {
	if len(text) > most {
		k.add(models.CodeTooLong, []string{field}, "has %d bytes, at most %d are allowed", len(text), most)
		return false
	}
	return true
}
