// Package graph is the API: GraphQL over HTTP, and nothing else. A resolver takes the principal,
// makes one call of intake, control or the scoped store, and maps what comes back.
//
// It hides what a public GraphQL endpoint has to do beyond that: it reads bodies strictly and within
// bounds, counts what a document asks for before it validates it, keeps JSON values as the text that
// they came as, and gives every error a code. gqlgen's own transports and executor are not used,
// only its generated code: they quote bodies in errors and turn numbers into floats.
//
// Invariants:
//   - nobody without valid credentials gets more than __typename;
//   - a field with @auth is resolved only under that scope, by whatever path it is reached, and no
//     path leads from what EMIT may call to another's data;
//   - tenant data is reached through Store.Tenant alone;
//   - no answer and no log line repeats a body, a variable or a literal.
package graph

import (
	"context"
	"log/slog"
	"maps"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/gorilla/websocket"
	"github.com/vektah/gqlparser/v2/ast"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/intake"
	"github.com/intervengine/webhooks/live"
	"github.com/intervengine/webhooks/models"
)

// Options is what New needs. Store, Intake, Control, Live, Auth and Logger are required.
type Options struct {
	Store   *models.Store
	Intake  *intake.Intake
	Control *control.Control
	Live    *live.Feed
	// Auth checks the credentials that come over a WebSocket, and ends subscriptions with theirs.
	Auth   *auth.Authenticator
	Logger *slog.Logger
	// Circuits tells the state of webhooks' circuit breakers; nil: they are all taken to be closed.
	Circuits Circuits
	// Limits bounds what one request may ask for; zero fields mean the defaults.
	Limits Limits
	// Streams bounds what runs over WebSockets and server-sent events; zero fields mean the defaults.
	Streams StreamLimits
	// Timeout bounds answering one request; 30 s by default. Reading it is for the server to bound.
	Timeout time.Duration
	// DisableAfter is how long a webhook may fail without a success before it is disabled, for
	// WebhookHealth.disableAt. Zero: it is never disabled, and the field is null.
	DisableAfter time.Duration
	// Now is the clock that default windows of statistics end at, time.Now by default.
	Now func() time.Time
}

// Circuits reads the circuit breakers that the workers share.
type Circuits interface {
	Circuits(ctx context.Context, webhookIDs []string) (map[string]models.Circuit, error)
}

// Handler answers GraphQL requests: over HTTP POST with one answer or with server-sent events, and
// over WebSockets. The credentials are in the request's context, where auth's middleware puts them,
// or in a WebSocket's first message. It is safe for concurrent use. Stop ends its streams.
type Handler struct {
	schema    graphql.ExecutableSchema
	types     *ast.Schema
	documents *documents
	limits    Limits
	timeout   time.Duration
	logger    *slog.Logger
	loaders   func(ctx context.Context) context.Context
	auth      *auth.Authenticator
	upgrader  *websocket.Upgrader
	streams   streams
}

// New makes a Handler. It panics where a required option is missing.
func New(o Options) *Handler {
	if o.Store == nil || o.Intake == nil || o.Control == nil || o.Live == nil || o.Auth == nil || o.Logger == nil {
		panic("graph: a required option is missing")
	}
	o.Limits.setDefaults(o.Intake.MaxBatch())
	o.Streams.setDefaults()
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &Resolver{
		store: o.Store, intake: o.Intake, control: o.Control, live: o.Live, disableAfter: o.DisableAfter, now: o.Now,
		circuits: o.Circuits, logger: o.Logger,
	}
	config := generated.Config{Resolvers: r, Directives: generated.DirectiveRoot{Auth: requireScope}}
	config.Schema = withoutDefer(generated.NewExecutableSchema(config).Schema())
	h := &Handler{
		schema: generated.NewExecutableSchema(config), types: config.Schema, limits: o.Limits,
		timeout: o.Timeout, logger: o.Logger, loaders: r.withLoaders, auth: o.Auth, upgrader: newUpgrader(),
		streams: streams{limits: o.Streams, stop: map[*stopper]struct{}{}, callers: map[callerKey]int{}},
	}
	h.documents = newDocuments(h.types, &h.limits)
	return h
}

// withoutDefer is the schema without @defer, which the parser adds to every schema: an answer here is
// one JSON document.
func withoutDefer(schema *ast.Schema) *ast.Schema {
	s := *schema
	s.Directives = maps.Clone(schema.Directives)
	delete(s.Directives, "defer")
	return &s
}

// Resolver is the root of all resolvers. Its methods are in the files of their topics.
type Resolver struct {
	store        *models.Store
	intake       *intake.Intake
	control      *control.Control
	live         *live.Feed
	disableAfter time.Duration
	now          func() time.Time
	circuits     Circuits
	logger       *slog.Logger
}

var _ generated.ResolverRoot = (*Resolver)(nil)
