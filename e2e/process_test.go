package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app/apptest"
)

// binary is the server, built once for all tests.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "webhooks-e2e-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "webhooks")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", binary, "..")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the server:", err)
		return 1
	}
	return m.Run()
}

// process is a running command of the server.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdout *lines
	stderr *lines
	done   chan struct{} // closed when it has ended
	err    error         // of Wait, once done
}

// start runs the server's command with exactly these variables.
func start(t testing.TB, env map[string]string, args ...string) *process {
	t.Helper()
	return startProgram(t, binary, env, args...)
}

func startProgram(t testing.TB, program string, env map[string]string, args ...string) *process {
	t.Helper()
	// Not of the test's context: a test ends its processes itself, by the signal that it is about.
	cmd := exec.CommandContext(context.Background(), program, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"HOME=" + cmd.Dir, "PATH=" + os.Getenv("PATH")}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	p := &process{t: t, cmd: cmd, stdout: &lines{}, stderr: &lines{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.stdout, p.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.done
		if t.Failed() {
			t.Logf("%s %v\nstdout:\n%s\nstderr:\n%s", filepath.Base(program), args, p.stdout.tail(), p.stderr.tail())
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// kill ends the process at once, as a power cut would.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// stop ends the process gracefully and fails the test where it does not end well.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	require.Equal(p.t, 0, p.wait(), "exit code; stderr:\n%s", p.stderr)
}

// wait gives the exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(60 * time.Second):
		p.t.Fatalf("process did not end; stderr:\n%s", p.stderr.tail())
	}
	return p.cmd.ProcessState.ExitCode()
}

var servingAt = regexp.MustCompile(`"msg":"serving".*"address":"([^"]+)"`)

// url waits until the process serves and gives its address.
func (p *process) url() string {
	p.t.Helper()
	var addr string
	apptest.Eventually(p.t, func() (bool, string) {
		if p.ended() {
			p.t.Fatalf("process ended with %v; stderr:\n%s", p.err, p.stderr)
		}
		if m := servingAt.FindStringSubmatch(p.stderr.String()); m != nil {
			addr = m[1]
		}
		return addr != "", "not serving yet; stderr:\n" + p.stderr.tail()
	})
	return "http://" + addr
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// lines keeps what a process wrote.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tail is the end of what was written, enough to see what went wrong.
func (l *lines) tail() string {
	const most = 8 << 10
	s := l.String()
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
}

// all gives the lines written so far.
func (l *lines) all() []string {
	var out []string
	scanner := bufio.NewScanner(strings.NewReader(l.String()))
	for scanner.Scan() {
		out = append(out, scanner.Text())
	}
	return out
}

// get fetches a page.
func get(t testing.TB, url string, header http.Header) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	maps.Copy(request.Header, header)
	client := &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

// freeAddr is a loopback address that nobody listens on at the moment.
func freeAddr(t testing.TB) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// eventID reads data.emitEvent.event.id, "" where there is none.
func eventID(data json.RawMessage) string {
	var out struct {
		EmitEvent *struct{ Event *struct{ ID string } }
	}
	if json.Unmarshal(data, &out) != nil || out.EmitEvent == nil || out.EmitEvent.Event == nil {
		return ""
	}
	return out.EmitEvent.Event.ID
}
