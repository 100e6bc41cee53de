package cli

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/intervengine/webhooks/app"
	"github.com/intervengine/webhooks/queue"
)

// serve runs a process in the given role until it is told to stop.
func (p *program) serve(role app.Role) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		config, err := p.load(role)
		if err != nil {
			return err
		}
		logger, output := newProcessLogger(config, p.stderr)
		defer output.flush()
		quietLibraries(logger)
		a, err := app.New(cmd.Context(), app.Options{
			Config: config, Role: role, Logger: logger, LogDropped: output.Dropped, Version: version(),
		})
		if err != nil {
			return err
		}
		if err := a.Start(cmd.Context()); err != nil {
			return err
		}
		if key := a.NewAdminKey(); key != "" {
			announceAdminKey(p.stdout, key)
		}
		return p.wait(cmd.Context(), a, config, logger)
	}
}

// wait blocks until the process is told to stop or a part of it failed, and stops it within the
// grace.
func (p *program) wait(ctx context.Context, a *app.App, config *app.Config, logger *slog.Logger) error {
	var fault error
	select {
	case <-ctx.Done():
	case fault = <-a.Faults():
	}
	logger.InfoContext(ctx, "stopping", "grace", config.ShutdownGrace.String())
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), config.ShutdownGrace+app.StopMargin)
	defer cancel()
	if err := a.Stop(stopCtx); fault == nil {
		fault = err
	}
	if fault == nil {
		logger.InfoContext(stopCtx, "stopped")
	}
	return fault
}

// load reads the configuration for a role. A worker has a port of its own by default, so that
// both roles start on one machine without a word.
func (p *program) load(role app.Role) (*app.Config, error) {
	return app.LoadConfig(func(name string) (string, bool) {
		v, ok := p.lookup(name)
		if name == "LISTEN_ADDR" && (!ok || v == "") && role == app.RoleWorker {
			if port, set := p.lookup("PORT"); !set || port == "" {
				return "127.0.0.1:8081", true
			}
		}
		return v, ok
	})
}

// announceAdminKey prints the generated key: the only time that it is ever shown.
func announceAdminKey(w io.Writer, key string) {
	fmt.Fprintf(w, "\nAdmin API key (shown once, only its hash is stored):\n\n  %s\n\n", key)
}

// quietLibraries silences what libraries write past the logger that they are given: net/http
// prints what a receiver sent unasked, and no body may reach a log.
func quietLibraries(logger *slog.Logger) {
	log.SetOutput(io.Discard)
	queue.LogLibrary(logger)
}

// newProcessLogger is newLogger for a process that serves: nothing in it waits for who reads the log.
func newProcessLogger(config *app.Config, w io.Writer) (*slog.Logger, *logOutput) {
	handler := logHandler(config, w)
	output := newLogOutput(w, handler)
	return slog.New(handler(output)), output
}

func newLogger(config *app.Config, w io.Writer) *slog.Logger {
	return slog.New(logHandler(config, w)(w))
}

// logHandler makes handlers in the configured form, or in that which fits w.
func logHandler(config *app.Config, w io.Writer) func(io.Writer) slog.Handler {
	var level slog.Level
	_ = level.UnmarshalText([]byte(config.LogLevel)) // checked when the configuration was read
	options := &slog.HandlerOptions{Level: level}
	if config.LogFormat == "text" || config.LogFormat == "" && terminal(w) {
		return func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, options) }
	}
	return func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, options) }
}

// terminal reports whether w is one that a person looks at.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
