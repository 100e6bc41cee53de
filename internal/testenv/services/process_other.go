//go:build unix && !linux

package services

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"syscall"
)

// ownGroup makes a child the leader of its own process group. Only Linux can tie a child's life to
// its parent's; elsewhere a killed run leaves its servers behind.
func ownGroup(syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// KillLeftovers does nothing and returns 0: only Linux shows where a process came from.
func KillLeftovers(context.Context, string) int { return 0 }

// descendants returns the children of a process, their children and so on.
func descendants(parent int) []int {
	output, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output() //nolint:noctx // short
	if err != nil {
		return nil
	}
	children := map[int][]int{}
	lines := bufio.NewScanner(bytes.NewReader(output))
	for lines.Scan() {
		var pid, ppid int
		if _, err := fmt.Sscan(lines.Text(), &pid, &ppid); err == nil {
			children[ppid] = append(children[ppid], pid)
		}
	}
	found := append([]int{}, children[parent]...)
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
	}
	return found
}

// alive reports whether a process exists.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
