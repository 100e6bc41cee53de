package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/intervengine/webhooks/bench/baseline"
	"github.com/intervengine/webhooks/bench/receiver"
)

// A scenario is something that can be measured.
type scenario struct {
	name, doc string
	run       func(*bench, context.Context) error
}

// scenarios gives all of them, in the order in which they run.
func scenarios() []scenario {
	return []scenario{
		{"saturated", "deliveries a second with callers that never wait, against the baseline", (*bench).singles},
		{"batches", "the same with emitEvents", (*bench).batches},
		{"latency", "from before an emit is sent until the receiver has its delivery, at a low rate", (*bench).latency},
		{"idle", "CPU of a server that has nothing to do", (*bench).idle},
		{"memory", "resident memory under load and after it", (*bench).memory},
		{"fairness", "a healthy webhook beside a hanging, a slow and a rate-limited one", (*bench).fairness},
		{"live", "memory of each follower of the live feed, and how long an event takes to reach all of them", (*bench).live},
		{"steady", "what a server holds that is driven for long at a part of its capacity", (*bench).steady},
	}
}

// options are the flags.
type options struct {
	stacks   []string
	callers  int
	batch    int
	duration time.Duration
	rounds   int
	rate     float64
	idle     time.Duration
	backlog  int
	// followers is how many follow at once in live; one key may have 1,000 subscriptions open.
	followers int
	long      time.Duration
	server    string
	against   string
	profile   string
	baseline  bool
	json      string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, log io.Writer) error {
	// The receiver and the baseline are this program again, in processes of their own.
	switch {
	case len(args) == 1 && args[0] == receiverCommand:
		return receiver.Run(ctx, out)
	case len(args) == 1 && args[0] == baselineCommand:
		return baseline.Run(ctx, os.Getenv, out)
	}
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(log)
	stacks := flags.String("stacks", embedded+","+production, "comma-separated: "+embedded+", "+production)
	flags.IntVar(&o.callers, "callers", 64, "callers at once where the load is saturating")
	flags.IntVar(&o.batch, "batch", 20, "events of one call in the scenario batches")
	flags.DurationVar(&o.duration, "duration", 5*time.Second, "length of one round")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds of each system that is compared")
	flags.Float64Var(&o.rate, "rate", 20, "emits a second where latency is measured")
	flags.DurationVar(&o.idle, "idle", 30*time.Second, "how long the idle server is watched")
	flags.IntVar(&o.backlog, "backlog", 10_000, "events that wait for each bad webhook in fairness")
	flags.IntVar(&o.followers, "followers", 1_000, "followers at once in live")
	flags.DurationVar(&o.long, "long", time.Minute, "how long the server is driven in steady")
	flags.StringVar(&o.server, "server", "", "server binary to measure (default: built from this module)")
	flags.StringVar(&o.against, "against", "", "a second server binary to measure beside it, such as that of an older commit")
	flags.StringVar(&o.profile, "profile", "", "directory to write the server's CPU and heap profiles to")
	flags.BoolVar(&o.baseline, "baseline", true, "measure the naive baseline too")
	flags.StringVar(&o.json, "json", "", "file to write the tables to as JSON")
	flags.Usage = func() {
		fmt.Fprintln(log, "usage: bench [flags] [scenario ...]\n\nscenarios (default: all):")
		for _, s := range scenarios() {
			fmt.Fprintf(log, "  %-10s %s\n", s.name, s.doc)
		}
		fmt.Fprintln(log, "\nflags:")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.stacks = strings.Split(*stacks, ",")
	for _, stack := range o.stacks {
		if stack != embedded && stack != production {
			return fmt.Errorf("stack %q is unknown: there are %s and %s", stack, embedded, production)
		}
	}
	if o.callers < 1 || o.batch < 1 || o.rounds < 1 || o.followers < 1 || o.rate <= 0 || o.backlog < 0 || o.duration <= 0 || o.idle <= 0 || o.long <= 0 {
		return errors.New("flags must be positive")
	}
	chosen := flags.Args()
	for _, name := range chosen {
		if !slices.ContainsFunc(scenarios(), func(s scenario) bool { return s.name == name }) {
			return fmt.Errorf("scenario %q is unknown; -h lists them", name)
		}
	}
	return measure(ctx, o, chosen, out, log)
}

// measure runs the chosen scenarios, prints what they found, and stops all that it started. Tables
// that are complete are printed though a later scenario fails.
func measure(ctx context.Context, o options, chosen []string, out, log io.Writer) (err error) {
	b, err := newBench(ctx, o, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	for _, s := range scenarios() {
		if len(chosen) > 0 && !slices.Contains(chosen, s.name) {
			continue
		}
		b.logf("%s: %s", s.name, s.doc)
		if err = s.run(b, ctx); err != nil {
			err = fmt.Errorf("%s: %w", s.name, err)
			break
		}
	}
	for _, t := range b.tables {
		t.print(out)
	}
	fmt.Fprintf(out, "%s\n", b.machine)
	if o.json != "" {
		err = errors.Join(err, writeJSON(o.json, b.machine, b.tables))
	}
	return err
}
