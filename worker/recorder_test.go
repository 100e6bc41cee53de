package worker

import (
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
)

func TestOneBad_DoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	refused, away := errors.New("refused"), &models.UnavailableError{Err: errors.New("away")}
	for name, test := range map[string]struct {
		bad   func()
		items []string
		all   error    // of the whole batch
		each  []string // deliveries that were written
	}{
		"nobody":          {items: []string{"a", "b"}, each: []string{"a", "b"}},
		"one is refused":  {bad: func() { panic(refused) }, items: []string{"a", "bad", "b"}, each: []string{"a", "b"}},
		"one alone":       {bad: func() { panic("of the programmer") }, items: []string{"bad"}, all: errPanicked},
		"the database is": {bad: func() { panic(away) }, items: []string{"a", "bad"}, all: away},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			results, err := oneBad(test.items, func(some []string) (out []models.Recorded, err error) {
				for _, id := range some {
					if id == "bad" {
						defer func() {
							value := recover()
							if known, ok := value.(error); ok {
								out, err = nil, known
								return
							}
							panic(value)
						}()
						test.bad()
					}
					out = append(out, models.Recorded{DeliveryID: id})
				}
				return out, nil
			})
			if test.all != nil {
				require.ErrorIs(t, err, test.all)
				return
			}
			require.NoError(t, err)
			var written []string
			for n, r := range results {
				assert.Equal(t, slices.Contains(test.each, test.items[n]), r.Err == nil)
				if r.Err == nil {
					written = append(written, r.Value.DeliveryID)
				}
			}
			assert.Equal(t, test.each, written)
		})
	}
}
