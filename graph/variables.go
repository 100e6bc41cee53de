package graph

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/intervengine/webhooks/graph/scalar"
)

// variableError says what is wrong with a variable. It names the place in words of the schema and
// the document, and never the value.
type variableError struct {
	path, message string
	tooLarge      bool
}

func (e *variableError) Error() string { return e.path + ": " + e.message }

// variableReader reads the variables of a request by the types that its operation gives them, so
// that a value of type JSON stays the text that it came as.
type variableReader struct {
	scanner
	schema *ast.Schema
	limits *Limits
	path   []string
}

// readVariables gives an operation's variables their values: those in text, which is a JSON object
// or empty, and the defaults of the others. Variables that the operation does not define are
// ignored. The document's constants must be bound already, because defaults may be some.
func (l *Limits) readVariables(schema *ast.Schema, op *ast.OperationDefinition, text []byte, variables map[string]any) *gqlerror.Error {
	r := variableReader{scanner: scanner{text: text, maxDepth: l.Nesting}, schema: schema, limits: l}
	if len(text) > 0 {
		r.space()
		err := r.uniqueMembers(func(name string) error {
			def := op.VariableDefinitions.ForName(name)
			if def == nil {
				_, err := r.value()
				return err
			}
			r.path = append(r.path[:0], "$"+name)
			v, err := r.read(def.Type)
			variables[name] = v
			return err
		})
		var bad *variableError
		switch {
		case errors.As(err, &bad) && bad.tooLarge:
			return newError(codeTooComplex, variableMessage(err))
		case err != nil:
			return newError(codeValidationFailed, variableMessage(err))
		}
	}
	for _, def := range op.VariableDefinitions {
		if _, ok := variables[def.Variable]; ok {
			continue
		}
		switch {
		case def.DefaultValue != nil:
			v, err := def.DefaultValue.Value(variables)
			if err != nil {
				return newError(codeValidationFailed, "the default of $"+cut(def.Variable)+" is not valid")
			}
			variables[def.Variable] = v
		case def.Type.NonNull:
			return newError(codeValidationFailed, "$"+cut(def.Variable)+": a value is required")
		}
	}
	return nil
}

func variableMessage(err error) string {
	if err == errDuplicateKey { //nolint:errorlint // it is never wrapped
		return "an object in the variables has the same key twice"
	}
	return cut(err.Error())
}

func (r *variableReader) fail(format string, args ...any) error {
	return &variableError{path: strings.Join(r.path, "."), message: fmt.Sprintf(format, args...)}
}

// within reads a part of the value, by its name or index.
func (r *variableReader) within(step string, t *ast.Type) (any, error) {
	r.path = append(r.path, step)
	v, err := r.read(t)
	if err == nil {
		r.path = r.path[:len(r.path)-1]
	}
	return v, err
}

func (r *variableReader) read(t *ast.Type) (any, error) {
	first := r.peek()
	if first == 'n' {
		if t.NonNull {
			return nil, r.fail("it must not be null")
		}
		_, err := r.value()
		return nil, err
	}
	if t.Elem != nil {
		return r.list(t.Elem, first)
	}
	def := r.schema.Types[t.NamedType]
	switch def.Kind {
	case ast.Scalar:
		return r.scalar(def.Name, first)
	case ast.Enum:
		text, err := r.text(first, "expected one of the values of "+def.Name)
		if err == nil && def.EnumValues.ForName(text) == nil {
			err = r.fail("expected one of the values of %s", def.Name)
		}
		return text, err
	case ast.InputObject:
		return r.object(def, first)
	default:
		return nil, r.fail("%s is not an input type", def.Name)
	}
}

func (r *variableReader) list(elem *ast.Type, first byte) (any, error) {
	if first != '[' {
		v, err := r.read(elem) // one value stands for a list of one
		return []any{v}, err
	}
	list := []any{}
	err := r.elements(func(i int) error {
		switch {
		case elem.NamedType == eventInput:
			if i > r.limits.events { // one too many is enough to be refused
				_, err := r.value()
				return err
			}
		case i >= r.limits.ListInput:
			return &variableError{
				path: strings.Join(r.path, "."), tooLarge: true,
				message: fmt.Sprintf("a list in the arguments has more than %d entries", r.limits.ListInput),
			}
		}
		v, err := r.within(strconv.Itoa(i), elem)
		list = append(list, v)
		return err
	})
	return list, err
}

func (r *variableReader) object(def *ast.Definition, first byte) (any, error) {
	if first != '{' {
		return nil, r.fail("expected an object of type %s", def.Name)
	}
	values := make(map[string]any, len(def.Fields))
	err := r.uniqueMembers(func(name string) error {
		field := def.Fields.ForName(name)
		if field == nil {
			return r.fail("the object has a key that is no field of %s", def.Name)
		}
		v, err := r.within(name, field.Type)
		values[name] = v
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, field := range def.Fields {
		if _, ok := values[field.Name]; !ok && field.Type.NonNull && field.DefaultValue == nil {
			return nil, r.fail("%s is required", field.Name)
		}
	}
	return values, nil
}

func (r *variableReader) text(first byte, expected string) (string, error) {
	if first != '"' {
		return "", r.fail("%s", expected)
	}
	quoted, err := r.quoted()
	if err != nil {
		return "", err
	}
	return unquote(quoted), nil
}

func (r *variableReader) scalar(name string, first byte) (any, error) {
	isNumber := first == '-' || first >= '0' && first <= '9'
	switch name {
	case scalarJSON:
		raw, err := r.value()
		return json.RawMessage(raw), err
	case "String":
		return r.text(first, "expected a text")
	case scalarTime:
		text, err := r.text(first, scalar.ErrTime.Error())
		if err != nil {
			return nil, err
		}
		if _, err := scalar.ParseTime(text); err != nil {
			return nil, r.fail("%s", err)
		}
		return text, nil
	case "Boolean":
		if first != 't' && first != 'f' {
			return nil, r.fail("expected true or false")
		}
		_, err := r.value()
		return first == 't', err
	case "Int":
		if !isNumber {
			return nil, r.fail("expected a whole number")
		}
		return r.int()
	case "Float":
		if !isNumber {
			return nil, r.fail("expected a number")
		}
		raw, err := r.value()
		return json.Number(raw), err
	case "ID":
		if isNumber {
			raw, err := r.value()
			if err == nil && strings.ContainsAny(string(raw), ".eE") {
				err = r.fail("expected a text or a whole number")
			}
			return string(raw), err
		}
		return r.text(first, "expected a text or a whole number")
	default: // URL, Duration: whether the text is one is told with everything else that is wrong
		switch first {
		case '"':
			return r.text(first, "")
		case '{', '[':
			return nil, r.fail("expected a text")
		}
		raw, err := r.value()
		return string(raw), err
	}
}

func (r *variableReader) int() (any, error) {
	raw, err := r.value()
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseInt(string(raw), 10, 32)
	if err == nil {
		return n, nil
	}
	// 20.0 and 2e1 are whole numbers too.
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f != math.Trunc(f) || f < math.MinInt32 || f > math.MaxInt32 {
		return nil, r.fail("an Int is a whole number of 32 bits")
	}
	return int64(f), nil
}
