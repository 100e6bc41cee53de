package models_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/models"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text string
		want time.Duration
		bad  bool
	}{
		"seconds":                {text: "PT15S", want: 15 * time.Second},
		"milliseconds":           {text: "PT0.001S", want: time.Millisecond},
		"comma":                  {text: "PT0,5S", want: 500 * time.Millisecond},
		"nanoseconds":            {text: "PT0.000000001S", want: 1},
		"hours":                  {text: "PT24H", want: 24 * time.Hour},
		"days":                   {text: "P5D", want: 120 * time.Hour},
		"weeks":                  {text: "P1W", want: 168 * time.Hour},
		"all":                    {text: "P1W1DT1H1M1.5S", want: 193*time.Hour + time.Minute + 1500*time.Millisecond},
		"fraction of an hour":    {text: "PT1.5H", want: 90 * time.Minute},
		"fraction of a day":      {text: "P0.5D", want: 12 * time.Hour},
		"zero":                   {text: "PT0S"},
		"leading zeros":          {text: "PT0090S", want: 90 * time.Second},
		"more than its unit":     {text: "PT90M", want: 90 * time.Minute},
		"longest":                {text: "PT9223372036.854775807S", want: math.MaxInt64},
		"empty":                  {text: "", bad: true},
		"P alone":                {text: "P", bad: true},
		"PT alone":               {text: "PT", bad: true},
		"T without time":         {text: "P1DT", bad: true},
		"Go's form":              {text: "15s", bad: true},
		"number":                 {text: "15", bad: true},
		"lower case":             {text: "pt15s", bad: true},
		"years":                  {text: "P1Y", bad: true},
		"months":                 {text: "P1M", bad: true},
		"negative":               {text: "-PT1S", bad: true},
		"plus":                   {text: "+PT1S", bad: true},
		"negative part":          {text: "PT-1S", bad: true},
		"order":                  {text: "PT1S1H", bad: true},
		"twice":                  {text: "PT1H1H", bad: true},
		"hours in the date":      {text: "P1H", bad: true},
		"days in the time":       {text: "PT1D", bad: true},
		"no number":              {text: "PTS", bad: true},
		"no unit":                {text: "PT1", bad: true},
		"fraction not last":      {text: "PT1.5H1M", bad: true},
		"fraction before a time": {text: "P1.5DT1H", bad: true},
		"point without digits":   {text: "PT1.S", bad: true},
		"point first":            {text: "PT.5S", bad: true},
		"two points":             {text: "PT1.2.3S", bad: true},
		"too fine":               {text: "PT0.0000000001S", bad: true},
		"too long":               {text: "PT9223372036.854775808S", bad: true},
		"far too long":           {text: "P99999999999999999999W", bad: true},
		"sum too long":           {text: "P106751DT24H", bad: true},
		"space":                  {text: "PT 1S", bad: true},
		"other digits":           {text: "PT１S", bad: true},
		"two Ts":                 {text: "PT1HT1M", bad: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := models.ParseDuration(tt.text)
			if tt.bad {
				require.ErrorIs(t, err, models.ErrDuration)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestFormatDuration(t *testing.T) {
	t.Parallel()
	tests := map[string]time.Duration{
		"PT0S":                        0,
		"PT15S":                       15 * time.Second,
		"PT0.05S":                     50 * time.Millisecond,
		"PT24H":                       24 * time.Hour,
		"P5D":                         120 * time.Hour,
		"PT25H30M":                    25*time.Hour + 30*time.Minute,
		"PT1H1.000000001S":            time.Hour + time.Second + 1,
		"-PT5S":                       -5 * time.Second,
		"PT2562047H47M16.854775807S":  math.MaxInt64,
		"-PT2562047H47M16.854775808S": math.MinInt64,
	}
	for want, d := range tests {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, want, models.FormatDuration(d))
		})
	}
}

func TestFormattedDurationReadsBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Min(0).Draw(t, "nanoseconds"))
		got, err := models.ParseDuration(models.FormatDuration(d))
		require.NoError(t, err)
		require.Equal(t, d, got)
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, seed := range []string{"PT15S", "P1W1DT1H1M1.5S", "P1Y", "PT", "PT9223372036.854775807S", "P0,1D"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := models.ParseDuration(text)
		if err != nil {
			require.ErrorIs(t, err, models.ErrDuration)
			return
		}
		require.GreaterOrEqual(t, d, time.Duration(0))
		again, err := models.ParseDuration(models.FormatDuration(d))
		require.NoError(t, err)
		require.Equal(t, d, again)
	})
}
