package catalogue

import (
	"maps"
	"math"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// wholeNumbers makes whole numbers of those that a filter writes with a point, such as 5.0, as number
// does with those in data: equal numbers are equal however they are written, and none loses digits
// by being compared as a fraction.
func wholeNumbers(a *cel.Ast) {
	factory := ast.NewExprFactory()
	ast.PreOrderVisit(a.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.LiteralKind {
			return
		}
		f, ok := e.AsLiteral().(types.Double)
		switch v := float64(f); {
		case !ok || v != math.Trunc(v):
		case v >= -(1<<63) && v < 1<<63:
			e.SetKindCase(factory.NewLiteral(e.ID(), types.Int(v)))
		case v >= 1<<63 && v < 1<<64:
			e.SetKindCase(factory.NewLiteral(e.ID(), types.Uint(v)))
		}
	}))
}

// fieldAccess rewrites a filter so that CEL's checker can check it against the fields of data. To the
// checker an object whose fields are known is no map. It is one when the filter runs, so whatever a
// map can do must pass: data["total"] is checked as data.total, "total" in data as has(data.total),
// and what takes a map in another way gets the object as of unknown kind. Lists may be null.
type fieldAccess struct {
	factory ast.ExprFactory
	whole   *ast.AST
	data    *form
	next    int64 // an id that no expression has
}

// accessFields rewrites the filter, which then serves for checking alone.
func accessFields(a *cel.Ast, data *form) {
	f := &fieldAccess{factory: ast.NewExprFactory(), whole: a.NativeRep(), data: data}
	f.next = ast.MaxID(f.whole)
	f.rewrite(f.whole.Expr(), scope{"data": data})
}

// scope is what is known of the variables.
type scope map[string]*form

// with is the scope within a loop.
func (s scope) with(name string, f *form) scope {
	inner := maps.Clone(s)
	inner[name] = f
	return inner
}

// formOf follows a path from a variable to what it leads to; nil where that is not known.
func (s scope) formOf(e ast.Expr) *form {
	switch e.Kind() {
	case ast.IdentKind:
		return s[e.AsIdent()]
	case ast.SelectKind:
		if f := s.formOf(e.AsSelect().Operand()); f != nil && !e.AsSelect().IsTestOnly() {
			child, _ := f.field(e.AsSelect().FieldName())
			return child
		}
	case ast.CallKind:
		call := e.AsCall()
		if args := call.Args(); call.FunctionName() == operators.Index && len(args) == 2 {
			if f := s.formOf(args[0]); f != nil {
				return f.item
			}
		}
	case ast.UnspecifiedExprKind, ast.ComprehensionKind, ast.ListKind, ast.LiteralKind, ast.MapKind, ast.StructKind:
	}
	return nil
}

func (s scope) isObject(e ast.Expr) bool {
	f := s.formOf(e)
	return f != nil && f.kind == kindObject
}

func (f *fieldAccess) rewrite(e ast.Expr, s scope) {
	switch e.Kind() {
	case ast.SelectKind:
		f.rewrite(e.AsSelect().Operand(), s)
	case ast.CallKind:
		call := e.AsCall()
		if call.IsMemberFunction() {
			f.rewrite(call.Target(), s)
		}
		for _, arg := range call.Args() {
			f.rewrite(arg, s)
		}
		f.rewriteCall(e, call, s)
	case ast.ComprehensionKind:
		loop := e.AsComprehension()
		f.rewrite(loop.IterRange(), s)
		inner := s.with(loop.IterVar(), nil).with(loop.AccuVar(), nil)
		if over := s.formOf(loop.IterRange()); over != nil {
			inner[loop.IterVar()] = over.item // a map's variable is a name, of which nothing is known
		}
		f.rewrite(loop.LoopCondition(), inner)
		f.rewrite(loop.LoopStep(), inner)
		if s.isObject(loop.IterRange()) {
			f.hide(loop.IterRange())
		}
	case ast.ListKind:
		for _, element := range e.AsList().Elements() {
			f.rewrite(element, s)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			f.rewrite(entry.AsMapEntry().Key(), s)
			f.rewrite(entry.AsMapEntry().Value(), s)
		}
	case ast.UnspecifiedExprKind, ast.IdentKind, ast.LiteralKind, ast.StructKind:
	}
}

func (f *fieldAccess) rewriteCall(e ast.Expr, call ast.CallExpr, s scope) {
	args := call.Args()
	switch call.FunctionName() {
	case operators.Index:
		if name, ok := literalText(args[1]); ok && s.isObject(args[0]) {
			e.SetKindCase(f.factory.NewSelect(e.ID(), args[0], name))
		} else if s.isObject(args[0]) {
			f.hide(args[0])
		}
	case operators.In:
		if name, ok := literalText(args[0]); ok && s.isObject(args[1]) {
			e.SetKindCase(f.factory.NewPresenceTest(e.ID(), args[1], name))
		} else if s.isObject(args[1]) {
			f.hide(args[1])
		}
	case operators.Equals, operators.NotEquals:
		for i := range args {
			if other := args[1-i]; isNullLiteral(args[i]) && other.Kind() != ast.LiteralKind {
				f.hide(other)
				return
			}
		}
	case overloads.Size:
		if call.IsMemberFunction() {
			args = []ast.Expr{call.Target()}
		}
		for _, arg := range args {
			if s.isObject(arg) {
				f.hide(arg)
			}
		}
	}
}

// hide makes e of unknown kind. What is within it is checked as before.
func (f *fieldAccess) hide(e ast.Expr) {
	inner := f.factory.CopyExpr(e)
	outer, id := e.ID(), f.next
	f.next++
	inner.RenumberIDs(func(old int64) int64 {
		if old == outer {
			return id
		}
		return old
	})
	if at, ok := f.whole.SourceInfo().GetOffsetRange(outer); ok {
		f.whole.SourceInfo().SetOffsetRange(id, at)
	}
	e.SetKindCase(f.factory.NewCall(outer, overloads.TypeConvertDyn, inner))
}

func literalText(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	text, ok := e.AsLiteral().(types.String)
	return string(text), ok
}

func isNullLiteral(e ast.Expr) bool {
	return e.Kind() == ast.LiteralKind && e.AsLiteral() == types.NullValue
}
