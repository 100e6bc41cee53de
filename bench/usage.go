package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// tick is the unit of CPU time in /proc: USER_HZ, which Linux has fixed at 100 for programs.
const tick = 10 * time.Millisecond

// A party is a process, or a process with its children, whose use of the machine is reported.
type party struct {
	name string
	pid  int
}

// stat is what /proc/<pid>/stat says.
type stat struct {
	parent int
	own    time.Duration // user and system
	waited time.Duration // that of children which have ended
}

func readStat(pid int) (stat, error) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, fmt.Errorf("read CPU time: %w", err)
	}
	// The program's name may hold anything; the fields after it are counted from 3.
	fields := bytes.Fields(content[bytes.LastIndexByte(content, ')')+1:])
	number := func(n int) int64 {
		if n-3 >= len(fields) {
			return 0
		}
		value, _ := strconv.ParseInt(string(fields[n-3]), 10, 64) // the kernel writes numbers
		return value
	}
	return stat{
		parent: int(number(4)),
		own:    time.Duration(number(14)+number(15)) * tick,
		waited: time.Duration(number(16)+number(17)) * tick,
	}, nil
}

// cpu is the CPU time that the process and its children have used so far.
func (p party) cpu() (time.Duration, error) {
	own, err := readStat(p.pid)
	if err != nil {
		return 0, err
	}
	total := own.own + own.waited
	if p.pid == os.Getpid() {
		return own.own, nil // its children are parties of their own
	}
	paths, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			continue
		}
		// A child that ends between listing and reading is counted by its parent next time.
		if child, err := readStat(pid); err == nil && child.parent == p.pid {
			total += child.own + child.waited
		}
	}
	return total, nil
}

// meter measures how much CPU parties use from now on.
type meter struct {
	parties []party
	before  []time.Duration
	began   time.Time
}

func startMeter(parties []party) (*meter, error) {
	m := &meter{parties: parties, before: make([]time.Duration, len(parties)), began: time.Now()}
	for n, p := range parties {
		var err error
		if m.before[n], err = p.cpu(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// used gives each party's CPU time since the start, and how long that was.
func (m *meter) used() (map[string]time.Duration, time.Duration, error) {
	took := time.Since(m.began)
	out := map[string]time.Duration{}
	for n, p := range m.parties {
		now, err := p.cpu()
		if err != nil {
			return nil, 0, err
		}
		out[p.name] += now - m.before[n]
	}
	return out, took, nil
}

// resident is the process's memory in bytes.
func resident(pid int) (int64, error) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	fields := bytes.Fields(content)
	if len(fields) < 2 {
		return 0, fmt.Errorf("read memory: %q has no second field", content)
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	return pages * int64(os.Getpagesize()), nil
}
