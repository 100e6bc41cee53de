package e2e

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
)

// ended runs a command to its end.
func ended(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	p := start(t, env, args...)
	code = p.wait()
	return code, p.stdout.String(), p.stderr.String()
}

func TestO5_BadUsageAndConfigurationStopTheStartWithOneLine(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		env  map[string]string
		args []string
		want []string
	}{
		"bad value":         {map[string]string{"ATTEMPT_TIMEOUT": "2 minutes"}, []string{"serve"}, []string{"ATTEMPT_TIMEOUT", "from 1ms to 60s"}},
		"bad value, config": {map[string]string{"WEBHOOK_SHARE": "2"}, []string{"config"}, []string{"WEBHOOK_SHARE", "0.001 to 1"}},
		"no master key":     {map[string]string{"DATABASE_URL": "postgres://u:hunter2@127.0.0.1:1/x"}, []string{"api"}, []string{"SECRETS_KEY"}},
		"unknown flag":      {nil, []string{"serve", "--prot=1"}, []string{"--prot"}},
		"unknown command":   {nil, []string{"sevre"}, []string{"sevre"}},
		"stray argument":    {nil, []string{"serve", "now"}, []string{"now"}},
		"bad scope":         {nil, []string{"keys", "create", "--name=x", "--scopes=ROOT"}, []string{"--scopes", "READ, MANAGE, EMIT and ADMIN"}},
		"no name":           {nil, []string{"keys", "create"}, []string{"--name"}},
		"bad key id":        {nil, []string{"keys", "revoke", "x"}, []string{"key_"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := ended(t, test.env, test.args...)
			require.Equal(t, 2, code, stderr)
			require.Empty(t, stdout)
			require.Len(t, strings.Split(strings.TrimSpace(stderr), "\n"), 1, stderr)
			require.NotContains(t, stderr, "hunter2")
			for _, part := range test.want {
				require.Contains(t, stderr, part)
			}
		})
	}
}

func TestO5_ConfigPrintsSettingsWithTheirSourceAndMasksSecrets(t *testing.T) {
	t.Parallel()
	env := map[string]string{"REDIS_URL": "redis://:hunter2@127.0.0.1:1", "MAX_BATCH": "7", "ADMIN_API_KEY": "hunter2-hunter2-hunter2"}
	code, stdout, _ := ended(t, env, "config", "--json")
	require.Zero(t, code)
	require.NotContains(t, stdout, "hunter2")
	var settings []struct{ Name, Value, Default, Source string }
	require.NoError(t, json.Unmarshal([]byte(stdout), &settings))
	found := map[string][2]string{}
	for _, s := range settings {
		found[s.Name] = [2]string{s.Value, s.Source}
	}
	require.Equal(t, [2]string{"7", "environment"}, found["MAX_BATCH"])
	require.Equal(t, [2]string{"********", "environment"}, found["ADMIN_API_KEY"])
	require.Equal(t, [2]string{"20s", "default"}, found["SHUTDOWN_GRACE"])
}

func TestU2_ServeOnATakenPortFailsWithOneLine(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	code, _, stderr := ended(t, map[string]string{"LISTEN_ADDR": taken.Addr().String()}, "serve")
	require.Equal(t, 1, code)
	last := strings.Split(strings.TrimSpace(stderr), "\n")
	require.Contains(t, last[len(last)-1], "webhooks: address "+taken.Addr().String()+" is not free")
}

func TestFault22_ASecondProcessOnTheEmbeddedDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	first := start(t, map[string]string{"DATA_DIR": dir, "LISTEN_ADDR": "127.0.0.1:0"}, "serve")
	first.url()
	code, _, stderr := ended(t, map[string]string{"DATA_DIR": dir, "LISTEN_ADDR": "127.0.0.1:0"}, "serve")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "webhooks.db")
	first.stop()
}

