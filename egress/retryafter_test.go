package egress_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/egress"
)

const day = 24 * time.Hour

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 29, 0, 59, 30, 0, time.UTC) // half a minute before clocks change in Europe
	date := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	tests := map[string]struct {
		value string
		want  time.Duration // 0: nothing is asked for
	}{
		"seconds":             {"120", 2 * time.Minute},
		"one second":          {"1", time.Second},
		"spaces around":       {" 5 ", 5 * time.Second},
		"leading zeros":       {"007", 7 * time.Second},
		"at the limit":        {"86400", day},
		"over the limit":      {"86401", day},
		"past int64":          {"99999999999999999999", day},
		"overflow of ns":      {"9223372036854775", day},
		"zero":                {"0", 0},
		"absent":              {"", 0},
		"blank":               {"  ", 0},
		"negative":            {"-5", 0},
		"plus":                {"+5", 0},
		"fraction":            {"1.5", 0},
		"exponent":            {"1e3", 0},
		"unit":                {"5s", 0},
		"list":                {"5, 6", 0},
		"full-width":          {"５", 0},
		"date":                {date(90 * time.Second), 90 * time.Second},
		"date over the limit": {date(2 * day), day},
		"date in 2038":        {"Tue, 19 Jan 2038 03:14:08 GMT", day},
		"date in 9999":        {"Fri, 31 Dec 9999 23:59:59 GMT", day},
		"date now":            {date(0), 0},
		"date past":           {date(-time.Hour), 0},
		"date of 1970":        {"Thu, 01 Jan 1970 00:00:00 GMT", 0},
		"RFC 850 date":        {"Sunday, 29-Mar-26 01:00:30 GMT", time.Minute},
		"asctime date":        {"Sun Mar 29 01:00:30 2026", time.Minute},
		"ISO date":            {"2026-03-29T01:00:30Z", 0},
		"no such date":        {"Sun, 31 Feb 2026 00:00:00 GMT", 0},
		"garbage":             {"soon", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wait, asked := egress.ParseRetryAfter(test.value, now, day)
			require.Equal(t, test.want, wait)
			require.Equal(t, test.want > 0, asked)
		})
	}
	wait, asked := egress.ParseRetryAfter("1", now, 200*time.Millisecond)
	require.True(t, asked)
	require.Equal(t, 200*time.Millisecond, wait)
}

func FuzzParseRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "0", "120", "-1", "99999999999999999999", "Tue, 19 Jan 2038 03:14:08 GMT", "Sunday, 29-Mar-26 01:00:30 GMT", "soon"} {
		f.Add(seed)
	}
	now := time.Date(2026, 3, 29, 0, 59, 30, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value string) {
		wait, asked := egress.ParseRetryAfter(value, now, day)
		require.Equal(t, asked, wait > 0)
		require.LessOrEqual(t, wait, day)
		require.GreaterOrEqual(t, wait, time.Duration(0))
	})
}
