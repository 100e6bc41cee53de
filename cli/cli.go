// Package cli is the command line: one file a command. It turns arguments and the environment
// into calls of app, and errors into one line and an exit code.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/intervengine/webhooks/app"
)

// Exit codes.
const (
	exitOK    = 0
	exitFault = 1
	exitUsage = 2
)

// usageError is a mistake in how the program was called.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// program is what every command works with.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookup         func(string) (string, bool)
}

// Main runs the command that args name and gives the process's exit code: 0 after a clean stop,
// 1 for a fault, 2 for bad usage or configuration. ctx ends when the process is told to stop.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{stdin: stdin, stdout: stdout, stderr: stderr, lookup: app.Environment}
	root := p.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var usage *usageError
	var config *app.ConfigError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage), errors.As(err, &config):
		fmt.Fprintln(stderr, "webhooks: "+oneLine(err)+" (see webhooks --help)")
		return exitUsage
	case strings.HasPrefix(err.Error(), "unknown command"):
		// cobra's own error for it has no type.
		fmt.Fprintln(stderr, "webhooks: "+oneLine(err))
		return exitUsage
	default:
		fmt.Fprintln(stderr, "webhooks: "+oneLine(err))
		return exitFault
	}
}

// oneLine keeps an error to the one line that is promised, whatever wrapped library said it.
func oneLine(err error) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "\n", "; ")), " ")
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "webhooks",
		Short: "Intervengine Webhooks: events out to other applications, signed, and never lost",
		Long: `Intervengine Webhooks delivers what happens in Intervengine to other applications as signed
webhooks, and answers every question about a delivery over GraphQL.

Without a command it serves: API, worker, queue UI and console in one process, on an embedded
database and queue unless DATABASE_URL and REDIS_URL say otherwise. Try "dev" first.`,
		SilenceUsage: true, SilenceErrors: true,
		Args:              noArgs,
		RunE:              p.serve(app.RoleAll),
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(
		&cobra.Command{
			Use: "serve", Short: "Run API, worker, reconciler, queue UI and console in one process", Args: noArgs,
			RunE: p.serve(app.RoleAll),
		},
		&cobra.Command{Use: "api", Short: "Run the API alone", Args: noArgs, RunE: p.serve(app.RoleAPI)},
		&cobra.Command{Use: "worker", Short: "Run a worker alone", Args: noArgs, RunE: p.serve(app.RoleWorker)},
		p.dev(), p.migrate(), p.keys(), p.config(), p.healthcheck(), p.version(),
	)
	return root
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}
