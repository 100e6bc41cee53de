package graph

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/intervengine/webhooks/graph/scalar"
)

// The names of the scalars that are not GraphQL's own.
const (
	scalarTime     = "Time"
	scalarJSON     = "JSON"
	scalarURL      = "URL"
	scalarDuration = "Duration"
)

// maxJSONNesting is how deep a literal of type JSON may nest.
const maxJSONNesting = 500

// literal is a JSON value that was written into the document. The executor would turn its numbers
// into floats and its objects into maps, so it is taken out, and a variable that no document can
// define stands in its place.
type literal struct {
	variable string
	value    *ast.Value
	text     json.RawMessage // nil: it contains variables, and is written for each request
}

// literalChecker checks the values in a validated document against their types, and takes JSON
// literals out of it.
type literalChecker struct {
	schema   *ast.Schema
	limits   *Limits
	literals []literal
	errs     gqlerror.List
}

func (c *literalChecker) document(doc *ast.QueryDocument) {
	for _, op := range doc.Operations {
		for _, v := range op.VariableDefinitions {
			if v.DefaultValue != nil {
				c.value(v.DefaultValue, v.Type)
			}
		}
		c.directives(op.Directives)
		c.set(op.SelectionSet)
	}
	for _, f := range doc.Fragments {
		c.directives(f.Directives)
		c.set(f.SelectionSet)
	}
}

func (c *literalChecker) set(set ast.SelectionSet) {
	for _, s := range set {
		switch s := s.(type) {
		case *ast.Field:
			for _, a := range s.Arguments {
				c.value(a.Value, s.Definition.Arguments.ForName(a.Name).Type)
			}
			c.directives(s.Directives)
			c.set(s.SelectionSet)
		case *ast.InlineFragment:
			c.directives(s.Directives)
			c.set(s.SelectionSet)
		case *ast.FragmentSpread:
			c.directives(s.Directives)
		}
	}
}

func (c *literalChecker) directives(list ast.DirectiveList) {
	for _, d := range list {
		for _, a := range d.Arguments {
			c.value(a.Value, d.Definition.Arguments.ForName(a.Name).Type)
		}
	}
}

func (c *literalChecker) fail(v *ast.Value, format string, args ...any) {
	if len(c.errs) >= c.limits.ValidationErrors {
		return
	}
	e := newError(codeValidationFailed, fmt.Sprintf(format, args...))
	e.Locations = []gqlerror.Location{{Line: v.Position.Line, Column: v.Position.Column}}
	c.errs = append(c.errs, e)
}

func (c *literalChecker) value(v *ast.Value, t *ast.Type) {
	switch {
	case v.Kind == ast.Variable: // its type was compared with t by the validator
		return
	case v.Kind == ast.NullValue:
		if t.NonNull {
			c.fail(v, "expected a %s, found null", t)
		}
		return
	case t.Elem != nil:
		if v.Kind != ast.ListValue {
			c.value(v, t.Elem) // one value stands for a list of one
			return
		}
		if len(v.Children) > c.limits.ListInput && t.Elem.NamedType != eventInput {
			c.errs = append(c.errs, tooComplex("a list in the arguments has more than %d entries", c.limits.ListInput))
			return
		}
		for _, child := range v.Children {
			c.value(child.Value, t.Elem)
		}
		return
	}
	def := c.schema.Types[t.NamedType]
	switch def.Kind {
	case ast.Scalar:
		c.scalar(v, def.Name)
	case ast.Enum:
		if v.Kind != ast.EnumValue || def.EnumValues.ForName(v.Raw) == nil {
			c.fail(v, "expected one of the values of %s", def.Name)
		}
	case ast.InputObject:
		c.object(v, def)
	default:
		c.fail(v, "%s is not an input type", def.Name)
	}
}

func (c *literalChecker) object(v *ast.Value, def *ast.Definition) {
	if v.Kind != ast.ObjectValue {
		c.fail(v, "expected an object of type %s", def.Name)
		return
	}
	for _, child := range v.Children {
		field := def.Fields.ForName(child.Name)
		if field == nil {
			c.fail(child.Value, "%s has no field %q", def.Name, cut(child.Name))
			continue
		}
		c.value(child.Value, field.Type)
	}
	for _, field := range def.Fields {
		if field.Type.NonNull && field.DefaultValue == nil && v.Children.ForName(field.Name) == nil {
			c.fail(v, "%s.%s is required", def.Name, field.Name)
		}
	}
}

