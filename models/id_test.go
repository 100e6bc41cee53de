package models_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
)

func TestIDClock_Fit(t *testing.T) {
	t.Parallel()
	const few = 6 * time.Second
	for name, off := range map[string]time.Duration{
		"right": 0, "about right": time.Second, "an hour behind": time.Hour, "a day ahead": -24 * time.Hour, "some seconds": few, "a year": 365 * 24 * time.Hour,
	} {
		now := time.Now().Add(off)
		clock := models.NewIDClock(now)
		var made, fitted []string
		for range 5000 {
			made = append(made, models.NewID(models.PrefixEvent))
			fitted = append(fitted, clock.Fit(made[len(made)-1]))
		}
		if off.Abs() < few {
			require.Equal(t, made, fitted, name)
			continue
		}
		require.True(t, slices.IsSorted(fitted), "%s: made later, sorted later", name)
		for i, id := range fitted {
			require.True(t, models.ValidID(models.PrefixEvent, id), name)
			require.Equal(t, made[i][len(made[i])-13:], id[len(id)-13:], "%s: what is random stays", name)
			require.Negative(t, strings.Compare(models.FirstID(models.PrefixEvent, now.Add(-few)), id), name)
			require.Positive(t, strings.Compare(models.FirstID(models.PrefixEvent, now.Add(few)), id), name)
		}
	}
}

// An id that waited while the process stood still is of the time when it is written.
func TestIDClock_FitsAnIDThatWaited(t *testing.T) {
	t.Parallel()
	old := idAt(models.PrefixDelivery, time.Now().Add(-90*time.Second))
	now := time.Now()
	id := models.NewIDClock(now).Fit(old)
	require.True(t, models.ValidID(models.PrefixDelivery, id))
	require.LessOrEqual(t, models.FirstID(models.PrefixDelivery, now), id)
	require.Positive(t, strings.Compare(models.FirstID(models.PrefixDelivery, now.Add(time.Millisecond)), id))
	for _, other := range []string{"", "evt_", "evt_x", "no id"} {
		require.Equal(t, other, models.NewIDClock(now).Fit(other))
	}
}
