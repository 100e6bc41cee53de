// Command client shows the API through a typed client: generated.go is made from the server's
// schema and operations.graphql, so a misspelt field does not compile. It creates a webhook, emits
// an event and prints what became of it.
//
//	WEBHOOKS_KEY=iwk_… go run ./examples/client https://example.com/webhooks
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/Khan/genqlient/graphql"
)

//go:generate go tool genqlient genqlient.yaml

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

// withKey adds the API key to every request.
type withKey struct{ key string }

func (k withKey) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+k.key)
	return http.DefaultTransport.RoundTrip(r)
}

func run(ctx context.Context) error {
	key := os.Getenv("WEBHOOKS_KEY")
	if key == "" || len(os.Args) != 2 {
		return errors.New("usage: WEBHOOKS_KEY=iwk_… client TARGET_URL")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	client := graphql.NewClient(cmp.Or(os.Getenv("WEBHOOKS_URL"), "http://127.0.0.1:8080")+"/graphql",
		&http.Client{Transport: withKey{key}})

	created, err := CreateWebhook(ctx, client, CreateWebhookInput{
		Name: "typed client", TargetUrl: os.Args[1], EventTypes: []string{"participant.created"}, Signing: SigningSchemeHmacSha256,
	})
	if err != nil {
		return fmt.Errorf("create webhook: %w", err)
	}
	if problems := created.CreateWebhook.UserErrors; len(problems) > 0 {
		return fmt.Errorf("create webhook: %v: %s", problems[0].Field, problems[0].Message)
	}
	fmt.Fprintln(os.Stdout, "webhook", created.CreateWebhook.Webhook.Id, "secret key", *created.CreateWebhook.SecretKey)

	emitted, err := EmitEvent(ctx, client, EmitEventInput{
		EventType: "participant.created", Data: json.RawMessage(`{"participant":{"id":"prt_1","name":"Ada Byron"}}`),
	})
	if err != nil {
		return fmt.Errorf("emit event: %w", err)
	}
	if problems := emitted.EmitEvent.UserErrors; len(problems) > 0 {
		return fmt.Errorf("emit event: %v: %s", problems[0].Field, problems[0].Message)
	}
	fmt.Fprintln(os.Stdout, "event", emitted.EmitEvent.Event.Id, "matched", emitted.EmitEvent.Matched)

	// A real application would not wait; deliveries go on by themselves.
	for {
		history, err := DeliveriesOfEvent(ctx, client, emitted.EmitEvent.Event.Id)
		if err != nil {
			return fmt.Errorf("read deliveries: %w", err)
		}
		for _, d := range history.Deliveries.Nodes {
			if d.Status != DeliveryStatusPending {
				fmt.Fprintln(os.Stdout, "delivery", d.Id, d.Status)
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
