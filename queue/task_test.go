package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestTasksHoldEveryItemOnce(t *testing.T) {
	t.Parallel()
	now := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		ids := deliveryIDs(rapid.IntRange(0, 200).Draw(t, "items"))
		items := itemsOf(ids)
		later := make(map[string]bool)
		for i := range items {
			items[i].Attempt = rapid.IntRange(0, 1000).Draw(t, "attempt")
			if rapid.Bool().Draw(t, "later") {
				items[i].At = now.Add(time.Duration(rapid.IntRange(1, 1e6).Draw(t, "after")) * time.Millisecond)
				later[items[i].DeliveryID] = true
			}
		}
		repair := rapid.SampledFrom([]string{"", "r"}).Draw(t, "repair")
		seen, names := make(map[string]bool), make(map[string]bool)
		for _, task := range tasksOf(items, now, repair) {
			require.False(t, names[task.id], "task id used twice")
			names[task.id] = true
			require.NotEmpty(t, task.items)
			require.LessOrEqual(t, len(task.items), maxBundle)
			body, err := encodePayload(task.ids())
			require.NoError(t, err)
			back, err := decodePayload(taskType, body)
			require.NoError(t, err)
			require.Equal(t, task.ids(), back)
			for _, it := range task.items {
				require.False(t, seen[it.DeliveryID])
				seen[it.DeliveryID] = true
				require.Equal(t, later[it.DeliveryID], !task.at.IsZero())
				require.Equal(t, it.At, task.at)
			}
		}
		require.Len(t, seen, len(ids))
	})
}

func TestTaskIDs(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	items := []Item{{DeliveryID: "dlv_a", Attempt: 3}, {DeliveryID: "dlv_b"}}
	assert.Equal(t, "dlv_a:3:28333333", singleID(items[0], at))
	assert.Equal(t, "dlv_a:3:28333333", bundleID(items[:1], at))
	assert.Regexp(t, `^dlv_a:3:28333333:2:[0-9a-z]+$`, bundleID(items, at))
	other := []Item{items[0], {DeliveryID: "dlv_b", Attempt: 1}}
	assert.NotEqual(t, bundleID(items, at), bundleID(other, at))
}

func TestScoreIsNeverEarly(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		at   time.Time
		want string
	}{
		"whole":      {time.Unix(1_700_000_000, 0), "1700000000.000"},
		"fraction":   {time.Unix(1_700_000_000, 250_000_000), "1700000000.250"},
		"rounded up": {time.Unix(1_700_000_000, 250_000_001), "1700000000.251"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, score(c.at))
		})
	}
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		major, minor int
		ok           bool
	}{
		"6.0.16": {6, 0, true}, "7.2.4": {7, 2, true}, "8.0": {8, 0, true}, "": {}, "seven": {}, "7.x.1": {7, 0, false},
	}
	for v, c := range cases {
		major, minor, ok := parseVersion(v)
		assert.Equal(t, c.ok, ok, v)
		if ok {
			assert.Equal(t, []int{c.major, c.minor}, []int{major, minor}, v)
		}
	}
}

func FuzzDecodePayload(f *testing.F) {
	f.Add(taskType, []byte(`{"v":1,"ids":["dlv_069kgp7i1dsm3h9mj0u2v5k8n4"]}`))
	f.Add("", []byte(nil))
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		ids, err := decodePayload(kind, data)
		if err != nil {
			require.ErrorIs(t, err, errUnreadable)
			require.Empty(t, ids)
			return
		}
		require.LessOrEqual(t, len(ids), maxBundle)
		body, err := encodePayload(ids)
		require.NoError(t, err)
		again, err := decodePayload(kind, body)
		require.NoError(t, err)
		require.Equal(t, ids, again)
	})
}
