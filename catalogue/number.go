package catalogue

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// decodeData reads a JSON object as filters see it: maps, lists, texts, booleans, nil, and numbers
// as number gives them.
func decodeData(text string) (map[string]any, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var data map[string]any
	if err := dec.Decode(&data); err != nil {
		return nil, fmt.Errorf("decode data: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("decode data: text after the object")
	}
	if data == nil {
		return nil, errors.New("decode data: not an object")
	}
	for key, v := range data {
		data[key] = withNumbers(v)
	}
	return data, nil
}

func withNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		return number(string(v))
	case map[string]any:
		for key, value := range v {
			v[key] = withNumbers(value)
		}
	case []any:
		for i, value := range v {
			v[i] = withNumbers(value)
		}
	}
	return v
}

// number gives a JSON number as a filter computes with it. JSON knows one kind of number, so equal
// numbers must be equal however they were written: every whole number that fits is an int64, or a
// uint64 past that, whether it came as 10, 10.0 or 1e1; only what is left is a float64.
func number(text string) any {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n
	}
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		return n
	}
	f, _ := strconv.ParseFloat(text, 64) // out of range: an infinity, which compares as it should
	if f != math.Trunc(f) || math.Abs(f) >= 1<<64 {
		return f
	}
	if math.Abs(f) < 1<<53 {
		return int64(f)
	}
	// A whole number that was written with a point or an exponent: read all of its digits.
	const longest = 64 // of a text worth the exact way
	if len(text) > longest {
		return f
	}
	exact, ok := new(big.Rat).SetString(text)
	switch {
	case !ok || !exact.IsInt():
		return f
	case exact.Num().IsInt64():
		return exact.Num().Int64()
	case exact.Num().IsUint64():
		return exact.Num().Uint64()
	}
	return f
}

// arithmetic is how filters compute: as with JSON's one kind of number, so that 3/2 is 1.5 and a
// price of 10 works where 9.99 did. Times and durations keep CEL's own arithmetic. Texts and lists
// have none: joining them is how a short filter would fill the memory.
func arithmetic(whole func(a, b int64) (int64, bool), real func(a, b float64) (float64, error),
	times func(a, b ref.Val) ref.Val,
) func(a, b ref.Val) ref.Val {
	return func(a, b ref.Val) ref.Val {
		if isTime(a) && times != nil && isTime(b) {
			return times(a, b)
		}
		x, okX := asInt(a)
		y, okY := asInt(b)
		if okX && okY {
			if n, ok := whole(x, y); ok {
				return types.Int(n)
			}
		}
		u, okX := asFloat(a)
		v, okY := asFloat(b)
		if !okX || !okY {
			return types.MaybeNoSuchOverloadErr(a)
		}
		f, err := real(u, v)
		if err != nil {
			return types.WrapErr(err)
		}
		if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return types.Int(int64(f))
		}
		return types.Double(f)
	}
}

func isTime(v ref.Val) bool {
	t := v.Type()
	return t == types.TimestampType || t == types.DurationType
}

func asInt(v ref.Val) (int64, bool) {
	switch v := v.(type) {
	case types.Int:
		return int64(v), true
	case types.Uint:
		if v <= math.MaxInt64 {
			return int64(v), true
		}
	}
	return 0, false
}

func asFloat(v ref.Val) (float64, bool) {
	switch v := v.(type) {
	case types.Int:
		return float64(v), true
	case types.Uint:
		return float64(v), true
	case types.Double:
		return float64(v), true
	}
	return 0, false
}

var errDivision = errors.New("division by zero")

func addInts(a, b int64) (int64, bool) {
	sum := a + b
	return sum, (sum > a) == (b > 0)
}

func subtractInts(a, b int64) (int64, bool) {
	difference := a - b
	return difference, (difference < a) == (b > 0)
}

func multiplyInts(a, b int64) (int64, bool) {
	if a == 0 || b == 0 {
		return 0, true
	}
	product := a * b
	return product, product/b == a && (a != -1 || b != math.MinInt64) && (b != -1 || a != math.MinInt64)
}

func divideInts(a, b int64) (int64, bool) {
	if b == 0 || b == -1 || a%b != 0 {
		return 0, false
	}
	return a / b, true
}

func moduloInts(a, b int64) (int64, bool) {
	if b == 0 || b == -1 {
		return 0, b == -1
	}
	return a % b, true
}

func divideFloats(a, b float64) (float64, error) {
	if b == 0 {
		return 0, errDivision
	}
	return a / b, nil
}

func moduloFloats(a, b float64) (float64, error) {
	if b == 0 {
		return 0, errDivision
	}
	return math.Mod(a, b), nil
}

func addTimes(a, b ref.Val) ref.Val {
	if adder, ok := a.(traits.Adder); ok {
		return adder.Add(b)
	}
	return types.MaybeNoSuchOverloadErr(a)
}

func subtractTimes(a, b ref.Val) ref.Val {
	if subtractor, ok := a.(traits.Subtractor); ok {
		return subtractor.Subtract(b)
	}
	return types.MaybeNoSuchOverloadErr(a)
}
