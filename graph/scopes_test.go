package graph_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vektah/gqlparser/v2/ast"

	"github.com/intervengine/webhooks/models"
)

// The contract's rules on scopes, written a second time so that a directive that is lost or changed
// is found: what each root field needs, what each field needs that has a rule of its own, and who may
// ever see an object of each type. "" is anyone with a key.
var (
	rootRules = map[string]string{
		"Query.viewer": "", "Query.node": "READ", "Query.nodes": "READ", "Query.webhook": "READ", "Query.webhooks": "READ",
		"Query.eventTypes": "READ", "Query.eventType": "READ", "Query.eventCatalogueSdl": "READ", "Query.event": "READ",
		"Query.events": "READ", "Query.delivery": "READ", "Query.deliveries": "READ", "Query.deliveryStats": "READ",
		"Query.previewDelivery": "MANAGE", "Query.replay": "READ", "Query.replays": "READ", "Query.apiKeys": "ADMIN",
		"Mutation.createWebhook": "MANAGE", "Mutation.updateWebhook": "MANAGE", "Mutation.deleteWebhook": "MANAGE",
		"Mutation.pauseWebhook": "MANAGE", "Mutation.resumeWebhook": "MANAGE", "Mutation.disableWebhook": "MANAGE",
		"Mutation.rotateWebhookSecretKey": "MANAGE", "Mutation.testWebhook": "MANAGE", "Mutation.upsertEventType": "ADMIN",
		"Mutation.emitEvent": "EMIT", "Mutation.emitEvents": "EMIT", "Mutation.cancelEvent": "MANAGE", "Mutation.eraseEvent": "MANAGE",
		"Mutation.redeliver": "MANAGE", "Mutation.cancelDelivery": "MANAGE", "Mutation.replayDeliveries": "MANAGE",
		"Mutation.cancelReplay": "MANAGE", "Mutation.createApiKey": "ADMIN", "Mutation.revokeApiKey": "ADMIN",
		"Subscription.deliveryUpdated": "READ", "Subscription.eventEmitted": "READ",
	}
	fieldRules = map[string]string{"Event.deliveries": "READ", "Event.explain": "READ", "EmitEventPayload.deliveries": "READ"}

	typeRules = map[string][]string{
		"Viewer": {""}, "UserError": {"MANAGE", "EMIT"}, "SourceLocation": {"MANAGE", "EMIT"}, "PageInfo": {"READ"},
		"Webhook": {"READ"}, "WebhookConnection": {"READ"}, "WebhookEdge": {"READ"}, "WebhookHealth": {"READ"}, "Header": {"READ"},
		"EventType": {"READ"}, "EventTypeConnection": {"READ"}, "EventTypeEdge": {"READ"},
		"Event": {"READ", "EMIT"}, "EventConnection": {"READ"}, "EventEdge": {"READ"}, // EMIT: its own, see below
		"Delivery": {"READ"}, "DeliveryConnection": {"READ"}, "DeliveryEdge": {"READ"},
		"Attempt": {"READ"}, "AttemptTiming": {"READ"}, "HttpRequest": {"READ"}, "HttpResponse": {"READ"},
		"DeliveryStats": {"READ"}, "DeliveryStatsBucket": {"READ"},
		"MatchExplanation": {"READ"}, "MatchExplanationConnection": {"READ"}, "MatchExplanationEdge": {"READ"},
		"Replay": {"READ"}, "ReplayConnection": {"READ"}, "ReplayEdge": {"READ"},
		"DeliveryUpdate": {"READ"}, "EventUpdate": {"READ"},
		"ApiKey": {"ADMIN"}, "ApiKeyConnection": {"ADMIN"}, "ApiKeyEdge": {"ADMIN"},
		"CreateWebhookPayload": {"MANAGE"}, "UpdateWebhookPayload": {"MANAGE"}, "DeleteWebhookPayload": {"MANAGE"},
		"PauseWebhookPayload": {"MANAGE"}, "ResumeWebhookPayload": {"MANAGE"}, "DisableWebhookPayload": {"MANAGE"},
		"RotateWebhookSecretKeyPayload": {"MANAGE"}, "TestWebhookPayload": {"MANAGE"}, "PreviewDeliveryPayload": {"MANAGE"},
		"CancelEventPayload": {"MANAGE"}, "EraseEventPayload": {"MANAGE"}, "RedeliverPayload": {"MANAGE"},
		"CancelDeliveryPayload": {"MANAGE"}, "ReplayDeliveriesPayload": {"MANAGE"}, "CancelReplayPayload": {"MANAGE"},
		"EmitEventPayload": {"EMIT"}, "EmitEventsPayload": {"EMIT"},
		"UpsertEventTypePayload": {"ADMIN"}, "CreateApiKeyPayload": {"ADMIN"}, "RevokeApiKeyPayload": {"ADMIN"},
	}
)

