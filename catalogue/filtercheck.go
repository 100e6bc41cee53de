package catalogue

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"

	"github.com/intervengine/webhooks/models"
)

// maxProblems bounds how many problems one text is answered with.
const maxProblems = 20

// parseFilter parses a filter. What it gives can be checked in every environment of newEnv.
func parseFilter(source string) (*cel.Ast, models.Problems) {
	switch {
	case len(source) > maxFilter:
		return nil, models.Problems{{Code: models.CodeTooLong, Message: fmt.Sprintf("the filter has %d bytes; at most %d are allowed", len(source), maxFilter)}}
	case strings.TrimSpace(source) == "":
		return nil, filterProblem("the filter is empty; leave it out to get every event")
	case !utf8.ValidString(source) || strings.ContainsRune(source, 0):
		problems := filterProblem("the filter must be text without NUL characters")
		problems[0].Locations = notText(source)
		return nil, problems
	}
	e, err := dynamicEnv()
	if err != nil {
		return nil, filterProblem("%s", err)
	}
	parsed, issues := e.Parse(source)
	if issues.Err() != nil {
		return nil, issueProblems(issues, nil, nil)
	}
	wholeNumbers(parsed)
	return parsed, nil
}

// checkFilter checks a parsed filter. data is the form of the event's data where it is known; it
// only serves to name what a misspelt field may have meant.
func checkFilter(e *cel.Env, parsed *cel.Ast, data *form) (*cel.Ast, models.Problems) {
	checked, issues := e.Check(parsed)
	if issues.Err() != nil {
		return nil, issueProblems(issues, parsed, data)
	}
	if problems := checkTruth(checked); len(problems) > 0 {
		return nil, problems
	}
	if problems := checkLiteralPatterns(checked); len(problems) > 0 {
		return nil, problems
	}
	estimate, err := e.EstimateCost(checked, assumedSizes{})
	if err != nil {
		return nil, filterProblem("%s", shorten(err.Error()))
	}
	if estimate.Max > maxEstimatedCost {
		return nil, models.Problems{at(checked, costliest(checked), "the filter loops too much: with lists of %d elements each it would take too long; nest fewer exists() and all()", assumedSize)}
	}
	return checked, nil
}

// checkTruth refuses a filter whose clauses cannot be true or false. What is of unknown kind may be.
func checkTruth(a *cel.Ast) models.Problems {
	var problems models.Problems
	native := a.NativeRep()
	for _, e := range conjuncts(native.Expr(), nil) {
		t := native.GetType(e.ID())
		name := showTypes(cel.FormatCELType(t))
		switch {
		case isArithmetic(e):
			name = "number"
		case e.Kind() == ast.IdentKind && e.AsIdent() == "data":
			name = "object"
		case t.IsExactType(cel.BoolType), t.IsExactType(cel.DynType), t.IsExactType(cel.NullableType(cel.BoolType)):
			continue
		}
		problems = append(problems, at(a, e.ID(), "a filter must be true or false; this is of type %s", name))
	}
	return problems
}

// isArithmetic reports whether an expression computes a number or a time.
func isArithmetic(e ast.Expr) bool {
	if e.Kind() != ast.CallKind {
		return false
	}
	switch e.AsCall().FunctionName() {
	case operators.Add, operators.Subtract, operators.Multiply, operators.Divide, operators.Modulo:
		return true
	}
	return false
}

// at is a problem at the place of an expression.
func at(a *cel.Ast, id int64, format string, args ...any) models.Problem {
	p := models.Problem{Code: models.CodeInvalidFilter, Message: fmt.Sprintf(format, args...), Locations: atStart()}
	location := a.NativeRep().SourceInfo().GetStartLocation(id)
	if location.Line() > 0 {
		p.Locations = []models.Location{{Line: location.Line(), Column: location.Column() + 1}}
	}
	return p
}

// costliest gives the outermost loop, to point at.
func costliest(a *cel.Ast) int64 {
	id := a.NativeRep().Expr().ID()
	found := false
	ast.PreOrderVisit(a.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if !found && e.Kind() == ast.ComprehensionKind {
			id, found = e.ID(), true
		}
	}))
	return id
}

// checkLiteralPatterns refuses matches() with a pattern that is not written in the filter: it could
// be anything, and would be compiled anew for every event.
func checkLiteralPatterns(a *cel.Ast) models.Problems {
	var problems models.Problems
	ast.PostOrderVisit(a.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != overloads.Matches {
			return
		}
		args := e.AsCall().Args()
		pattern := args[len(args)-1]
		if pattern.Kind() != ast.LiteralKind {
			problems = append(problems, at(a, pattern.ID(), "the pattern of matches() must be written out as a text"))
			return
		}
		text, _ := pattern.AsLiteral().Value().(string)
		if _, err := compileRegex(text); err != nil {
			problems = append(problems, at(a, pattern.ID(), "%s", shorten(err.Error())))
		}
	}))
	return problems
}

var (
	undefinedField = regexp.MustCompile(`^undefined field '(.*)'$`)
	undeclared     = regexp.MustCompile(`^undeclared reference to '([^']*)'`)
	madeUpType     = regexp.MustCompile(`wrapper\((\w+)\)|\bobject\d+\b|google\.protobuf\.(\w+)`)
	noOverload     = regexp.MustCompile(`^found no matching overload for '(.*)' applied to '(.*)'$`)
)

