// Package control is what a caller changes, events aside: webhooks and their secret keys, the
// lifecycle of deliveries, API keys.
//
// It hides the rules of input: all that is wrong with a call comes back at once, as
// models.Problems with paths into the API's arguments, and then nothing is saved. It is where
// secrets are made and sealed: what it hands to storage can be read by whoever has the master key
// alone.
//
// Invariants:
//   - a secret key and an API key leave it exactly once, in the answer to what made them;
//   - another tenant's object is answered exactly like one that does not exist;
//   - when pausing, disabling, deleting, cancelling or a change of the URL has answered, no new
//     attempt starts under what was in force before, in any process.
//
// In the flow it sits beside intake: it changes the configuration that intake matches against, and
// reminds the queue of what became due by it. Scopes are its callers' business, tenants its own.
package control

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/queue"
	"github.com/intervengine/webhooks/signing"
)

// Enqueuer puts deliveries on the queue. It may fail or drop: the reconciler repairs.
type Enqueuer interface {
	Enqueue(ctx context.Context, items []queue.Item) error
}

// Tester sends a test event to one webhook, unless something is known to be wrong with it: then it
// answers with that and with what it finds itself.
type Tester interface {
	EmitTest(ctx context.Context, webhook models.Webhook, eventType string, data []byte, known models.Problems) (models.Delivery, error)
}

// Defaults are what a webhook that says nothing gets.
type Defaults struct {
	Timeout  time.Duration
	Schedule models.Schedule
}

// Options are what New needs. All fields are required unless they say otherwise.
type Options struct {
	Store   *models.Store
	Keyring *signing.Keyring
	Guard   *egress.Guard
	// Lookup resolves the hosts of new targets; nil: egress.SystemLookup.
	Lookup egress.LookupFunc
	// Catalogue is the catalogue as of the newest change.
	Catalogue func(ctx context.Context) (*catalogue.Catalogue, error)
	Queue     Enqueuer
	Tester    Tester
	Logger    *slog.Logger
	Defaults  Defaults
	// KeysChanged is called after an API key was made or revoked here, so that this process need
	// not wait to hear of it; nil: it waits.
	KeysChanged func()
	// Version goes into the user agent of previews, as the worker's does into requests.
	Version string
	// Now is the clock, time.Now by default.
	Now func() time.Time
}

// Control changes what callers may change. It is safe for concurrent use.
type Control struct {
	store       *models.Store
	keyring     *signing.Keyring
	guard       *egress.Guard
	lookup      egress.LookupFunc
	catalogue   func(ctx context.Context) (*catalogue.Catalogue, error)
	queue       Enqueuer
	tester      Tester
	logger      *slog.Logger
	defaults    Defaults
	keysChanged func()
	version     string
	now         func() time.Time
}

// New makes a Control. It panics where a required option is missing.
func New(o Options) *Control {
	if o.Store == nil || o.Keyring == nil || o.Guard == nil || o.Catalogue == nil || o.Queue == nil ||
		o.Tester == nil || o.Logger == nil {
		panic("control: a required option is missing")
	}
	if o.Lookup == nil {
		o.Lookup = egress.SystemLookup
	}
	if o.KeysChanged == nil {
		o.KeysChanged = func() {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Control{
		store: o.Store, keyring: o.Keyring, guard: o.Guard, lookup: o.Lookup, catalogue: o.Catalogue,
		queue: o.Queue, tester: o.Tester, logger: o.Logger, defaults: o.Defaults,
		keysChanged: o.KeysChanged, version: o.Version, now: o.Now,
	}
}

// Defaults are what a webhook gets where it says nothing.
func (c *Control) Defaults() Defaults { return c.defaults }

// problem is the one thing that is wrong with a call.
func problem(code models.ProblemCode, path []string, format string, args ...any) error {
	var p models.Problems
	p.Add(code, path, format, args...)
	return p
}

// notFound answers for an object that is missing or another tenant's: nobody can tell which.
func notFound(path ...string) error {
	return problem(models.CodeNotFound, path, "there is no such object")
}

// outdated answers for an expectedVersion that is no longer current.
func outdated(id string) models.Problem {
	return models.Problem{
		Code: models.CodeConflict, Path: []string{"expectedVersion"}, ConflictingID: &id,
		Message: "the webhook was changed in the meantime: read it again and repeat the change",
	}
}

// taken answers for an external id that another webhook has; conflicting is "" where that one was
// deleted at this very moment.
func taken(conflicting string) models.Problem {
	p := models.Problem{
		Code: models.CodeConflict, Path: []string{"input", "externalId"}, Message: "another webhook has this external id",
	}
	if conflicting != "" {
		p.ConflictingID = &conflicting
	}
	return p
}

// translate turns what storage says about the webhook with this id into what its caller can put
// right.
func translate(err error, id string) error {
	var conflict *models.ConflictError
	switch {
	case errors.Is(err, models.ErrVersion):
		return models.Problems{outdated(id)}
	case errors.As(err, &conflict):
		return models.Problems{taken(conflict.ID)}
	default:
		return translateAt(err, "id")
	}
}

// translateAt turns what storage says about the object that an argument names into what its caller
// can put right.
func translateAt(err error, argument string) error {
	var refused *models.NotAllowedError
	switch {
	case errors.Is(err, models.ErrNotFound):
		return notFound(argument)
	case errors.As(err, &refused):
		return problem(models.CodeNotAllowedNow, []string{argument}, "%s", refused.Message)
	default:
		return err
	}
}

// webhook reads a webhook that the caller may change: its own and not deleted.
func (c *Control) webhook(ctx context.Context, p *auth.Principal, id string) (models.Webhook, error) {
	w, err := c.store.Tenant(p.Reach()).Webhook(ctx, id)
	if err == nil && w.DeletedAt != nil {
		err = models.ErrNotFound
	}
	return w, translate(err, id)
}

// remind puts deliveries that became due on the queue. They are due in the database already, so
// a queue that is away only delays them.
func (c *Control) remind(ctx context.Context, items []queue.Item) {
	if len(items) == 0 {
		return
	}
	if err := c.queue.Enqueue(ctx, items); err != nil {
		c.logger.WarnContext(ctx, "queue away, the reconciler will make deliveries due", "deliveries", len(items), "error", err)
	}
}
