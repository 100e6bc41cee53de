package catalogue

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/decls"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

const (
	// maxFilter bounds a filter's source, in bytes.
	maxFilter = 4 << 10
	// maxFilterDepth bounds how deep a filter nests.
	maxFilterDepth = 50
	// maxRegexProgram bounds the instructions of a compiled pattern: the time that a match takes is
	// their number times the length of the text.
	maxRegexProgram = 200
	// maxRegexText bounds the texts that patterns are matched with, in bytes.
	maxRegexText = 16 << 10
)

// dynamicEnv is what filters are compiled in where the fields of data are not known, and what
// every filter runs in.
var dynamicEnv = sync.OnceValues(func() (*cel.Env, error) { return newEnv(cel.DynType, nil) })

// newEnv makes an environment in which data has the given type; provider knows its fields.
//
// It has CEL's standard library but for what a short filter could fill the memory with: joining
// of texts and lists, map() and filter(), and conversion to bytes.
func newEnv(data *cel.Type, provider types.Provider) (*cel.Env, error) {
	opts := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(&env.LibrarySubset{
			IncludeMacros: []string{operators.Has, operators.All, operators.Exists, operators.ExistsOne},
			ExcludeFunctions: []*env.Function{
				{Name: operators.Add},
				{Name: operators.Subtract},
				{Name: operators.Multiply},
				{Name: operators.Divide},
				{Name: operators.Modulo},
				{Name: overloads.TypeConvertBytes},
			},
		})),
		cel.EnableMacroCallTracking(), // so that clauses can be shown as they were written
		cel.EnableIdentifierEscapeSyntax(),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.EagerlyValidateDeclarations(true),
		cel.ParserExpressionSizeLimit(maxFilter),
		cel.ParserRecursionLimit(maxFilterDepth),
		cel.ExpressionNestingDepthLimit(4 * maxFilterDepth),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals()),
		cel.Variable("id", cel.StringType),
		cel.Variable("type", cel.StringType),
		cel.Variable("timestamp", cel.TimestampType),
		cel.Variable("data", data),
		numeric(operators.Add, arithmetic(addInts, func(a, b float64) (float64, error) { return a + b, nil }, addTimes),
			times("add", cel.TimestampType, cel.DurationType, cel.TimestampType),
			times("add", cel.DurationType, cel.TimestampType, cel.TimestampType),
			times("add", cel.DurationType, cel.DurationType, cel.DurationType)),
		numeric(operators.Subtract, arithmetic(subtractInts, func(a, b float64) (float64, error) { return a - b, nil }, subtractTimes),
			times("subtract", cel.TimestampType, cel.DurationType, cel.TimestampType),
			times("subtract", cel.TimestampType, cel.TimestampType, cel.DurationType),
			times("subtract", cel.DurationType, cel.DurationType, cel.DurationType)),
		numeric(operators.Multiply, arithmetic(multiplyInts, func(a, b float64) (float64, error) { return a * b, nil }, nil)),
		numeric(operators.Divide, arithmetic(divideInts, divideFloats, nil)),
		numeric(operators.Modulo, arithmetic(moduloInts, moduloFloats, nil)),
		text("lowerAscii", strings.ToLower), text("upperAscii", strings.ToUpper),
	}
	if provider != nil {
		opts = append([]cel.EnvOption{cel.CustomTypeProvider(provider)}, opts...)
	}
	e, err := cel.NewCustomEnv(opts...)
	if err != nil {
		return nil, fmt.Errorf("make filter environment: %w", err)
	}
	return e, nil
}

// numeric declares an operator for every pair of CEL's three kinds of number. The result is of
// unknown kind, because it may be whole or not.
func numeric(operator string, do func(a, b ref.Val) ref.Val, more ...cel.FunctionOpt) cel.EnvOption {
	kinds := []*cel.Type{cel.IntType, cel.UintType, cel.DoubleType}
	opts := append([]cel.FunctionOpt{decls.SingletonBinaryBinding(do)}, more...)
	for _, a := range kinds {
		for _, b := range kinds {
			id := fmt.Sprintf("number%s%s_%s", operator, a, b)
			opts = append(opts, cel.Overload(id, []*cel.Type{a, b}, cel.DynType))
		}
	}
	return cel.Function(operator, opts...)
}

func times(name string, a, b, result *cel.Type) cel.FunctionOpt {
	return cel.Overload(fmt.Sprintf("time_%s_%s_%s", name, a, b), []*cel.Type{a, b}, result)
}

// text declares a method from text to text that does not make it longer. The name says ASCII, so
// other characters stay as they are.
func text(name string, do func(string) string) cel.EnvOption {
	ascii := func(v ref.Val) ref.Val {
		s, ok := v.(types.String)
		if !ok {
			return types.MaybeNoSuchOverloadErr(v)
		}
		mapped := strings.Map(func(r rune) rune {
			if r < 128 {
				return rune(do(string(r))[0])
			}
			return r
		}, string(s))
		return types.String(mapped)
	}
	return cel.Function(name, cel.MemberOverload("text_"+name, []*cel.Type{cel.StringType}, cel.StringType, cel.UnaryBinding(ascii)))
}

// boundedRegex compiles literal patterns once and keeps matching them bounded in time.
func boundedRegex() []*interpreter.RegexOptimization {
	var all []*interpreter.RegexOptimization
	for _, overload := range []string{overloads.Matches, overloads.MatchesString} {
		all = append(all, &interpreter.RegexOptimization{
			Function: overloads.Matches, OverloadID: overload, RegexIndex: 1,
			Factory: func(call interpreter.InterpretableCall, pattern string) (interpreter.InterpretableCall, error) {
				compiled, err := compileRegex(pattern)
				if err != nil {
					return nil, err
				}
				return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
					s, ok := args[0].(types.String)
					if !ok {
						return types.MaybeNoSuchOverloadErr(args[0])
					}
					if len(s) > maxRegexText {
						return types.NewErr("matches() takes texts of at most %d bytes, this one has %d", maxRegexText, len(s))
					}
					return types.Bool(compiled.MatchString(string(s)))
				}), nil
			},
		})
	}
	return all
}

// compileRegex compiles a pattern whose program is small.
func compileRegex(pattern string) (*regexp.Regexp, error) {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("pattern: %w", err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, fmt.Errorf("pattern: %w", err)
	}
	if n := len(program.Inst); n > maxRegexProgram {
		return nil, fmt.Errorf("pattern: too complex: %d instructions, at most %d are allowed", n, maxRegexProgram)
	}
	compiled, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("pattern: %w", err)
	}
	return compiled, nil
}
