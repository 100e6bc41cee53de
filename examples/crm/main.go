// Command crm is a small receiver: a contact list that mirrors Intervengine's participants. It
// shows all that a receiver has to do: read the body as it is, verify it with the secret key,
// answer quickly, and take each event once however often it comes.
//
//	WEBHOOK_SECRET=whsec_… go run ./examples/crm
//
// POST /webhooks receives, GET /contacts shows the list.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "crm:", err)
		os.Exit(1)
	}
}

func run() error {
	secret := os.Getenv("WEBHOOK_SECRET")
	if secret == "" {
		return errors.New("WEBHOOK_SECRET is empty: set it to the key that createWebhook showed")
	}
	receiver, err := newReceiver(secret)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := &http.Server{
		Addr:    cmp.Or(os.Getenv("CRM_ADDR"), "127.0.0.1:9000"),
		Handler: receiver.routes(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second,
	}
	context.AfterFunc(ctx, func() {
		shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(shutdown)
	})
	fmt.Fprintln(os.Stderr, "crm: receiving at http://"+server.Addr+"/webhooks")
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
