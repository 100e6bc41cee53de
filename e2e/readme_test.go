package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

var readmeCommand = regexp.MustCompile("(?s)<!-- test:([a-z]+) -->\n```sh\n(.*?)```")

// The README's commands do what it says, as they stand there.
func TestReadmeCommandsWork(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	commands := map[string]string{}
	for _, m := range readmeCommand.FindAllStringSubmatch(string(readme), -1) {
		commands[m[1]] = m[2]
	}
	require.Len(t, commands, 3)

	receiver := receivertest.New(t)
	env := apptest.Environment(t, apptest.Embedded)
	server := start(t, env, "serve")
	url := server.url()
	shell := func(name string, out any) {
		t.Helper()
		script := strings.NewReplacer(
			"http://127.0.0.1:8080", url, "http://127.0.0.1:9000/webhooks", receiver.URL(),
		).Replace(commands[name])
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
		cmd.Env = append(os.Environ(), "KEY="+env["ADMIN_API_KEY"])
		stdout, err := cmd.Output()
		require.NoError(t, err)
		require.NotContains(t, string(stdout), `"errors"`)
		require.NoError(t, json.Unmarshal(stdout, out), "%s", stdout)
	}

	var created struct {
		Data struct{ CreateWebhook struct{ SecretKey string } }
	}
	shell("create", &created)
	receiver.Secret(created.Data.CreateWebhook.SecretKey)
	var emitted struct {
		Data struct {
			EmitEvent struct {
				Event     struct{ ID string }
				Matched   int
				Duplicate bool
			}
		}
	}
	shell("emit", &emitted)
	require.Equal(t, 1, emitted.Data.EmitEvent.Matched)
	first := receiver.Wait(t, 1)[0]
	require.NoError(t, first.SignatureErr)
	require.Equal(t, emitted.Data.EmitEvent.Event.ID, first.ID())
	shell("emit", &emitted)
	require.True(t, emitted.Data.EmitEvent.Duplicate)

	apptest.Eventually(t, func() (bool, string) {
		var history struct {
			Data struct {
				Deliveries struct {
					Nodes []struct {
						Status   string
						Attempts []struct {
							Response *struct{ Status int }
						}
					}
				}
			}
		}
		shell("history", &history)
		nodes := history.Data.Deliveries.Nodes
		return len(nodes) == 1 && nodes[0].Status == "SUCCEEDED" && nodes[0].Attempts[0].Response.Status == http.StatusOK, nodes[0].Status
	})
	server.stop()
}
