// Command webhooks is Intervengine Webhooks: `go run .` serves with no setup, `go run . dev`
// shows a first verified delivery.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/intervengine/webhooks/cli"
)

func main() {
	// The first signal stops gracefully; after it the default comes back, so a second one ends at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