func (c *literalChecker) scalar(v *ast.Value, name string) {
	ok := true
	switch name {
	case "Int":
		if v.Kind != ast.IntValue {
			ok = false
		} else if n, err := strconv.ParseInt(v.Raw, 10, 32); err != nil || n < math.MinInt32 {
			c.fail(v, "an Int is a whole number of 32 bits")
		}
	case "Float":
		ok = v.Kind == ast.IntValue || v.Kind == ast.FloatValue
	case "String":
		ok = v.Kind == ast.StringValue || v.Kind == ast.BlockValue
	case "Boolean":
		ok = v.Kind == ast.BooleanValue
	case "ID":
		ok = v.Kind == ast.StringValue || v.Kind == ast.BlockValue || v.Kind == ast.IntValue
	case scalarTime:
		if ok = v.Kind == ast.StringValue || v.Kind == ast.BlockValue; ok {
			if _, err := scalar.ParseTime(v.Raw); err != nil {
				c.fail(v, "%s", err)
			}
		}
	case scalarURL, scalarDuration:
		// A text that is none is told together with everything else that is wrong with the input.
		ok = v.Kind != ast.ListValue && v.Kind != ast.ObjectValue && v.Kind != ast.EnumValue
	case scalarJSON:
		c.json(v)
	}
	if !ok {
		c.fail(v, "expected a value of type %s", name)
	}
}

// json takes a JSON literal out of the document.
func (c *literalChecker) json(v *ast.Value) {
	constant := true
	if !c.isJSON(v, 0, &constant) {
		return
	}
	taken := *v
	// No name in a document can contain a space.
	l := literal{variable: "literal " + strconv.Itoa(len(c.literals)), value: &taken}
	if constant {
		l.text, _ = appendLiteral(nil, &taken, nil) // isJSON found nothing wrong
	}
	c.literals = append(c.literals, l)
	*v = ast.Value{Kind: ast.Variable, Raw: l.variable, Position: v.Position, Definition: v.Definition, ExpectedType: v.ExpectedType}
}

func (c *literalChecker) isJSON(v *ast.Value, depth int, constant *bool) bool {
	switch v.Kind {
	case ast.Variable:
		*constant = false
	case ast.EnumValue:
		c.fail(v, "a JSON value has no names without quotes but true, false and null")
		return false
	case ast.IntValue:
		if _, err := strconv.ParseInt(v.Raw, 10, 64); err != nil {
			c.fail(v, "an inline whole number must fit 64 bits; pass a larger one in a variable")
			return false
		}
	case ast.ListValue, ast.ObjectValue:
		if depth >= maxJSONNesting {
			c.errs = append(c.errs, tooComplex("a JSON value nests more than %d levels deep", maxJSONNesting))
			return false
		}
		for _, child := range v.Children {
			if !c.isJSON(child.Value, depth+1, constant) {
				return false
			}
		}
	default:
	}
	return true
}

// appendLiteral writes a literal as JSON: numbers with the digits that they were written with, keys in
// their order, strings by their characters.
func appendLiteral(dst []byte, v *ast.Value, variables map[string]any) ([]byte, error) {
	switch v.Kind {
	case ast.IntValue, ast.FloatValue, ast.BooleanValue:
		return append(dst, v.Raw...), nil
	case ast.StringValue, ast.BlockValue:
		return scalar.AppendJSON(dst, v.Raw)
	case ast.Variable:
		return scalar.AppendJSON(dst, variables[v.Raw]) // nil, which is null, where it has no value
	case ast.ListValue:
		return appendChildren(dst, '[', ']', v.Children, variables)
	case ast.ObjectValue:
		// A field whose variable has no value is absent, as in any input object.
		children := slices.DeleteFunc(slices.Clone(v.Children), func(child *ast.ChildValue) bool {
			_, set := variables[child.Value.Raw]
			return child.Value.Kind == ast.Variable && !set
		})
		return appendChildren(dst, '{', '}', children, variables)
	default:
		return append(dst, "null"...), nil
	}
}

func appendChildren(dst []byte, opening, closing byte, children ast.ChildValueList, variables map[string]any) ([]byte, error) {
	var err error
	dst = append(dst, opening)
	for i, child := range children {
		if i > 0 {
			dst = append(dst, ',')
		}
		if opening == '{' {
			if dst, err = scalar.AppendJSON(dst, child.Name); err != nil {
				return dst, err
			}
			dst = append(dst, ':')
		}
		if dst, err = appendLiteral(dst, child.Value, variables); err != nil {
			return dst, err
		}
	}
	return append(dst, closing), nil
}

// bindConstants adds the document's JSON literals without variables in them to the variables of a
// request. They were written once, when the document was checked.
func (d *document) bindConstants(variables map[string]any) {
	for _, l := range d.literals {
		if l.text != nil {
			variables[l.variable] = l.text
		}
	}
}

// bindOthers adds the literals that have variables in them, once these have their values.
func (d *document) bindOthers(variables map[string]any) error {
	for _, l := range d.literals {
		if l.text == nil {
			text, err := appendLiteral(nil, l.value, variables)
			if err != nil {
				return err
			}
			variables[l.variable] = json.RawMessage(text)
		}
	}
	return nil
}
