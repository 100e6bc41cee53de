package app_test

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// livePage are the parts of docs/live.md.
func livePage(t testing.TB) map[string][]string {
	t.Helper()
	parts := map[string][]string{}
	for _, b := range blocks(t, "live.md") {
		parts[b.kind] = append(parts[b.kind], b.text)
	}
	require.Len(t, parts["graphql"], 2)
	require.Len(t, parts["json websocket"], 1)
	require.Len(t, parts["sh"], 1)
	require.Len(t, parts["text events"], 1)
	return parts
}

var cursorValue = regexp.MustCompile(`"cursor":"[^"]+"`)

// anyCursor makes an answer comparable with the page's.
func anyCursor(text string) string { return cursorValue.ReplaceAllString(text, `"cursor":"CURSOR"`) }

func TestDocs_LiveSubscriptions(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Embedded, nil)
	receiver := receivertest.New(t, receivertest.Default(receivertest.Status(500)))
	create(t, s.Client, receiver.URL(), map[string]any{"retrySchedule": []string{}, "name": "failing"})
	failures, signups := livePage(t)["graphql"][0], livePage(t)["graphql"][1]
	person := func(id, source string) string {
		return `{"participant":{"id":"` + id + `","email":"` + id + `@example.com","source":"` + source + `"}}`
	}

	failed := s.Follow(t, apptest.WebSocket, failures, nil)
	made := s.Follow(t, apptest.Events, signups, nil)
	emit(t, s.Client, "participant.created", person("p_1", "api"))
	emit(t, s.Client, "message.sent", `{}`)
	first := emit(t, s.Client, "participant.created", person("p_2", "web_form"))
	var f struct {
		DeliveryUpdated struct {
			Cursor   string
			Delivery struct {
				Status      string
				Webhook     struct{ Name string }
				LastAttempt struct{ Response struct{ Status int } }
			}
		}
	}
	for range 3 {
		failed.Into(t, &f)
		require.Equal(t, "FAILED", f.DeliveryUpdated.Delivery.Status)
		require.Equal(t, "failing", f.DeliveryUpdated.Delivery.Webhook.Name)
		require.Equal(t, 500, f.DeliveryUpdated.Delivery.LastAttempt.Response.Status)
	}
	var e struct {
		EventEmitted struct {
			Cursor string
			Event  struct{ ID string }
			Data   json.RawMessage
		}
	}
	made.Into(t, &e)
	require.Equal(t, first, e.EventEmitted.Event.ID)
	require.Equal(t, `{"participant":{"id":"p_2","email":"p_2@example.com"}}`, string(e.EventEmitted.Data)) //nolint:testifylint // the very bytes

	// Going on: what happened meanwhile comes, and nothing that came before.
	made.Close()
	missed := emit(t, s.Client, "participant.created", person("p_3", "web_form"))
	again := s.Follow(t, apptest.WebSocket, signups, map[string]any{"after": e.EventEmitted.Cursor})
	again.Into(t, &e)
	require.Equal(t, missed, e.EventEmitted.Event.ID)
	require.Equal(t, []string{"BAD_REQUEST"},
		s.Follow(t, apptest.Events, failures, map[string]any{"after": e.EventEmitted.Cursor}).Next(t).Codes())
}

func TestDocs_LiveWebSocket(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Embedded, nil)
	socket, err := s.Dial(t.Context(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = socket.Close() })
	seen := 0
	for line := range strings.Lines(livePage(t)["json websocket"][0]) {
		arrow, text, found := strings.Cut(strings.TrimSpace(line), " ")
		require.True(t, found)
		if arrow == "→" {
			require.NoError(t, socket.WriteMessage(1, []byte(strings.ReplaceAll(text, "KEY", s.Key))))
			continue
		}
		require.Equal(t, "←", arrow)
		if strings.Contains(text, `"next"`) {
			emit(t, s.Client, "participant.created", `{"participant":{"id":"p_1"}}`)
		}
		_, got, err := socket.ReadMessage()
		require.NoError(t, err)
		require.Equal(t, text, anyCursor(string(got)))
		seen++
	}
	require.Equal(t, 3, seen)
}

func TestDocs_LiveEvents(t *testing.T) {
	t.Parallel()
	s := apptest.Start(t, apptest.Embedded, nil)
	command := exec.CommandContext(t.Context(), "sh", "-ec",
		strings.ReplaceAll(strings.TrimSpace(livePage(t)["sh"][0]), "http://127.0.0.1:8080", s.URL))
	command.Env = append(command.Environ(), "KEY="+s.Key)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait() // it was killed
	})
	lines := bufio.NewReader(out)
	emitted := false
	for want := range strings.Lines(livePage(t)["text events"][0]) {
		if !emitted && strings.HasPrefix(want, "event:") {
			emit(t, s.Client, "participant.created", `{"participant":{"id":"p_1"}}`)
			emitted = true
		}
		got, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, want, anyCursor(got))
	}
	require.True(t, emitted)
}
