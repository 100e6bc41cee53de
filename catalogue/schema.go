package catalogue

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	violated "github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/intervengine/webhooks/models"
)

const (
	// maxSchema bounds a schema and an example, in bytes.
	maxSchema = 256 << 10
	// maxSchemaDepth bounds how deep a schema nests.
	maxSchemaDepth = 100
	// maxDataDepth bounds how deep data may nest to be checked.
	maxDataDepth = 500
	// maxChecks bounds how many schemas are applied to one event's data: a few lines of allOf and
	// $ref can ask for any number.
	maxChecks = 1_000_000
	// maxExponent bounds the powers of ten that are computed with exactly.
	maxExponent = 1_000

	schemaURL  = "urn:event-type"
	draft      = "https://json-schema.org/draft/2020-12/schema"
	maxTitle   = 200
	maxSummary = 2_000 // of a description
)

// schema is a compiled JSON Schema. It is safe for concurrent use.
type schema struct {
	text     string
	compiled *jsonschema.Schema
	pool     sync.Pool // of *metered
}

// metered is a schema with a budget, for one caller at a time.
type metered struct {
	schema *jsonschema.Schema
	left   int
}

type noLoader struct{}

var errRemote = errors.New("references to other documents are not followed")

// Load refuses: a schema is complete in itself, and nothing is ever fetched.
func (noLoader) Load(string) (any, error) { return nil, errRemote }

// compileSchema compiles the text of a JSON Schema 2020-12.
func compileSchema(text string) (*schema, models.Problems) {
	doc, problems := decodeSchema(text)
	if len(problems) > 0 {
		return nil, problems
	}
	compiled, err := compileDocument(doc)
	if err != nil {
		return nil, schemaProblems(err, text)
	}
	s := &schema{text: text, compiled: compiled}
	s.pool.New = func() any {
		v := &metered{}
		// It compiled before, and what it was compiled from has not changed.
		if v.schema, err = compileDocument(doc); err != nil {
			panic(fmt.Sprintf("catalogue: compile schema again: %v", err))
		}
		v.meter(v.schema, map[*jsonschema.Schema]bool{})
		return v
	}
	return s, nil
}

func invalidSchema(locations []models.Location, format string, args ...any) models.Problems {
	return models.Problems{{Code: models.CodeInvalidSchema, Message: fmt.Sprintf(format, args...), Locations: locations}}
}

// decodeSchema checks the text before the library sees it.
func decodeSchema(text string) (any, models.Problems) {
	switch {
	case len(text) > maxSchema:
		return nil, models.Problems{{Code: models.CodeTooLarge, Message: fmt.Sprintf("the schema has %d bytes; at most %d are allowed", len(text), maxSchema)}}
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return nil, invalidSchema(notText(text), "the schema must be text without NUL characters")
	}
	if deep := deeperThan(text, maxSchemaDepth); deep >= 0 {
		return nil, invalidSchema([]models.Location{locate(text, deep)}, "the schema nests deeper than %d levels", maxSchemaDepth)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return nil, invalidSchema([]models.Location{locate(text, int(syntax.Offset)-1)}, "the schema is not valid JSON: %s", err)
		}
		return nil, invalidSchema([]models.Location{locate(text, afterValue(text))}, "the schema is not valid JSON: %s", err)
	}
	object, ok := doc.(map[string]any)
	if !ok {
		return nil, invalidSchema(newOutline(text).at(""), "the schema must be a JSON object")
	}
	if named, ok := object["$schema"]; ok {
		if s, _ := named.(string); strings.TrimSuffix(s, "#") != draft {
			return nil, invalidSchema(newOutline(text).at("/$schema"), "$schema must be %s", draft)
		}
	}
	if problem := checkNumbers(doc, nil); problem != nil {
		return nil, invalidSchema(newOutline(text).at(*problem.Pointer), "a number in the schema is out of range")
	}
	return doc, nil
}

