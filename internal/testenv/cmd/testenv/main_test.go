package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/internal/testenv/services"
)

const limit = time.Minute

// binary is the command, whose whole life is under test: its signals and its exit.
var binary string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "testenv-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "testenv")
	output, err := exec.CommandContext(context.Background(), "go", "build", "-buildvcs=false", "-o", binary, ".").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "build the command: %v\n%s", err, output)
		return 1
	}
	return m.Run()
}

// start runs the command as on a machine where no server is named, and returns its first line.
func start(t *testing.T, environment []string, arguments ...string) (*exec.Cmd, *bufio.Reader, *bytes.Buffer) {
	t.Helper()
	command := exec.CommandContext(t.Context(), binary, arguments...)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "TEST_") {
			command.Env = append(command.Env, variable)
		}
	}
	command.Env = append(command.Env, environment...)
	var log bytes.Buffer
	command.Stderr = &log
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	return command, bufio.NewReader(out), &log
}

func wait(t *testing.T, command *exec.Cmd, log *bytes.Buffer) (code int) {
	t.Helper()
	_ = command.Wait() // the code is what counts
	require.NotNil(t, command.ProcessState, log.String())
	return command.ProcessState.ExitCode()
}

func gone(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool { return syscall.Kill(pid, 0) != nil }, limit, time.Millisecond)
}

const script = `echo "$TEST_SCRATCH_DIR"; echo "$TEST_DATABASE_URL $TEST_REDIS_URL $TEST_POSTGRES_BIN $TEST_REDIS_BINARY"
sleep 1000 & echo $!`

// readScript returns what the script printed: the scratch directory, the variables, a process.
func readScript(t *testing.T, out *bufio.Reader) (dir string, variables []string, pid int) {
	t.Helper()
	var lines [3]string
	for i := range lines {
		line, err := out.ReadString('\n')
		require.NoError(t, err)
		lines[i] = strings.TrimSpace(line)
	}
	_, err := fmt.Sscan(lines[2], &pid)
	require.NoError(t, err)
	require.DirExists(t, lines[0])
	return lines[0], strings.Fields(lines[1]), pid
}

func TestRunsACommandAndLeavesNothing(t *testing.T) {
	t.Parallel()
	command, out, log := start(t, nil, "--", "sh", "-c", script+"; read -r line <&3 || exit 3")
	dir, variables, pid := readScript(t, out)
	require.Len(t, variables, 4)
	require.Equal(t, 3, wait(t, command, log))
	require.NoDirExists(t, dir)
	gone(t, pid)
	require.Contains(t, log.String(), "testenv: ended 1 processes that the command left\n")
}

func TestSignalsEndEverything(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		signal syscall.Signal
		code   int
	}{
		{"Ctrl-C", syscall.SIGINT, 130},
		{"termination", syscall.SIGTERM, 143},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			command, out, log := start(t, nil, "--", "sh", "-c", script+"; wait")
			dir, _, pid := readScript(t, out)
			require.NoError(t, command.Process.Signal(test.signal))
			require.Equal(t, test.code, wait(t, command, log), log.String())
			require.NoDirExists(t, dir)
			gone(t, pid)
		})
	}
}

func TestASecondSignalKills(t *testing.T) {
	t.Parallel()
	command, out, log := start(t, nil, "--", "sh", "-c", "trap 'echo trapped' INT; "+script+"; while :; do sleep 1; done")
	dir, _, _ := readScript(t, out)
	require.NoError(t, command.Process.Signal(syscall.SIGINT))
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "trapped\n", line)
	require.NoError(t, command.Process.Signal(syscall.SIGINT))
	require.Equal(t, 130, wait(t, command, log))
	require.NoDirExists(t, dir)
}

func TestUsesTheServersThatAreNamed(t *testing.T) {
	t.Parallel()
	command, out, log := start(t, []string{"TEST_DATABASE_URL=postgres://there", "TEST_REDIS_URL=redis://here"},
		"--", "sh", "-c", script)
	_, variables, _ := readScript(t, out)
	require.Equal(t, []string{"postgres://there", "redis://here"}, variables[:2])
	require.Equal(t, 0, wait(t, command, log))
	require.Contains(t, log.String(), "using the server that TEST_REDIS_URL names")
}

func TestServesUntilASignal(t *testing.T) {
	t.Parallel()
	command, out, log := start(t, nil)
	var variables []string
	for range 5 {
		line, err := out.ReadString('\n')
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(line, "export TEST_"), line)
		variables = append(variables, line)
	}
	require.Contains(t, strings.Join(variables, ""), services.DatabaseURLEnv)
	require.NoError(t, command.Process.Signal(syscall.SIGTERM))
	require.Equal(t, 0, wait(t, command, log), log.String())
}

func TestFailsWhenAServerCannotStart(t *testing.T) {
	t.Parallel()
	command, _, log := start(t, []string{services.RedisSourceEnv + "=/nowhere/redis-server"}, "--", "true")
	require.Equal(t, 1, wait(t, command, log))
	require.Contains(t, log.String(), "start the server for TEST_REDIS_URL")
	require.Contains(t, log.String(), "/nowhere/redis-server")
}
