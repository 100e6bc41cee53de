package graph_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPagesNeitherSkipNorRepeat(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var want []string
	for i := range 5 {
		want = append([]string{f.create(t, f.manage, fmt.Sprintf("w%d", i))}, want...)
	}
	const query = `query($first: Int, $after: String, $last: Int, $before: String) { webhooks(first: $first, after: $after, last: $last, before: $before) {
		totalCount edges { cursor node { id } } nodes { id } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }`
	for name, dir := range map[string]struct{ size, cursor, end, more string }{
		"forwards":  {"first", "after", "endCursor", "hasNextPage"},
		"backwards": {"last", "before", "startCursor", "hasPreviousPage"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			vars := variables{dir.size: 2}
			for page := 0; ; page++ {
				v := get[tree](t, f, f.read, query, vars)
				c := tree(v.at("webhooks").(map[string]any))
				assert.EqualValues(t, 5, c.at("totalCount"))
				var ids []string
				for i, e := range c.at("edges").([]any) {
					id := tree(e.(map[string]any)).text("node", "id")
					assert.Equal(t, id, c.at("nodes").([]any)[i].(map[string]any)["id"])
					ids = append(ids, id)
				}
				if dir.size == "first" {
					got = append(got, ids...)
				} else {
					got = append(ids, got...)
				}
				if c.at("pageInfo", dir.more) == false {
					break
				}
				require.Less(t, page, 5)
				vars[dir.cursor] = c.text("pageInfo", dir.end)
			}
			assert.Equal(t, want, got)
		})
	}
}

func TestBadPages(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.create(t, f.manage, "w")
	f.emitted(t, f.emit, "message.sent", `{}`)
	v := get[tree](t, f, f.admin, `{ webhooks { pageInfo { endCursor } } }`, nil)
	foreign := v.text("webhooks", "pageInfo", "endCursor")
	fields := map[string]string{
		"webhooks": f.read, "eventTypes": f.read, "events": f.read, "deliveries": f.read, "apiKeys": f.admin,
	}
	for name, args := range map[string]string{
		"both":               `first: 1, last: 1`,
		"first is negative":  `first: -1`,
		"last is negative":   `last: -1`,
		"first over 100":     `first: 101`,
		"last over 100":      `last: 101`,
		"no cursor":          `after: "` + canary + `"`,
		"an empty cursor":    `before: ""`,
		"a cursor of base64": `after: "AAAA"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for field, key := range fields {
				r := f.do(t, key, `{ `+field+`(`+args+`) { pageInfo { hasNextPage } } }`, nil)
				e := requireCode(t, r, "BAD_REQUEST")
				assert.Equal(t, []any{field}, e.Path)
				assert.NotContains(t, r.body, canary)
			}
			for _, parent := range []string{"webhooks { nodes { id deliveries", "events { nodes { id deliveries"} {
				r := f.do(t, f.read, `{ `+parent+`(`+args+`) { pageInfo { hasNextPage } } } } }`, nil)
				requireCode(t, r, "BAD_REQUEST")
			}
		})
	}
	t.Run("a cursor of another list", func(t *testing.T) {
		t.Parallel()
		for field, key := range fields {
			if field != "webhooks" {
				requireCode(t, f.do(t, key, `{ `+field+`(after: "`+foreign+`") { pageInfo { hasNextPage } } }`, nil), "BAD_REQUEST")
			}
		}
	})
	t.Run("a page of none", func(t *testing.T) {
		t.Parallel()
		v := get[tree](t, f, f.read, `{ webhooks(first: 0) { nodes { id } edges { cursor } totalCount pageInfo { startCursor endCursor hasNextPage } } }`, nil)
		assert.Equal(t, map[string]any{
			"nodes": []any{}, "edges": []any{}, "totalCount": 1.0, "pageInfo": map[string]any{"startCursor": nil, "endCursor": nil, "hasNextPage": true},
		}, v.at("webhooks"))
	})
	t.Run("filters", func(t *testing.T) {
		t.Parallel()
		for _, query := range []string{
			`{ deliveries(filter: {since: "2026-03-02T00:00:00Z", until: "2026-03-01T00:00:00Z"}) { nodes { id } } }`,
			`{ events(filter: {eventTypes: [` + repeat(101, `"a"`) + `]}) { nodes { id } } }`,
		} {
			requireCode(t, f.do(t, f.read, query, nil), "BAD_REQUEST")
		}
		requireCode(t, f.do(t, f.read, `query($ids: [ID!]!) { nodes(ids: $ids) { id } }`, variables{"ids": make([]string, 101)}), "BAD_REQUEST")
	})
}

func TestDeliveryFilters(t *testing.T) {
	t.Parallel()
	f := setup(t)
	a, b := f.create(t, f.manage, "Zebra", "message.sent"), f.create(t, f.manage, "Gnu", "*")
	sent := f.emitted(t, f.emit, "message.sent", `{}`)
	f.emitted(t, f.emit, "participant.created", `{}`)
	for filter, want := range map[string]int{
		`{}`:                                     3,
		`{webhookId: "` + a + `"}`:               1,
		`{webhookId: "` + b + `"}`:               2,
		`{webhookId: "x"}`:                       0,
		`{eventId: "` + sent + `"}`:              2,
		`{eventTypes: ["participant.created"]}`:  1,
		`{eventTypes: []}`:                       3,
		`{statuses: [PENDING]}`:                  3,
		`{statuses: [SUCCEEDED, FAILED]}`:        0,
		`{outcomes: [SUCCESS]}`:                  0,
		`{triggers: [AUTOMATIC]}`:                3,
		`{triggers: [TEST, REPLAY]}`:             0,
		`{responseStatus: {min: 200, max: 299}}`: 0,
		`{since: "2020-01-01T00:00:00Z"}`:        3,
		`{until: "2020-01-01T00:00:00Z"}`:        0,
		`{tenant: "acme"}`:                       3,
		`{webhookId: "` + b + `", eventTypes: ["message.sent"], statuses: [PENDING, RETRYING]}`: 1,
	} {
		t.Run(filter, func(t *testing.T) {
			t.Parallel()
			v := get[tree](t, f, f.read, `{ deliveries(filter: `+filter+`) { nodes { id } } }`, nil)
			assert.Len(t, v.at("deliveries", "nodes"), want)
		})
	}
	v := get[tree](t, f, f.read, `{ webhooks { nodes { name deliveries(filter: {eventId: "`+sent+`"}) { nodes { eventType } } } } }`, nil)
	for _, n := range v.at("webhooks", "nodes").([]any) {
		assert.Len(t, tree(n.(map[string]any)).at("deliveries", "nodes"), 1)
	}
	for filter, want := range map[string]int{
		`{eventType: "message.sent"}`: 2, `{eventType: "participant.created"}`: 1, `{search: "zEB"}`: 1, `{search: "receiver.example"}`: 2,
		`{status: ACTIVE}`: 2, `{status: PAUSED}`: 0, `{search: "%"}`: 0,
	} {
		v := get[tree](t, f, f.read, `{ webhooks(filter: `+filter+`) { totalCount nodes { id } } }`, nil)
		assert.Lenf(t, v.at("webhooks", "nodes"), want, "%s", filter)
		assert.EqualValuesf(t, want, v.at("webhooks", "totalCount"), "%s", filter)
	}
}
