package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
	"github.com/intervengine/webhooks/worker/receivertest"
)

// The typed client of the README creates, emits and reads.
func TestTypedClientExample(t *testing.T) {
	t.Parallel()
	server := apptest.Start(t, apptest.Embedded, nil)
	receiver := receivertest.New(t)
	program := filepath.Join(t.TempDir(), "client")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../examples/client")
	build.Stderr = os.Stderr
	require.NoError(t, build.Run())
	cmd := exec.CommandContext(t.Context(), program, receiver.URL())
	cmd.Env = append(os.Environ(), "WEBHOOKS_URL="+server.URL, "WEBHOOKS_KEY="+server.Key)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `(?m)^delivery dlv_\S+ SUCCEEDED$`, string(out))
	require.Len(t, receiver.Requests(), 1)
}