// may reports whether a scope is enough for a rule.
func may(scope, rule string) bool { return rule == "" || covers[scope][rule] }

// step is a field on a path from a root, on an object of its type.
type step struct {
	on    *ast.Definition
	field *ast.FieldDefinition
}

func (s step) name() string { return s.on.Name + "." + s.field.Name }

// rule is what the schema says that the field needs.
func (s step) rule() string {
	if d := s.field.Directives.ForName("auth"); d != nil {
		return d.Arguments.ForName("scope").Value.Raw
	}
	return ""
}

// walk visits every path from a root to each field that comes through no type twice; what a longer
// one passes once more has the same rules. visit is given the path, the field last.
func walk(s *ast.Schema, root *ast.Definition, visit func(path []step)) {
	var from func(def *ast.Definition, path []step)
	from = func(def *ast.Definition, path []step) {
		for _, field := range def.Fields {
			if strings.HasPrefix(field.Name, "__") {
				continue
			}
			here := slices.Concat(path, []step{{def, field}})
			visit(here)
			next := s.Types[field.Type.Name()]
			if !next.IsCompositeType() {
				continue
			}
			for _, object := range s.GetPossibleTypes(next) {
				if !slices.ContainsFunc(here, func(p step) bool { return p.on == object }) {
					from(object, here)
				}
			}
		}
	}
	from(root, nil)
}

func roots(s *ast.Schema) []*ast.Definition {
	found := []*ast.Definition{s.Query, s.Mutation}
	if s.Subscription != nil {
		found = append(found, s.Subscription)
	}
	return found
}

// A2 of issue 5: every field has a rule, the schema says the same, and no path leads a scope to an
// object that is not for it.
func TestA1_EveryPathToEveryFieldHasARule(t *testing.T) {
	t.Parallel()
	s := schema(t)
	isRoot := map[string]bool{}
	for _, root := range roots(s) {
		isRoot[root.Name] = true
	}
	for _, def := range s.Types {
		if def.Kind != ast.Object || def.BuiltIn || strings.HasPrefix(def.Name, "__") {
			continue
		}
		_, known := typeRules[def.Name]
		assert.Truef(t, known || isRoot[def.Name], "%s has no rule: say in typeRules who may see one", def.Name)
		for _, field := range def.Fields {
			if strings.HasPrefix(field.Name, "__") {
				continue
			}
			at := step{def, field}
			want := fieldRules[at.name()]
			if isRoot[def.Name] {
				rule, ok := rootRules[at.name()]
				want = rule
				assert.Truef(t, ok, "%s has no rule: say in rootRules what it needs", at.name())
			}
			assert.Equalf(t, want, at.rule(), "%s: @auth is not what the contract says", at.name())
		}
	}

	paths := 0
	for _, root := range roots(s) {
		walk(s, root, func(path []step) {
			for scope := range covers {
				paths++
				allowed := true
				for _, p := range path {
					allowed = allowed && may(scope, p.rule())
				}
				last := path[len(path)-1]
				if !allowed || isRoot[last.on.Name] {
					continue
				}
				assert.Truef(t, slices.ContainsFunc(typeRules[last.on.Name], func(rule string) bool { return may(scope, rule) }),
					"%s reaches %s through %s", scope, last.name(), written(path))
				if scope == "EMIT" && last.on.Name == "Event" {
					assert.Containsf(t, []string{"emitEvent", "emitEvents"}, path[0].field.Name, "EMIT reads an event that is not its own: %s", written(path))
				}
			}
		})
	}
	t.Logf("%d pairs of scope and path", paths)
	assert.Greater(t, paths, 1000)
}