func compileDocument(doc any) (compiled *jsonschema.Schema, err error) {
	// The library is handed what strangers write; a fault of it must not end the process.
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("the schema cannot be compiled")
		}
	}()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(noLoader{})
	if err := c.AddResource(schemaURL, doc); err != nil {
		return nil, err
	}
	return c.Compile(schemaURL)
}

var (
	quotedReference = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)
	atPointer       = regexp.MustCompile(`#([^"]*)"`)
)

// schemaProblems says what the library found, with places where it tells them.
func schemaProblems(err error, text string) models.Problems {
	o := newOutline(text)
	var invalid *jsonschema.SchemaValidationError
	var violation *jsonschema.ValidationError
	if errors.As(err, &invalid) && errors.As(invalid.Err, &violation) {
		base := pointerIn(invalid.URL)
		var problems models.Problems
		for _, v := range violations(violation, nil) {
			pointer := base + *v.Pointer
			if v.Message == nameRefused {
				pointer = o.patternAt(pointer)
			}
			if strings.HasSuffix(pointer, "/type") { // the usual mistake, which the library's message does not name
				v.Message = "must be array, boolean, integer, null, number, object, string or a list of these"
			}
			problems = append(problems, models.Problem{
				Code: models.CodeInvalidSchema, Message: "at " + quote(pointer) + ": " + v.Message, Locations: o.at(pointer),
			})
		}
		return problems
	}
	if remote, ok := errors.AsType[*jsonschema.LoadURLError](err); ok {
		return invalidSchema(o.reference(remote.URL), "%s: %s", quote(remote.URL), errRemote)
	}
	if pattern, ok := errors.AsType[*jsonschema.InvalidRegexError](err); ok {
		return invalidSchema(o.at(pointerIn(pattern.URL)), "the pattern %s cannot be used: %s", quote(pattern.Regex), shorten(pattern.Err.Error()))
	}
	message := strings.ReplaceAll(err.Error(), schemaURL, "")
	var locations []models.Location
	if m := quotedReference.FindStringSubmatch(message); m != nil {
		locations = o.reference(m[1])
	}
	if m := atPointer.FindStringSubmatch(err.Error()); locations == nil && m != nil {
		locations = o.at(m[1])
	}
	return invalidSchema(locations, "%s", shorten(message))
}

// pointerIn gives the JSON pointer in a location that the library names.
func pointerIn(location string) string {
	_, fragment, _ := strings.Cut(location, "#")
	if plain, err := url.PathUnescape(fragment); err == nil {
		return plain
	}
	return fragment
}

// reference gives the place where the schema refers to a document, nil where it cannot be found.
func (o *outline) reference(target string) []models.Location {
	document, _, _ := strings.Cut(target, "#")
	for _, keyword := range []string{"$ref", "$dynamicRef", "$schema"} {
		for rest, base := o.text, 0; ; {
			i := strings.Index(rest, strconv.Quote(keyword))
			if i < 0 {
				break
			}
			after := rest[i+len(keyword)+2:]
			if m := quotedReference.FindStringSubmatch(after); m != nil {
				named, _, _ := strings.Cut(m[1], "#")
				if m[1] == target || m[1] != "" && strings.HasSuffix(target, m[1]) || document != "" && named == document {
					return []models.Location{locate(o.text, base+i)}
				}
			}
			base += len(rest) - len(after)
			rest = after
		}
	}
	return nil
}

// meter makes every schema that s leads to count when it is applied.
func (v *metered) meter(s *jsonschema.Schema, seen map[*jsonschema.Schema]bool) {
	if s == nil || seen[s] {
		return
	}
	seen[s] = true
	s.Extensions = append(s.Extensions, v)
	for _, child := range children(s) {
		v.meter(child, seen)
	}
	if s.PropertyNames != nil {
		s.Extensions = append(s.Extensions, fieldNames{s.PropertyNames})
		s.PropertyNames = nil
	}
}

