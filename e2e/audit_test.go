package e2e

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
)

// A4: the audit suite of graphql-http finds no error and nothing to warn of.
func TestA4_GraphQLOverHTTPAudit(t *testing.T) {
	t.Parallel()
	installJavaScript(t)
	env := apptest.Environment(t, apptest.Embedded)
	server := start(t, env, "serve")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "audit.mjs", server.url()+"/graphql")
	cmd.Dir = "javascript"
	// In the environment: arguments are for everybody on the machine to see.
	cmd.Env = append(cmd.Environ(), "WEBHOOKS_KEY="+env["ADMIN_API_KEY"])
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
	require.Contains(t, string(out), `"ok":`)
	server.stop()
}
