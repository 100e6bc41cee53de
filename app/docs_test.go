package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// block is a fenced part of a page: what it says after the fence, and its text.
type block struct{ kind, text string }

// blocks are the fenced parts of a page of docs, in order.
func blocks(t testing.TB, page string) []block {
	t.Helper()
	text, err := os.ReadFile("../docs/" + page)
	require.NoError(t, err)
	var found []block
	open := false
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "```") && !open:
			found, open = append(found, block{kind: strings.TrimSpace(line[3:])}), true
		case strings.HasPrefix(line, "```"):
			open = false
		case open:
			found[len(found)-1].text += line
		}
	}
	require.False(t, open, "a fence is not closed")
	return found
}

// previewOf asks what a webhook on participant.created would get.
func previewOf(t testing.TB, api *apptest.Client, webhook map[string]any, data string) preview {
	t.Helper()
	input := map[string]any{"name": "docs", "targetUrl": "https://203.0.114.1/", "eventTypes": []string{"participant.created"}}
	maps.Copy(input, webhook)
	return previewDelivery(t, api, map[string]any{
		"webhook": input, "event": map[string]any{"eventType": "participant.created", "data": json.RawMessage(data)},
	})
}

func TestDocs_Filters(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Embedded, nil)
	all := blocks(t, "filters.md")
	require.Equal(t, "json", all[0].kind)
	seen := map[string]int{}
	for _, b := range all[1:] {
		seen[b.kind]++
		got := previewOf(t, s.Client, map[string]any{"filter": b.text}, all[0].text)
		if b.kind == "cel refused" {
			require.NotEmpty(t, got.UserErrors, b.text)
			require.Equal(t, "INVALID_FILTER", got.UserErrors[0].Code, b.text)
			continue
		}
		require.Empty(t, got.UserErrors, b.text)
		want, ok := map[string]string{"cel": "MATCHED", "cel false": "FILTERED_OUT", "cel fails": "FILTER_ERROR"}[b.kind]
		require.True(t, ok, b.kind)
		require.Equal(t, want, *got.Verdict, b.text)
		if b.kind == "cel false" && strings.Contains(b.text, `source == "api"`) {
			require.Contains(t, *got.Detail, `data.participant.source == "api"`)
		}
	}
	require.Greater(t, seen["cel"], 10)
	require.Len(t, seen, 4)
}

func TestDocs_PayloadQueries(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Embedded, nil)
	all := blocks(t, "payload-queries.md")
	require.Equal(t, "json event", all[0].kind)
	compact := func(text string) string {
		var b bytes.Buffer
		require.NoError(t, json.Compact(&b, []byte(text)))
		return b.String()
	}
	compared := 0
	for i := 1; i < len(all); i++ {
		got := previewOf(t, s.Client, map[string]any{"payloadQuery": all[i].text}, all[0].text)
		if all[i].kind == "graphql refused" {
			require.NotEmpty(t, got.UserErrors, all[i].text)
			require.Equal(t, "INVALID_PAYLOAD_QUERY", got.UserErrors[0].Code, all[i].text)
			continue
		}
		require.Equal(t, "graphql", all[i].kind)
		require.Empty(t, got.UserErrors, all[i].text)
		i++
		require.Equal(t, "json", all[i].kind, "the result follows")
		var body struct{ Data json.RawMessage }
		require.NoError(t, json.Unmarshal([]byte(got.Request.Body), &body))
		require.Equal(t, compact(all[i].text), string(body.Data))
		compared++
	}
	require.Equal(t, 4, compared)
}

func TestDocs_Replay(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Embedded, nil)
	receiver := receivertest.New(t, receivertest.Default(receivertest.Status(500)))
	emit(t, s.Client, "message.sent", `{}`) // nobody gets it yet
	id := create(t, s.Client, receiver.URL(), map[string]any{"retrySchedule": []string{}}).Webhook.ID
	eventually(t, s.Client, emit(t, s.Client, "participant.created", `{}`), "FAILED")
	receiver.Answer(receivertest.Status(200))
	operations := 0
	for _, b := range blocks(t, "replay.md") {
		require.Equal(t, "graphql", b.kind)
		operations++
		variables := map[string]any{"webhookId": id}
		if strings.Contains(b.text, "$since") {
			variables["since"] = time.Now().Add(-time.Hour)
		}
		var out map[string]struct {
			Count      *int
			UserErrors []userError
			Replay     *replay
			Nodes      []json.RawMessage
		}
		s.Query(t, b.text, variables, &out)
		for name, answer := range out {
			require.Empty(t, answer.UserErrors, name)
			if answer.Count != nil {
				require.Equal(t, 1, *answer.Count, b.text)
			}
			if answer.Replay != nil {
				finished(t, s.Client, answer.Replay.ID, "COMPLETED")
			}
			if answer.Count == nil {
				require.Len(t, answer.Nodes, 1, fmt.Sprint(name, b.text))
			}
		}
	}
	require.Equal(t, 5, operations)
	require.Len(t, receiver.Requests(), 3)
}
