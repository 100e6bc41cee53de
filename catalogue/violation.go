package catalogue

import (
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	violated "github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/intervengine/webhooks/models"
)

// violationAt is a problem with the value at path.
func violationAt(path []string, format string, args ...any) models.Problem {
	var pointer strings.Builder
	for _, step := range path {
		pointer.WriteString("/" + escapePointer(step))
	}
	text := pointer.String()
	return models.Problem{Code: models.CodeSchemaViolation, Message: fmt.Sprintf(format, args...), Pointer: &text}
}

// violations lists what the library found, in the order of the data's pointers. Messages name what
// the schema asks for, never the value that it got: answers do not echo what callers send.
func violations(e *jsonschema.ValidationError, list models.Problems) models.Problems {
	list = collectViolations(e, list)
	slices.SortStableFunc(list, func(a, b models.Problem) int {
		if c := strings.Compare(*a.Pointer, *b.Pointer); c != 0 {
			return c
		}
		return strings.Compare(a.Message, b.Message)
	})
	list = slices.CompactFunc(list, func(a, b models.Problem) bool { return *a.Pointer == *b.Pointer && a.Message == b.Message })
	if len(list) > maxProblems {
		list = list[:maxProblems]
	}
	return list
}

// nameRefused is what is said of a field that propertyNames refuses.
const nameRefused = "the field's name is not allowed"

func collectViolations(e *jsonschema.ValidationError, list models.Problems) models.Problems {
	at := e.InstanceLocation
	add := func(path []string, format string, args ...any) {
		list = append(list, violationAt(path, format, args...))
	}
	below := func(name string) []string { return append(slices.Clip(at), name) }
	switch k := e.ErrorKind.(type) {
	case *violated.Schema, *violated.Group, *violated.Reference, *violated.AllOf:
		for _, cause := range e.Causes {
			list = collectViolations(cause, list)
		}
	case *violated.Required:
		for _, name := range k.Missing {
			add(at, "the field %s is missing", quote(name))
		}
	case *violated.DependentRequired:
		for _, name := range k.Missing {
			add(at, "the field %s is missing, which %s asks for", quote(name), quote(k.Prop))
		}
	case *violated.AdditionalProperties:
		for _, name := range k.Properties {
			add(below(name), "the field is not allowed")
		}
	case *violated.PropertyNames:
		add(below(k.Property), nameRefused)
	default:
		add(at, "%s", violationText(e.ErrorKind))
	}
	return list
}

func violationText(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *violated.Type:
		return "must be of type " + strings.Join(k.Want, " or ") + ", not " + k.Got
	case *violated.Enum:
		texts := make([]string, 0, len(k.Want))
		for _, v := range k.Want {
			texts = append(texts, fmt.Sprint(v))
		}
		return shorten("must be one of " + strings.Join(texts, ", "))
	case *violated.Const:
		return shorten(fmt.Sprintf("must be %v", k.Want))
	case *violated.FalseSchema:
		return "is not allowed"
	case *violated.Format:
		return "must be of the format " + k.Want
	case *violated.Pattern:
		return "must match the pattern " + quote(k.Want)
	case *violated.MinLength:
		return fmt.Sprintf("must have at least %d characters, not %d", k.Want, k.Got)
	case *violated.MaxLength:
		return fmt.Sprintf("must have at most %d characters, not %d", k.Want, k.Got)
	case *violated.MinItems:
		return fmt.Sprintf("must have at least %d elements, not %d", k.Want, k.Got)
	case *violated.MaxItems:
		return fmt.Sprintf("must have at most %d elements, not %d", k.Want, k.Got)
	case *violated.MinProperties:
		return fmt.Sprintf("must have at least %d fields, not %d", k.Want, k.Got)
	case *violated.MaxProperties:
		return fmt.Sprintf("must have at most %d fields, not %d", k.Want, k.Got)
	case *violated.UniqueItems:
		return fmt.Sprintf("must not have equal elements; %d and %d are", k.Duplicates[0], k.Duplicates[1])
	case *violated.Minimum:
		return "must be at least " + k.Want.RatString()
	case *violated.Maximum:
		return "must be at most " + k.Want.RatString()
	case *violated.ExclusiveMinimum:
		return "must be more than " + k.Want.RatString()
	case *violated.ExclusiveMaximum:
		return "must be less than " + k.Want.RatString()
	case *violated.MultipleOf:
		return "must be a multiple of " + k.Want.RatString()
	case *violated.Contains, *violated.MinContains:
		return "has too few elements of the kind that it must contain"
	case *violated.MaxContains:
		return "has too many elements of the kind that it may contain"
	case *violated.AnyOf:
		return "must match at least one of the schema's alternatives"
	case *violated.OneOf:
		if len(k.Subschemas) > 0 {
			return "must match only one of the schema's alternatives, not several"
		}
		return "must match one of the schema's alternatives"
	case *violated.Not:
		return "must not match what the schema excludes"
	case *violated.RefCycle:
		return "the schema refers to itself without end"
	}
	return "violates " + strings.Join(k.KeywordPath(), "/")
}
