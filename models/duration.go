package models

import (
	"errors"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// ErrDuration says that a text is not a length of time in ISO 8601 form.
var ErrDuration = errors.New("not a length of time in ISO 8601 form, such as PT15S, PT24H or P5D")

const oneDay = 24 * time.Hour

// maxFraction is how many digits may follow the point: a nanosecond of a second.
const maxFraction = 9

// ParseDuration reads a length of time in ISO 8601 form: P, then weeks and days, then after a T
// hours, minutes and seconds, each at most once and in this order, at least one of them; the
// last may have a fraction. A day is 24 hours. Years and months, which have no fixed length, and
// signs are refused, and so is what a time.Duration cannot hold. The error is ErrDuration.
func ParseDuration(text string) (time.Duration, error) {
	rest, ok := strings.CutPrefix(text, "P")
	if !ok {
		return 0, ErrDuration
	}
	date, clock, hasClock := strings.Cut(rest, "T")
	if hasClock && clock == "" || !hasClock && date == "" {
		return 0, ErrDuration
	}
	total, whole, err := sumDuration(date, []durationUnit{{'W', 7 * oneDay}, {'D', oneDay}})
	if err != nil || hasClock && !whole {
		return 0, ErrDuration
	}
	ofDay, _, err := sumDuration(clock, []durationUnit{{'H', time.Hour}, {'M', time.Minute}, {'S', time.Second}})
	if err != nil || total > math.MaxInt64-ofDay {
		return 0, ErrDuration
	}
	return total + ofDay, nil
}

type durationUnit struct {
	letter byte
	length time.Duration
}

// sumDuration adds up the numbers of text, whose letters must come in the order of units; whole
// says that none had a fraction.
func sumDuration(text string, units []durationUnit) (sum time.Duration, whole bool, err error) {
	whole = true
	for text != "" {
		end := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' && r != ',' })
		if end <= 0 || !whole { // only the last number may have a fraction
			return 0, false, ErrDuration
		}
		i := 0
		for i < len(units) && units[i].letter != text[end] {
			i++
		}
		if i == len(units) {
			return 0, false, ErrDuration
		}
		length, hasFraction, err := scaleDuration(text[:end], units[i].length)
		if err != nil || sum > math.MaxInt64-length {
			return 0, false, ErrDuration
		}
		sum += length
		whole = !hasFraction
		text, units = text[end+1:], units[i+1:]
	}
	return sum, whole, nil
}

// scaleDuration multiplies a decimal number with a unit, exactly, and cuts what is below a nanosecond.
func scaleDuration(number string, unit time.Duration) (length time.Duration, hasFraction bool, err error) {
	digits, fraction, hasFraction := strings.Cut(strings.Replace(number, ",", ".", 1), ".")
	if digits == "" || hasFraction && fraction == "" || len(fraction) > maxFraction {
		return 0, false, ErrDuration
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return 0, false, ErrDuration
	}
	high, low := bits.Mul64(n, uint64(unit)) //nolint:gosec // G115: units are positive
	if high != 0 || low > math.MaxInt64 {
		return 0, false, ErrDuration
	}
	if hasFraction {
		part, err := strconv.ParseUint(fraction+strings.Repeat("0", maxFraction-len(fraction)), 10, 63)
		if err != nil {
			return 0, false, ErrDuration
		}
		// part is below 10^9 and a week below 2^50, so the quotient is below the unit.
		h, l := bits.Mul64(part, uint64(unit)) //nolint:gosec // G115: units are positive
		quotient, _ := bits.Div64(h, l, 1_000_000_000)
		if low += quotient; low > math.MaxInt64 {
			return 0, false, ErrDuration
		}
	}
	return time.Duration(low), hasFraction, nil
}

// FormatDuration writes d in ISO 8601 form: whole days where there are several of them, else
// hours, minutes and seconds, with as many decimals as needed. ParseDuration reads back the same
// length. A negative length, which ParseDuration refuses, is written with a sign.
func FormatDuration(d time.Duration) string {
	if d == 0 {
		return "PT0S"
	}
	sign, rest := "", uint64(d) //nolint:gosec // G115: the negative case is next
	if d < 0 {
		sign, rest = "-", -rest // right for the least duration too, whose absolute value is no duration
	}
	if rest%uint64(oneDay) == 0 && rest > uint64(oneDay) {
		return sign + "P" + strconv.FormatUint(rest/uint64(oneDay), 10) + "D"
	}
	text := sign + "PT"
	if hours := rest / uint64(time.Hour); hours > 0 {
		text += strconv.FormatUint(hours, 10) + "H"
	}
	rest %= uint64(time.Hour)
	if minutes := rest / uint64(time.Minute); minutes > 0 {
		text += strconv.FormatUint(minutes, 10) + "M"
	}
	rest %= uint64(time.Minute)
	if rest == 0 {
		return text
	}
	text += strconv.FormatUint(rest/uint64(time.Second), 10)
	if nanos := rest % uint64(time.Second); nanos > 0 {
		padded := strconv.FormatUint(uint64(time.Second)+nanos, 10)[1:]
		text += "." + strings.TrimRight(padded, "0")
	}
	return text + "S"
}
