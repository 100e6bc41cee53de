package catalogue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/parser"

	"github.com/intervengine/webhooks/models"
)

const (
	// maxFilterTime bounds one evaluation of a filter.
	maxFilterTime = 50 * time.Millisecond
	// maxFilterCost bounds one evaluation of a clause, in CEL's units: some 50 ms of work.
	maxFilterCost = 1_000_000
	// maxEstimatedCost bounds what a filter may cost at worst if every list and text in data had
	// assumedSize elements. Two loops within each other pass, three do not.
	maxEstimatedCost = 1_000_000_000
	assumedSize      = 1_000
	// maxDetail bounds what is said about a decision, in bytes.
	maxDetail = 300
)

// Filter is a compiled filter: a chain of clauses joined by &&. It is immutable and safe for
// concurrent use.
type Filter struct{ clauses []clause }

// clause is one part of the chain.
type clause struct {
	condition condition   // a simple one; nil: the program
	program   cel.Program // nil where there is a condition
	text      string      // as it was written, spaces apart
	denial    string      // what is said when it is false
	// bounded says that the work does not depend on data in a way that needs watching.
	bounded bool
}

// compileDynamic compiles a filter without knowing the fields of data.
func (c *filterCache) compileDynamic(parsed *cel.Ast) (*Filter, models.Problems) {
	e, err := dynamicEnv()
	if err != nil {
		return nil, filterProblem("%s", err.Error())
	}
	checked, problems := checkFilter(e, parsed, nil)
	if len(problems) > 0 {
		return nil, problems
	}
	f := &Filter{}
	native := checked.NativeRep()
	for _, expr := range conjuncts(native.Expr(), nil) {
		part, err := c.planClause(e, native, expr)
		if err != nil {
			return nil, filterProblem("%s", shorten(err.Error()))
		}
		f.clauses = append(f.clauses, part)
	}
	return f, nil
}

// filterProblem is a problem with the filter as a whole.
func filterProblem(format string, args ...any) models.Problems {
	return models.Problems{{Code: models.CodeInvalidFilter, Message: fmt.Sprintf(format, args...), Locations: atStart()}}
}

// atStart is the place of what is wrong with a text as a whole.
func atStart() []models.Location { return []models.Location{{Line: 1, Column: 1}} }

// conjuncts takes a chain of && apart, from left to right.
func conjuncts(expr ast.Expr, list []ast.Expr) []ast.Expr {
	if expr.Kind() == ast.CallKind && expr.AsCall().FunctionName() == operators.LogicalAnd {
		for _, arg := range expr.AsCall().Args() {
			list = conjuncts(arg, list)
		}
		return list
	}
	return append(list, expr)
}

func (c *filterCache) planClause(e *cel.Env, whole *ast.AST, expr ast.Expr) (clause, error) {
	part := clause{condition: c.simple(expr), bounded: isBounded(expr)}
	text, err := parser.Unparse(expr, whole.SourceInfo())
	if err != nil {
		return part, fmt.Errorf("show clause: %w", err)
	}
	part.text = shorten(text)
	part.denial = "The clause " + part.text + " was false."
	if part.condition != nil {
		return part, nil
	}
	alone := ast.NewCheckedAST(ast.NewAST(expr, whole.SourceInfo()), whole.TypeMap(), whole.ReferenceMap())
	opts := []cel.ProgramOption{cel.OptimizeRegex(boundedRegex()...)}
	if !part.bounded {
		opts = append(opts, cel.CostTracking(deepCost{}), cel.CostLimit(maxFilterCost), cel.InterruptCheckFrequency(10))
	}
	if part.program, err = e.PlanProgram(alone, opts...); err != nil {
		return part, fmt.Errorf("plan clause: %w", err)
	}
	return part, nil
}

// isBounded reports whether evaluating the expression takes a time that its own length bounds,
// give or take one pass over a text: no loop, no pattern, and no comparison of two values that may
// both be large.
func isBounded(expr ast.Expr) bool {
	bounded := true
	ast.PostOrderVisit(expr, ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.ComprehensionKind:
			bounded = false
		case ast.CallKind:
			call := e.AsCall()
			switch call.FunctionName() {
			case operators.Equals, operators.NotEquals:
				bounded = bounded && slices.ContainsFunc(call.Args(), isScalar)
			case operators.In, overloads.Matches:
				bounded = bounded && call.FunctionName() == operators.In && isScalarList(call.Args()[1])
			}
		case ast.UnspecifiedExprKind, ast.IdentKind, ast.ListKind, ast.LiteralKind, ast.MapKind, ast.SelectKind, ast.StructKind:
		}
	}))
	return bounded
}

func isScalar(e ast.Expr) bool { return e.Kind() == ast.LiteralKind }

