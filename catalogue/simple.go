package catalogue

import (
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// A tenant's filters are mostly comparisons of a field with a constant, and an event is matched
// with thousands of them. Those are decided here, on CEL's own values and with CEL's own equality
// and order, but without its interpreter, and each field is looked up once for all of them. A
// property test holds the two against each other.

// path is a field of the event, such as data.participant.id. Equal paths of one filterCache are
// one pointer.
type path struct {
	root  string
	steps []string
}

// resolved is what a path leads to.
type resolved struct {
	value ref.Val
	err   error
}

// condition decides a simple clause.
type condition func(s *Subject, vars *variables) (ref.Val, error)

var errNoOverload = errors.New("no such overload")

// simple gives the condition of an expression that is one, nil for the others.
func (c *filterCache) simple(e ast.Expr) condition {
	if p := c.pathOf(e); p != nil {
		return func(s *Subject, vars *variables) (ref.Val, error) { return s.resolve(p, vars) }
	}
	switch e.Kind() {
	case ast.SelectKind:
		return c.simplePresence(e)
	case ast.CallKind:
		return c.simpleCall(e.AsCall())
	case ast.UnspecifiedExprKind, ast.ComprehensionKind, ast.IdentKind, ast.ListKind, ast.LiteralKind, ast.MapKind, ast.StructKind:
	}
	return nil
}

// pathOf gives the path that an expression is, nil for the others.
func (c *filterCache) pathOf(e ast.Expr) *path {
	var steps []string
	for e.Kind() == ast.SelectKind && !e.AsSelect().IsTestOnly() {
		steps = append([]string{e.AsSelect().FieldName()}, steps...)
		e = e.AsSelect().Operand()
	}
	if e.Kind() != ast.IdentKind {
		return nil
	}
	root := e.AsIdent()
	switch {
	case root == "data" && len(steps) > 0:
	case (root == "id" || root == "type") && len(steps) == 0:
	default:
		return nil
	}
	// Steps come from identifiers or backticks, which have no line feed.
	key := root + "\n" + strings.Join(steps, "\n")
	return c.paths.get(key, maxCached, func() *path { return &path{root, steps} })
}

// simplePresence is has(path).
func (c *filterCache) simplePresence(e ast.Expr) condition {
	operand, name := e.AsSelect().Operand(), e.AsSelect().FieldName()
	if operand.Kind() == ast.IdentKind && operand.AsIdent() == "data" {
		return func(_ *Subject, vars *variables) (ref.Val, error) {
			_, ok := vars.data[name]
			return types.Bool(ok), nil
		}
	}
	p := c.pathOf(operand)
	if p == nil || p.root != "data" {
		return nil
	}
	return func(s *Subject, vars *variables) (ref.Val, error) {
		v, err := s.resolve(p, vars)
		if err != nil {
			return nil, err
		}
		switch v := v.(type) {
		case traits.Mapper:
			_, ok := v.Find(types.String(name))
			return types.Bool(ok), nil
		case traits.Lister:
			return nil, errNoOverload
		}
		return types.False, nil // CEL makes a difference between lists and what else has no fields
	}
}

func (c *filterCache) simpleCall(call ast.CallExpr) condition {
	args := call.Args()
	if call.FunctionName() == operators.LogicalNot && len(args) == 1 {
		return negated(c.simple(args[0]))
	}
	if len(args) != 2 {
		return nil
	}
	if call.FunctionName() == operators.In {
		return c.simpleMembership(args[0], args[1])
	}
	compare := comparison(call.FunctionName())
	if compare == nil {
		return nil
	}
	if p := c.pathOf(args[0]); p != nil && isScalar(args[1]) {
		constant := args[1].AsLiteral()
		return func(s *Subject, vars *variables) (ref.Val, error) {
			v, err := s.resolve(p, vars)
			if err != nil {
				return nil, err
			}
			return compare(v, constant)
		}
	}
	if p := c.pathOf(args[1]); p != nil && isScalar(args[0]) {
		constant := args[0].AsLiteral()
		return func(s *Subject, vars *variables) (ref.Val, error) {
			v, err := s.resolve(p, vars)
			if err != nil {
				return nil, err
			}
			return compare(constant, v)
		}
	}
	return nil
}

func negated(inner condition) condition {
	if inner == nil {
		return nil
	}
	return func(s *Subject, vars *variables) (ref.Val, error) {
		v, err := inner(s, vars)
		if err != nil {
			return nil, err
		}
		b, ok := v.(types.Bool)
		if !ok {
			return nil, errNoOverload
		}
		return !b, nil
	}
}

// simpleMembership is path in [constants].
func (c *filterCache) simpleMembership(element, list ast.Expr) condition {
	p := c.pathOf(element)
	if p == nil || !isScalarList(list) {
		return nil
	}
	var constants []ref.Val
	for _, e := range list.AsList().Elements() {
		constants = append(constants, e.AsLiteral())
	}
	return func(s *Subject, vars *variables) (ref.Val, error) {
		v, err := s.resolve(p, vars)
		if err != nil {
			return nil, err
		}
		for _, constant := range constants {
			if types.Equal(v, constant) == types.True {
				return types.True, nil
			}
		}
		return types.False, nil
	}
}

// comparison gives what an operator does, nil for operators that do not compare.
func comparison(operator string) func(a, b ref.Val) (ref.Val, error) {
	order := func(holds func(sign types.Int) bool) func(a, b ref.Val) (ref.Val, error) {
		return func(a, b ref.Val) (ref.Val, error) {
			comparer, ok := a.(traits.Comparer)
			if !ok {
				return nil, errNoOverload
			}
			sign, ok := comparer.Compare(b).(types.Int)
			if !ok {
				return nil, errNoOverload
			}
			return types.Bool(holds(sign)), nil
		}
	}
	switch operator {
	case operators.Equals:
		return func(a, b ref.Val) (ref.Val, error) { return types.Bool(types.Equal(a, b) == types.True), nil }
	case operators.NotEquals:
		return func(a, b ref.Val) (ref.Val, error) { return types.Bool(types.Equal(a, b) != types.True), nil }
	case operators.Less:
		return order(func(sign types.Int) bool { return sign < 0 })
	case operators.LessEquals:
		return order(func(sign types.Int) bool { return sign <= 0 })
	case operators.Greater:
		return order(func(sign types.Int) bool { return sign > 0 })
	case operators.GreaterEquals:
		return order(func(sign types.Int) bool { return sign >= 0 })
	}
	return nil
}

// resolve gives what a path leads to, looked up once.
func (s *Subject) resolve(p *path, vars *variables) (ref.Val, error) {
	if r, ok := s.resolved[p]; ok {
		return r.value, r.err
	}
	value, err := p.lookUp(vars)
	if s.resolved == nil {
		s.resolved = map[*path]resolved{}
	}
	s.resolved[p] = resolved{value, err}
	return value, err
}

func (p *path) lookUp(vars *variables) (ref.Val, error) {
	v, _ := vars.ResolveName(p.root)
	for _, step := range p.steps {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, errNoOverload
		}
		if v, ok = m[step]; !ok {
			return nil, fmt.Errorf("no such key: %s", step)
		}
	}
	return types.DefaultTypeAdapter.NativeToValue(v), nil
}