func written(path []step) string {
	names := make([]string, len(path))
	for i, p := range path {
		names[i] = p.field.Name
	}
	return strings.Join(names, ".")
}

// longerPaths is of how many questions on paths of more than shortPath steps one is asked: the way to
// a field changes nothing about its rule, which TestA1_EveryPathToEveryFieldHasARule checks on all of them.
const (
	shortPath   = 3
	longerPaths = 10
)

// Every scope asks over HTTP for every field on every short path from a root, and on other longer ones
// at each run, of objects that exist: it gets FORBIDDEN at the first field whose rule it does not meet,
// and else no error.
func TestA1_EveryScopeOnEveryPath(t *testing.T) {
	t.Parallel()
	f := setup(t)
	s := schema(t)
	webhook := f.create(t, f.manage, "w")
	require.Empty(t, f.do(t, f.manage, `mutation { updateWebhook(id: "`+webhook+`", input: {headers: [{name: "x-a", value: "b"}]}) { userErrors { code } } }`, nil).Errors)
	event := f.emitted(t, f.emit, "message.sent", `{}`)
	v := get[tree](t, f, f.read, `{ deliveries { nodes { id } } }`, nil)
	delivery := v.at("deliveries", "nodes").([]any)[0].(map[string]any)["id"].(string)
	f.attempt(t, delivery, models.OutcomeHTTPError)
	// What reaches an object that exists, and changes nothing that another path needs.
	arguments := map[string]string{
		"Query.node": `(id: "` + delivery + `")`, "Query.node Webhook": `(id: "` + webhook + `")`, "Query.node Event": `(id: "` + event + `")`,
		"Query.node Attempt": `(id: "` + models.AttemptID(delivery, 1) + `")`,
		"Query.nodes":        `(ids: ["` + webhook + `", "` + event + `", "` + delivery + `", "` + models.AttemptID(delivery, 1) + `"])`,
		"Query.webhook":      `(id: "` + webhook + `")`, "Query.event": `(id: "` + event + `")`, "Query.delivery": `(id: "` + delivery + `")`,
		"Query.eventType": `(name: "message.sent")`, "Query.previewDelivery": `(input: {webhookId: "` + webhook + `", eventId: "` + event + `"})`,
		"Mutation.updateWebhook": `(id: "` + webhook + `", input: {})`, "Mutation.resumeWebhook": `(id: "` + webhook + `")`,
		"Mutation.emitEvent": `(input: {eventType: "message.sent", data: {}, idempotencyKey: "one"})`, "Mutation.emitEvents": `(inputs: [{eventType: "message.sent", data: {}, idempotencyKey: "one"}])`,
	}
	keys := map[string]string{"READ": f.read, "MANAGE": f.manage, "EMIT": f.emit, "ADMIN": f.admin}
	paths, asks, queries := 0, 0, 0
	for _, root := range []*ast.Definition{s.Query, s.Mutation} {
		groups := asked(s, root, &paths)
		groups = slices.DeleteFunc(groups, func(q question) bool { return len(q.path) > shortPath && rand.N(longerPaths) > 0 })
		asks += len(groups)
		for batch := range slices.Chunk(groups, batchSize) {
			var query strings.Builder
			for i, q := range batch {
				fmt.Fprintf(&query, "q%d: %s\n", i, q.selection(s, arguments))
			}
			text := strings.ToLower(root.Name) + " { " + query.String() + " }"
			for scope, key := range keys {
				queries++
				told := map[string][]responseError{}
				r := f.do(t, key, text, nil)
				for _, e := range r.Errors {
					require.NotEmptyf(t, e.Path, "%s: %s", text, e.Message)
					told[e.Path[0].(string)] = append(told[e.Path[0].(string)], e)
				}
				for i, q := range batch {
					q.judge(t, scope, told[fmt.Sprintf("q%d", i)])
				}
			}
		}
	}
	t.Logf("%d questions on %d paths, by each scope, in %d queries", asks, paths, queries)
	assert.Greater(t, asks, 300)
}

