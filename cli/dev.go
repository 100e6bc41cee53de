package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/intervengine/webhooks/app"
	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/intake"
	"github.com/intervengine/webhooks/models"
)

const (
	// inboxWebhook is the external id by which a later start finds its sample webhook again.
	inboxWebhook = "dev-inbox"
	portsTried   = 20
	// firstDelivery bounds the wait for each sample delivery.
	firstDelivery = 30 * time.Second
)

// dev runs everything on the embedded default and shows one verified delivery of each built-in
// event type.
func (p *program) dev() *cobra.Command {
	return &cobra.Command{
		Use: "dev", Short: "Start everything embedded, with an inbox, and show verified deliveries", Args: noArgs,
		Long: `Starts the server on the embedded database and queue, with a built-in receiver (the inbox) and a
sample webhook to it, and emits one event of each built-in type. Made for the first five minutes
and for developing receivers; use serve for everything else.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.runDev(cmd.Context()) },
	}
}

// developer is who `dev` acts as: a platform key of the process itself.
var developer = &auth.Principal{ID: "dev", Scopes: []models.Scope{models.ScopeAdmin}}

func (p *program) runDev(ctx context.Context) error {
	config, err := p.load(app.RoleAll)
	if err != nil {
		return err
	}
	if !config.Explicit("LOG_LEVEL") && terminal(p.stderr) {
		config.LogLevel = "warn" // what the screen is for are the deliveries
	}
	taken, err := freePort(ctx, config)
	if err != nil {
		return err
	}
	exception := netip.MustParsePrefix("127.0.0.1/32")
	config.EgressAllow = append(config.EgressAllow, exception)
	logger, output := newProcessLogger(config, p.stderr)
	defer output.flush()
	quietLibraries(logger)
	sessionKey, _, _ := auth.NewKey()

	d := &devRun{out: newDevOutput(p, config), taken: taken, waiting: map[string]chan app.Receipt{}}
	inbox := app.NewInbox(d.keys, d.received)
	a, err := app.New(ctx, app.Options{
		Config: config, Role: app.RoleAll, Logger: logger, LogDropped: output.Dropped, Version: version(), Inbox: inbox, SessionKey: sessionKey,
	})
	if err != nil {
		return err
	}
	d.app = a
	if err := a.Start(ctx); err != nil {
		return err
	}
	err = d.show(ctx, config, exception)
	if err != nil && ctx.Err() == nil {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), config.ShutdownGrace)
		defer cancel()
		return errors.Join(err, a.Stop(stopCtx))
	}
	return p.wait(ctx, a, config, logger)
}

// freePort moves LISTEN_ADDR to the next port that is free and gives the one that was not.
func freePort(ctx context.Context, config *app.Config) (taken string, err error) {
	host, port, err := net.SplitHostPort(config.ListenAddr)
	if err != nil {
		return "", err
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return "", &app.ConfigError{Problems: []string{fmt.Sprintf("LISTEN_ADDR: %q is not a port", port)}}
	}
	for n := range portsTried {
		addr := net.JoinHostPort(host, strconv.Itoa(number+n))
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err != nil {
			continue
		}
		_ = listener.Close()
		if n > 0 {
			taken = config.ListenAddr
			config.ListenAddr = addr
		}
		return taken, nil
	}
	return "", fmt.Errorf("none of the %d ports from %s on is free; set LISTEN_ADDR", portsTried, config.ListenAddr)
}

// devRun is one run of `dev`: what it emits, what its inbox gets, and what it prints of both.
type devRun struct {
	app *app.App
	out *devOutput

	mu      sync.Mutex
	waiting map[string]chan app.Receipt // sample events, by id
	early   map[string]app.Receipt      // receipts that were faster than the emit's answer
	base    string
	taken   string // the address that was not free, or ""
}

func (d *devRun) show(ctx context.Context, config *app.Config, exception netip.Prefix) error {
	_, port, err := net.SplitHostPort(d.app.Addr().String())
	if err != nil {
		return err
	}
	d.base = "http://127.0.0.1:" + port
	if err := d.ensureWebhook(ctx); err != nil {
		return fmt.Errorf("create sample webhook: %w", err)
	}
	d.out.facts(devFacts{
		base: d.base, login: d.base + d.app.LoginLink(), adminKey: d.app.NewAdminKey(), exception: exception.String(),
		dataDir: config.DataDir, taken: d.taken,
	})
	for _, t := range catalogue.Builtin() {
		if strings.HasPrefix(t.Name, "webhook.") {
			continue
		}
		if err := d.sample(ctx, t); err != nil {
			return err
		}
	}
	d.out.next(d.base)
	return nil
}

// ensureWebhook makes the sample webhook, or points the one of an earlier start at this port.
func (d *devRun) ensureWebhook(ctx context.Context) error {
	target := d.base + "/inbox"
	external := inboxWebhook
	_, _, err := d.app.Control().CreateWebhook(ctx, developer, control.WebhookInput{
		ExternalID: &external, Name: "Inbox", TargetURL: target, EventTypes: []string{"*"}, Signing: models.SigningHMAC,
	})
	var problems models.Problems
	if !errors.As(err, &problems) || len(problems) != 1 || problems[0].Code != models.CodeConflict {
		return err
	}
	id := *problems[0].ConflictingID
	if _, err := d.app.Control().UpdateWebhook(ctx, developer, id,
		control.WebhookChange{TargetURL: control.Field[string]{Set: true, Value: &target}}, nil); err != nil {
		return err
	}
	_, err = d.app.Control().ResumeWebhook(ctx, developer, id)
	return err
}

// sample emits the type's example and shows its way to the inbox.
func (d *devRun) sample(ctx context.Context, t models.EventType) error {
	started := time.Now()
	d.mu.Lock()
	d.early = map[string]app.Receipt{}
	d.mu.Unlock()
	out := d.app.Intake().Emit(ctx, developer, []intake.Input{{EventType: t.Name, Data: []byte(*t.Example)}})[0]
	if out.Err != nil {
		return fmt.Errorf("emit %s: %w", t.Name, out.Err)
	}
	arrived := make(chan app.Receipt, 1)
	d.mu.Lock()
	if r, ok := d.early[out.Event.ID]; ok {
		arrived <- r
	} else {
		d.waiting[out.Event.ID] = arrived
	}
	d.early = nil
	d.mu.Unlock()
	d.out.sent(t.Name, out.Event.ID, out.Matched)
	timeout := time.NewTimer(firstDelivery)
	defer timeout.Stop()
	select {
	case r := <-arrived:
		d.out.delivered(r, d.base+"/inbox", r.ReceivedAt.Sub(started))
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timeout.C:
		return fmt.Errorf("%s was not delivered within %s; ask deliveries(filter: {eventId: %q}) why", t.Name, firstDelivery, out.Event.ID)
	}
}

// received is told of every request that the inbox gets.
func (d *devRun) received(ctx context.Context, r app.Receipt) {
	d.mu.Lock()
	arrived, sample := d.waiting[r.ID]
	delete(d.waiting, r.ID)
	early := d.early != nil
	if !sample && early {
		d.early[r.ID] = r
	}
	d.mu.Unlock()
	if sample {
		arrived <- r
		return
	}
	if early {
		return
	}
	event, err := d.app.Store().Tenant(models.Reach{All: true}).Event(ctx, r.ID)
	if err != nil {
		return // not one of ours: the inbox is open to anyone on this machine
	}
	d.out.sent(event.EventType, event.ID, event.Matched)
	d.out.delivered(r, d.base+"/inbox", r.ReceivedAt.Sub(event.CreatedAt))
}

// keys opens the keys of the webhooks that point at the inbox.
func (d *devRun) keys(ctx context.Context) ([]string, error) {
	webhooks, err := d.app.Store().TenantWebhooks(ctx, models.DefaultTenant)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, w := range webhooks {
		if !strings.HasPrefix(w.TargetURL, d.base+"/inbox") {
			continue
		}
		if w.PublicKey != nil {
			keys = append(keys, *w.PublicKey)
			continue
		}
		key, err := d.app.Keyring().OpenSecret(w.SealedKey, w.ID)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key.Reveal())
	}
	return keys, nil
}
