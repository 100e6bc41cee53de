// Command profserver is the server with a profiler around it, for the benchmarks: the server itself
// has no profiling endpoint. It writes cpu.pprof over its whole life, heap.pprof and allocs.pprof at
// its end, to the directory that BENCH_PROFILE names.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
	"syscall"

	"github.com/intervengine/webhooks/cli"
)

// collectAt is what the server itself sets.
const collectAt = 200

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	code, err := run()
	if err != nil {
		fmt.Fprintf(os.Stderr, "profserver: %v\n", err)
	}
	os.Exit(code)
}

func run() (code int, err error) {
	dir := os.Getenv("BENCH_PROFILE")
	if dir == "" {
		return 2, errors.New("BENCH_PROFILE names no directory")
	}
	cpu, err := os.Create(filepath.Join(dir, "cpu.pprof"))
	if err != nil {
		return 1, fmt.Errorf("create profile: %w", err)
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return 1, fmt.Errorf("start profile: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code = cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	pprof.StopCPUProfile()
	errs := []error{cpu.Close()}
	for _, name := range []string{"heap", "allocs"} {
		errs = append(errs, write(dir, name))
	}
	return code, errors.Join(errs...)
}

// write keeps one of the runtime's own profiles.
func write(dir, name string) error {
	file, err := os.Create(filepath.Join(dir, name+".pprof"))
	if err != nil {
		return fmt.Errorf("create profile: %w", err)
	}
	return errors.Join(pprof.Lookup(name).WriteTo(file, 0), file.Close())
}
