package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is due at the same moment shares tasks, now and later; what has a moment of its own has a
// task of its own.
func TestTasksOf_BundlesByMoment(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var items []Item
	for n, id := range deliveryIDs(100) {
		it := Item{DeliveryID: id}
		switch {
		case n < 70:
			it.At = now.Add(time.Minute)
		case n < 73:
			it.At = now.Add(time.Duration(n) * time.Hour)
		}
		items = append(items, it)
	}
	tasks := tasksOf(items, now, "")
	require.Len(t, tasks, 3+3+1)
	ids := map[string]bool{}
	at := map[time.Time]int{}
	for _, task := range tasks {
		assert.LessOrEqual(t, len(task.items), maxBundle)
		assert.False(t, ids[task.id], "each has its own id")
		ids[task.id] = true
		for _, it := range task.items {
			assert.Equal(t, it.At, task.at)
			at[task.at]++
		}
	}
	assert.Equal(t, 70, at[now.Add(time.Minute)])
	assert.Equal(t, 27, at[time.Time{}])
}