func isScalarList(e ast.Expr) bool {
	return e.Kind() == ast.ListKind && !slices.ContainsFunc(e.AsList().Elements(), func(e ast.Expr) bool { return !isScalar(e) })
}

// deepCost counts what comparing two values really touches, of which CEL counts the top level
// alone, and what matching a pattern takes at worst.
type deepCost struct{}

// CallCost gives the cost of a comparison or a match, nil for CEL's own idea of the others.
func (deepCost) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	if len(args) != 2 {
		return nil
	}
	var n uint64
	switch function {
	case operators.Equals, operators.NotEquals:
		n = min(size(args[0], maxFilterCost), size(args[1], maxFilterCost))
	case operators.In:
		n = size(args[1], maxFilterCost)
	case overloads.Matches:
		s, _ := args[0].(types.String)
		n = 1 + 2*uint64(len(s))
	default:
		return nil
	}
	return &n
}

// size counts the values within v, a text as one for each ten bytes, and stops counting at most.
func size(v ref.Val, most uint64) uint64 {
	switch v := v.(type) {
	case types.String:
		return 1 + uint64(len(v))/10
	case traits.Mapper:
		n := uint64(1)
		for it := v.Iterator(); it.HasNext() == types.True && n < most; {
			n += 1 + size(v.Get(it.Next()), most-n)
		}
		return n
	case traits.Lister:
		n := uint64(1)
		for it := v.Iterator(); it.HasNext() == types.True && n < most; {
			n += size(it.Next(), most-n)
		}
		return n
	}
	return 1
}

// assumedSizes tells the estimator how large to take data for.
type assumedSizes struct{}

func (assumedSizes) EstimateSize(element cost.AstNode) *cost.SizeEstimate {
	if path := element.Path(); len(path) > 0 && path[0] != "data" {
		return &cost.SizeEstimate{Max: 100} // id, type
	}
	return &cost.SizeEstimate{Max: assumedSize}
}

func (assumedSizes) EstimateCallCost(_, _ string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	return nil
}

// Pass reports whether the filter is true for the event. Where it is not, detail says which
// clause decided. An error is never a match: its text is for a person.
func (f *Filter) Pass(s *Subject) (pass bool, detail string, err error) {
	vars, err := s.variables()
	if err != nil {
		return false, "", err
	}
	// As CEL has it, a false clause decides whatever its neighbours' errors.
	var failed error
	deadline := min(s.spent+maxFilterTime, maxMatchTime)
	for i := range f.clauses {
		c := &f.clauses[i]
		value, err := c.eval(s, vars, deadline)
		if err == nil && value {
			continue
		}
		if err == nil {
			return false, c.denial, nil
		}
		if failed == nil {
			failed = fmt.Errorf("%s in %s", shorten(evalMessage(err)), c.text)
		}
	}
	return failed == nil, "", failed
}

func (c *clause) eval(s *Subject, vars *variables, deadline time.Duration) (bool, error) {
	var out ref.Val
	var err error
	switch {
	case c.condition != nil:
		out, err = c.condition(s, vars)
	case c.bounded:
		out, _, err = c.program.Eval(vars)
	default:
		out, err = c.evalWatched(s, vars, deadline)
	}
	if err != nil {
		return false, err
	}
	value, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("the result is of type %s, not bool", out.Type().TypeName())
	}
	return bool(value), nil
}

// evalWatched evaluates a clause that loops. deadline is how much the subject may have spent on
// such clauses in the end.
func (c *clause) evalWatched(s *Subject, vars *variables, deadline time.Duration) (ref.Val, error) {
	late := fmt.Errorf("the filter takes longer than %s", maxFilterTime)
	if deadline >= maxMatchTime {
		late = fmt.Errorf("the filters of all webhooks together take longer than %s for this event", maxMatchTime)
	}
	left := deadline - s.spent
	if left <= 0 {
		return nil, late
	}
	start := time.Now()
	defer func() { s.spent += time.Since(start) }()
	ctx, cancel := context.WithTimeout(context.Background(), left)
	defer cancel()
	out, _, err := c.program.ContextEval(ctx, vars)
	if err != nil && ctx.Err() != nil {
		return nil, late
	}
	return out, err
}

// evalMessage says what went wrong, with what helps against the usual mistake.
func evalMessage(err error) string {
	text := err.Error()
	switch {
	case strings.HasPrefix(text, "no such key: "):
		name := strings.TrimPrefix(text, "no such key: ")
		return "the event has no field " + name + " (ask with has() first)"
	case strings.HasPrefix(text, "no such overload"):
		return "a value is of a kind that this operation does not take"
	case strings.Contains(text, "cost limit exceeded"):
		return "the filter does too much work for this event"
	}
	return text
}

// shorten keeps a text to a length that a status detail can have.
func shorten(text string) string {
	if len(text) <= maxDetail {
		return text
	}
	return strings.ToValidUTF8(text[:maxDetail], "") + "…"
}