func TestA1_TheFirstStartPrintsItsAdminKeyOnce(t *testing.T) {
	t.Parallel()
	env := map[string]string{"DATA_DIR": filepath.Join(t.TempDir(), "data"), "LISTEN_ADDR": "127.0.0.1:0"}
	first := start(t, env, "serve")
	url := first.url()
	var key string
	apptest.Eventually(t, func() (bool, string) {
		for _, line := range first.stdout.all() {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "iwk_") {
				key = line
			}
		}
		return key != "", "stdout: " + first.stdout.String()
	})
	require.NotContains(t, first.stderr.String(), key, "a key is never logged")
	var out struct{ Viewer struct{ Scopes []string } }
	apptest.NewClient(url, key).Query(t, `{ viewer { scopes } }`, nil, &out)
	require.Equal(t, []string{"ADMIN"}, out.Viewer.Scopes)
	first.stop()

	second := start(t, env, "serve")
	apptest.NewClient(second.url(), key).Query(t, `{ viewer { scopes } }`, nil, &out)
	second.stop()
	require.Empty(t, strings.TrimSpace(second.stdout.String()))
}

func TestKeysOnTheDatabaseItself(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		env := apptest.Environment(t, stack)
		code, stdout, stderr := ended(t, env, "keys", "create", "--name=reader", "--tenant=acme", "--scopes=read,emit", "--json")
		require.Zero(t, code, stderr)
		var made struct{ ID, Key string }
		require.NoError(t, json.Unmarshal([]byte(stdout), &made))
		code, stdout, _ = ended(t, env, "keys", "list")
		require.Zero(t, code)
		require.Contains(t, stdout, made.ID)
		require.NotContains(t, stdout, made.Key)

		server := start(t, env, "serve")
		var out struct {
			Viewer struct {
				Tenant string
				Scopes []string
			}
		}
		apptest.NewClient(server.url(), made.Key).Query(t, `{ viewer { tenant scopes } }`, nil, &out)
		require.Equal(t, "acme", out.Viewer.Tenant)
		server.stop()

		code, _, stderr = ended(t, env, "keys", "revoke", made.ID)
		require.Zero(t, code, stderr)
		server = start(t, env, "serve")
		a, err := apptest.NewClient(server.url(), made.Key).Post(t.Context(), `{ viewer { tenant } }`, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"UNAUTHENTICATED"}, a.Codes())
		server.stop()
	})
}

func TestO4_HealthAndReadinessNameEachPart(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		env := apptest.Environment(t, stack)
		server := start(t, env, "serve")
		url := server.url()
		status, _ := get(t, url+"/healthz", nil)
		require.Equal(t, http.StatusOK, status)
		status, body := get(t, url+"/readyz", nil)
		require.Equal(t, http.StatusOK, status)
		var ready struct {
			Status string
			Parts  map[string]struct{ Status string }
		}
		require.NoError(t, json.Unmarshal([]byte(body), &ready))
		require.Equal(t, "ready", ready.Status)
		for _, part := range []string{"database", "queue", "migrations", "worker", "reconciler"} {
			require.Equal(t, "ok", ready.Parts[part].Status, part)
		}
		code, _, stderr := ended(t, map[string]string{"LISTEN_ADDR": strings.TrimPrefix(url, "http://")}, "healthcheck")
		require.Zero(t, code, stderr)
		server.stop()
		code, _, _ = ended(t, map[string]string{"LISTEN_ADDR": strings.TrimPrefix(url, "http://")}, "healthcheck")
		require.Equal(t, 1, code)
	})
}

func TestO1_TheQueueUIIsForAdminsAndReadOnly(t *testing.T) {
	t.Parallel()
	apptest.Each(t, func(t *testing.T, stack apptest.Stack) {
		env := apptest.Environment(t, stack)
		server := start(t, env, "serve")
		url := server.url()
		admin := http.Header{"Authorization": {"Bearer " + env["ADMIN_API_KEY"]}}
		for _, page := range []string{"/asynq/", "/asynq/api/queues", "/metrics"} {
			status, _ := get(t, url+page, nil)
			require.Equal(t, http.StatusUnauthorized, status, page)
			status, _ = get(t, url+page, admin)
			require.Equal(t, http.StatusOK, status, page)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/asynq/api/queues", nil)
		require.NoError(t, err)
		request.SetBasicAuth("anyone", env["ADMIN_API_KEY"])
		response, err := (&http.Client{}).Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode, "as a browser asks")
		request, err = http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/asynq/api/queues/deliveries:pause", nil)
		require.NoError(t, err)
		request.Header = admin
		response, err = (&http.Client{}).Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusMethodNotAllowed, response.StatusCode, "read-only")
		server.stop()
	})
}
