package e2e

import (
	"context"
	bits "encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// wrongClock is the wall clock of one process, which a test may set while it runs. The process is a
// server in which time.Now itself is wrong, for every library too.
type wrongClock struct {
	t    testing.TB
	file string
}

// newWrongClock makes a clock that is ahead of the right one, or behind, and jitters around that.
func newWrongClock(t testing.TB, ahead, jitter time.Duration) *wrongClock {
	t.Helper()
	c := &wrongClock{t: t, file: filepath.Join(t.TempDir(), "clock")}
	require.NoError(t, os.WriteFile(c.file, make([]byte, 16), 0o600))
	c.set(ahead, jitter)
	return c
}

// set steps the clock; the process sees it at once.
func (c *wrongClock) set(ahead, jitter time.Duration) {
	c.t.Helper()
	file, err := os.OpenFile(c.file, os.O_WRONLY, 0)
	require.NoError(c.t, err)
	defer func() { _ = file.Close() }()
	for n, d := range []time.Duration{ahead, jitter} {
		_, err = file.WriteAt(bits.NativeEndian.AppendUint64(nil, uint64(d)), int64(8*n))
		require.NoError(c.t, err)
	}
}

// wrongServer is the server whose clock may be wrong, built when the first test wants it: the server
// with testdata/wrongclock.go beside its own main.
var wrongServer = sync.OnceValues(func() (string, error) {
	added, err := filepath.Abs("testdata/wrongclock.go")
	if err != nil {
		return "", err
	}
	root := filepath.Dir(filepath.Dir(filepath.Dir(added)))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, "wrongclock.go"): added}})
	if err != nil {
		return "", err
	}
	file := filepath.Join(filepath.Dir(binary), "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return "", err
	}
	built := filepath.Join(filepath.Dir(binary), "webhooks-wrong-clock")
	build := exec.CommandContext(context.Background(), "go", "build", "-overlay", file, "-o", built, "..")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the server with a wrong clock: %w\n%s", err, out)
	}
	return built, nil
})