// issueProblems turns cel-go's issues into problems with positions and help.
func issueProblems(issues *cel.Issues, parsed *cel.Ast, data *form) models.Problems {
	var problems models.Problems
	for _, issue := range issues.Errors() {
		if len(problems) == maxProblems {
			break
		}
		p := models.Problem{Code: models.CodeInvalidFilter, Message: shorten(explainIssue(issue.Message, issue.ExprID, parsed, data)), Locations: atStart()}
		if line := issue.Location.Line(); line > 0 {
			column := max(0, issue.Location.Column())
			if m := undefinedField.FindStringSubmatch(issue.Message); m != nil && parsed != nil {
				column = toName(parsed.Source(), line, column, m[1])
			}
			p.Locations = []models.Location{{Line: line, Column: column + 1}}
		}
		problems = append(problems, p)
	}
	if len(problems) == 0 {
		return filterProblem("%s", shorten(issues.Err().Error()))
	}
	return problems
}

// toName moves a column, counted from 0, on from what is before a field to its name: the dot, the
// has( or the bracket.
func toName(source cel.Source, line, column int, name string) int {
	text, ok := source.Snippet(line)
	runes := []rune(text)
	if !ok || column > len(runes) {
		return column
	}
	rest := string(runes[column:])
	if quoted, ok := strings.CutPrefix(rest, "["); ok {
		if before, _, found := strings.Cut(quoted, name); found && strings.Trim(before, " \t'\"") == "" {
			return column + 1 + utf8.RuneCountInString(before)
		}
	}
	before, _, found := strings.Cut(rest, "."+name)
	if !found {
		return column
	}
	return column + utf8.RuneCountInString(before) + 1
}

func explainIssue(message string, id int64, parsed *cel.Ast, data *form) string {
	if m := undefinedField.FindStringSubmatch(message); m != nil {
		return withNearest("there is no field "+quote(m[1]), m[1], knownFields(parsed, id, data))
	}
	if m := undeclared.FindStringSubmatch(message); m != nil {
		switch m[1] {
		case "map", "filter":
			return m[1] + "() is not offered: it makes lists; ask with exists(), exists_one() or all()"
		}
		return withNearest(quote(m[1])+" is not known", m[1], knownNames())
	}
	if message == "invalid int literal" {
		return "whole numbers past 9223372036854775807 are written with a u at the end, and those past 18446744073709551615 with an exponent, such as 1e20"
	}
	if m := noOverload.FindStringSubmatch(message); m != nil {
		switch m[1] {
		case operators.Index:
			return "[] takes a list and a number, or an object and a name, not " + showTypes(m[2])
		case operators.Add:
			return "+ does not take " + showTypes(m[2]) + ": it is offered for numbers and times, not for texts and lists"
		}
		return strings.Trim(m[1], "_@") + " does not take " + showTypes(m[2])
	}
	return showTypes(strings.TrimPrefix(message, "Syntax error: "))
}

// showTypes puts types in a caller's words: the names of objects are made up, and every value may
// be null.
func showTypes(text string) string {
	text = madeUpType.ReplaceAllStringFunc(text, func(s string) string {
		m := madeUpType.FindStringSubmatch(s)
		switch {
		case m[1] != "":
			return m[1]
		case m[2] != "":
			return strings.ToLower(m[2])
		}
		return "object"
	})
	if inner, ok := strings.CutPrefix(text, "("); ok && strings.HasSuffix(inner, ")") {
		return strings.TrimSuffix(inner, ")")
	}
	return text
}

func withNearest(text, name string, candidates []string) string {
	if near := nearest(name, candidates); near != "" {
		return text + "; did you mean " + quote(near) + "?"
	}
	if len(candidates) > 0 && len(candidates) <= 20 {
		return text + "; there are " + strings.Join(candidates, ", ")
	}
	return text
}

func knownNames() []string {
	return []string{
		"data", "id", "type", "timestamp", "has", "all", "exists", "exists_one", "contains", "startsWith", "endsWith",
		"matches", "size", "lowerAscii", "upperAscii", "int", "double", "string", "duration",
		"getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes", "getSeconds",
	}
}

// knownFields gives the fields that the object has whose field id selects; where it is reached
// over a loop's variable, all fields there are.
func knownFields(parsed *cel.Ast, id int64, data *form) []string {
	if parsed == nil || data == nil {
		return nil
	}
	var names []string
	ast.PostOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.ID() != id || e.Kind() != ast.SelectKind {
			return
		}
		if f := (scope{"data": data}).formOf(e.AsSelect().Operand()); f != nil {
			names = f.fieldNames()
		}
	}))
	if names == nil {
		collectNames(data, &names)
	}
	return names
}

func collectNames(f *form, names *[]string) {
	for _, field := range f.fields {
		if !slices.Contains(*names, field.name) {
			*names = append(*names, field.name)
		}
		collectNames(field.form, names)
	}
	if f.item != nil {
		collectNames(f.item, names)
	}
}
