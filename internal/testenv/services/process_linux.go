package services

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ownGroup makes a child the leader of its own process group, out of reach of the terminal's
// Ctrl-C, and has the kernel send it deathNote when its starter dies.
func ownGroup(deathNote syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: deathNote}
}

// KillLeftovers ends every process that a run left behind, and returns how many there were. They
// are known by the scratch directory: in their environment, or around their working directory.
func KillLeftovers(ctx context.Context, dir string) int {
	count := 0
	// What a process starts while it is being killed is met in the next round.
	for range 100 {
		pids := leftovers(dir)
		if len(pids) == 0 {
			break
		}
		count += len(pids)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
		_ = poll(ctx, 5*time.Second, func() error {
			if slices.ContainsFunc(pids, alive) {
				return errors.New("killed processes are still there")
			}
			return nil
		}) // one that cannot be killed is counted and left
	}
	return count
}

func leftovers(dir string) []int {
	var found []int
	mark := []byte(ScratchEnv + "=" + dir + "\x00")
	for _, pid := range processes() {
		if pid == os.Getpid() || !alive(pid) {
			continue
		}
		root := "/proc/" + strconv.Itoa(pid)
		environment, _ := os.ReadFile(root + "/environ") // other users' are closed, and not ours
		workingDir, _ := os.Readlink(root + "/cwd")
		if bytes.Contains(append(environment, 0), mark) || strings.HasPrefix(workingDir, dir+"/") {
			found = append(found, pid)
		}
	}
	return found
}

func processes() []int {
	var found []int
	paths, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	for _, path := range paths {
		if pid, err := strconv.Atoi(filepath.Base(path)); err == nil {
			found = append(found, pid)
		}
	}
	return found
}

// descendants returns the children of a process, their children and so on.
func descendants(parent int) []int {
	children := map[int][]int{}
	for _, pid := range processes() {
		if _, ppid, ok := readStat(pid); ok {
			children[ppid] = append(children[ppid], pid)
		}
	}
	found := append([]int{}, children[parent]...)
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
	}
	return found
}

// alive reports whether a process exists and is more than a zombie that waits for its parent.
func alive(pid int) bool {
	state, _, ok := readStat(pid)
	return ok && state != 'Z' && state != 'X'
}

// readStat returns a process's state and parent. The program's name before them may hold anything.
func readStat(pid int) (state byte, ppid int, ok bool) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, false
	}
	fields := bytes.Fields(content[bytes.LastIndexByte(content, ')')+1:])
	if len(fields) < 2 {
		return 0, 0, false
	}
	ppid, err = strconv.Atoi(string(fields[1]))
	return fields[0][0], ppid, err == nil
}