// fieldNames is the keyword propertyNames. The library's own tells a wrong place when there is
// something else in the data behind it.
type fieldNames struct{ schema *jsonschema.Schema }

// Validate holds each name of an object against the schema.
func (f fieldNames) Validate(ctx *jsonschema.ValidatorContext, value any) {
	object, _ := value.(map[string]any)
	for name := range object {
		if f.schema.Validate(name) != nil {
			ctx.AddError(&violated.PropertyNames{Property: name})
		}
	}
}

type budgetError struct{}

func (budgetError) Error() string { return "budget exceeded" }

// Validate takes one from the budget; the library has no other way to stop it than a panic, which
// check catches.
func (v *metered) Validate(*jsonschema.ValidatorContext, any) {
	if v.left--; v.left < 0 {
		panic(budgetError{})
	}
}

func children(s *jsonschema.Schema) []*jsonschema.Schema {
	all := []*jsonschema.Schema{s.Ref, s.Not, s.If, s.Then, s.Else, s.PropertyNames, s.UnevaluatedProperties, s.Contains, s.Items2020, s.UnevaluatedItems}
	if s.DynamicRef != nil {
		all = append(all, s.DynamicRef.Ref)
	}
	for _, list := range [][]*jsonschema.Schema{s.AllOf, s.AnyOf, s.OneOf, s.PrefixItems} {
		all = append(all, list...)
	}
	for _, child := range s.Properties {
		all = append(all, child)
	}
	for _, child := range s.PatternProperties {
		all = append(all, child)
	}
	for _, child := range s.DependentSchemas {
		all = append(all, child)
	}
	if child, ok := s.AdditionalProperties.(*jsonschema.Schema); ok {
		all = append(all, child)
	}
	return all
}

// check says where a JSON text violates the schema: one problem a violation.
func (s *schema) check(text string) (problems models.Problems) {
	if deeperThan(text, maxDataDepth) >= 0 {
		return models.Problems{violationAt(nil, "nests deeper than %d levels", maxDataDepth)}
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return models.Problems{violationAt(nil, "is not valid JSON")}
	}
	if problem := checkNumbers(value, nil); problem != nil {
		return models.Problems{*problem}
	}
	v, _ := s.pool.Get().(*metered)
	defer func() {
		if r := recover(); r != nil {
			problems = models.Problems{violationAt(nil, "takes too much work to check against the schema")}
			return
		}
		s.pool.Put(v)
	}()
	v.left = maxChecks
	var violation *jsonschema.ValidationError
	if err := v.schema.Validate(value); errors.As(err, &violation) {
		return violations(violation, nil)
	}
	return nil
}

// checkNumbers finds a number whose power of ten is too large to compute with: the library would
// write out all of its digits.
func checkNumbers(value any, path []string) *models.Problem {
	switch v := value.(type) {
	case json.Number:
		i := strings.IndexAny(string(v), "eE")
		if i < 0 {
			return nil
		}
		if n, err := strconv.Atoi(string(v)[i+1:]); err != nil || n > maxExponent || n < -maxExponent {
			p := violationAt(path, "the number is out of the range that can be checked")
			return &p
		}
	case map[string]any:
		for key, child := range v {
			if p := checkNumbers(child, append(slices.Clip(path), key)); p != nil {
				return p
			}
		}
	case []any:
		for i, child := range v {
			if p := checkNumbers(child, append(slices.Clip(path), strconv.Itoa(i))); p != nil {
				return p
			}
		}
	}
	return nil
}

// CheckData says where data violates the schema of its type: one SCHEMA_VIOLATION a violation, with
// a JSON pointer to the value that is wrong, or to the object that lacks one. It finds nothing
// where the type is unknown, not strict or has no schema.
func (c *Catalogue) CheckData(eventType, data string) models.Problems {
	e, ok := c.types[eventType]
	if !ok || !e.Strict || e.schema == nil {
		return nil
	}
	return e.schema.check(data)
}