// place tells paths apart that have the same names through different types.
func place(path []step) string {
	var b strings.Builder
	for _, p := range path {
		fmt.Fprintf(&b, "%s.", p.name())
	}
	return b.String()
}

// question asks for fields of the object that a path leads to.
type question struct {
	path   []step
	on     *ast.Definition // the type that has the fields, where the path leads to an interface
	fields []string
}

// asked are questions for every field on every path, and how many paths those are: an object's
// fields without children of their own are asked for together.
func asked(s *ast.Schema, root *ast.Definition, paths *int) []question {
	var all []question
	index := map[string]int{}
	walk(s, root, func(path []step) {
		*paths++
		last := path[len(path)-1]
		switch {
		case s.Types[last.field.Type.Name()].IsCompositeType():
			all = append(all, question{path: path, fields: []string{"__typename"}})
		case len(path) == 1:
			all = append(all, question{path: path})
		default:
			at := place(path[:len(path)-1]) + last.on.Name
			i, ok := index[at]
			if !ok {
				i = len(all)
				index[at] = i
				all = append(all, question{path: path[:len(path)-1], on: last.on})
			}
			all[i].fields = append(all[i].fields, last.field.Name)
		}
	})
	return all
}

// batchSize is how many questions are asked in one document.
const batchSize = 8

// judge compares the errors that a question got with the rules on its path.
func (q question) judge(t *testing.T, scope string, errors []responseError) {
	t.Helper()
	refused := slices.IndexFunc(q.path, func(p step) bool { return !may(scope, p.rule()) })
	for _, e := range errors {
		require.GreaterOrEqualf(t, refused, 0, "%s may ask for %s, and is told: %s", scope, written(q.path), e.Message)
		require.Equalf(t, "FORBIDDEN", e.Extensions["code"], "%s: %s: %s", scope, written(q.path), e.Message)
		require.Equalf(t, below(written(q.path[:refused+1])), below(fields(e.Path)), "%s: %s", scope, written(q.path))
	}
	// A rule further down speaks only where there is an object above it, as there is in every emit.
	if refused == 0 || refused > 0 && scope == "EMIT" {
		require.NotEmptyf(t, errors, "%s must not ask for %s", scope, written(q.path))
	}
}

// below is a path without its root field, which goes by another name in an answer.
func below(path string) string {
	_, rest, _ := strings.Cut(path, ".")
	return rest
}

// selection is the question as a selection that follows the path through one object of each list.
func (q question) selection(s *ast.Schema, arguments map[string]string) string {
	text, on := strings.Join(q.fields, " "), q.on
	for i, p := range slices.Backward(q.path) {

		if on != nil && s.Types[p.field.Type.Name()].Kind == ast.Interface {
			text = "... on " + on.Name + " { " + text + " }"
		}
		arg := arguments[p.name()]
		if a, ok := arguments[p.name()+" "+typeName(on)]; ok {
			arg = a
		}
		switch {
		case arg != "":
		case i == 0:
			arg = required(s, p.field)
		case p.field.Arguments.ForName("first") != nil:
			arg = "(first: 1)"
		}
		if text != "" {
			text = " { " + text + " }"
		}
		text, on = p.field.Name+arg+text, p.on
	}
	return text
}

func typeName(d *ast.Definition) string {
	if d == nil {
		return ""
	}
	return d.Name
}

// required gives a root field harmless values for what it cannot do without.
func required(s *ast.Schema, field *ast.FieldDefinition) string {
	var args []string
	for _, a := range field.Arguments {
		if a.Type.NonNull && a.DefaultValue == nil {
			args = append(args, a.Name+": "+harmless(s, a.Type))
		}
	}
	if field.Arguments.ForName("first") != nil {
		args = append(args, "first: 1")
	}
	if len(args) == 0 {
		return ""
	}
	return "(" + strings.Join(args, ", ") + ")"
}

// fields are the names in an error's path.
func fields(path []any) string {
	var names []string
	for _, p := range path {
		if name, ok := p.(string); ok {
			names = append(names, name)
		}
	}
	return strings.Join(names, ".")
}
