package intake

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

const (
	// maxDepth bounds how deep data nests: receivers' parsers stop at 512 or later.
	maxDepth = 500
	// maxKeyLength bounds an idempotency key.
	maxKeyLength = 255
	// noticePrefix begins the types that the system alone emits.
	noticePrefix = "webhook."
)

// item is one event on its way into a commit.
type item struct {
	event      models.Event
	hash       string // of what an idempotency key stands for; "" without one
	only       *models.Webhook
	body       *string // for only: data as it is sent, nil for that of the event
	except     string
	catalogue  *catalogue.Catalogue // it was validated against
	index      *catalogue.Index     // it was matched against
	matches    []catalogue.Match
	deliveries []models.Delivery
}

// prepare validates the input and matches it against the snapshot in memory. Nothing is written.
func (i *Intake) prepare(ctx context.Context, p *auth.Principal, in Input, s stamp) (*item, error) {
	tenant, err := p.TenantFor(in.Tenant)
	if err != nil {
		return nil, err
	}
	var problems models.Problems
	if !auth.ValidTenant(tenant) {
		problems.Add(models.CodeInvalid, []string{"tenant"}, "a tenant's name has 1 to %d printable characters", auth.MaxTenantLength)
	}
	if strings.HasPrefix(in.EventType, noticePrefix) {
		problems.Add(models.CodeInvalid, []string{"eventType"}, "webhook.* events are the system's own notices and cannot be emitted")
	}
	return i.prepareFor(ctx, tenant, in, s, problems)
}

// prepareFor is prepare for a tenant that is settled. problems is what is known to be wrong already:
// it is told together with all else.
func (i *Intake) prepareFor(ctx context.Context, tenant string, in Input, s stamp, problems models.Problems) (*item, error) {
	snap, err := i.snapshots.get(ctx)
	if err != nil {
		return nil, err
	}
	refused := slices.ContainsFunc(problems, func(p models.Problem) bool { return p.Path[0] == "eventType" })
	data, dataProblems := i.checkData(in.Data)
	problems = append(append(problems, dataProblems...), checkKey(in.IdempotencyKey)...)
	if !refused { // one word about the type is enough
		typeProblems := checkType(snap.catalogue, in.EventType, data)
		if len(typeProblems) > 0 {
			// The snapshot may be older than an answered change of the catalogue; only a refusal has to care.
			if snap, err = i.snapshots.fresh(ctx); err != nil {
				return nil, err
			}
			typeProblems = checkType(snap.catalogue, in.EventType, data)
		}
		problems = append(problems, typeProblems...)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}

	it := &item{
		event: models.Event{
			ID: s.id, Tenant: tenant, EventType: in.EventType, Data: &data,
			Timestamp: models.Instant(s.now), IdempotencyKey: in.IdempotencyKey,
		},
		catalogue: snap.catalogue,
	}
	if in.Timestamp != nil {
		it.event.Timestamp = models.Instant(*in.Timestamp)
	}
	if in.DeliverAt != nil {
		at := models.Instant(*in.DeliverAt)
		it.event.DeliverAt = &at
	}
	if in.IdempotencyKey != nil {
		it.hash = fingerprint(in, data)
	}
	// A tenant that is not in memory yet is loaded inside the commit, once for all its callers.
	if ix := snap.tenants[tenant]; ix != nil {
		it.match(ix)
	}
	return it, nil
}

// checkData gives data in compact form, its numbers and strings untouched.
func (i *Intake) checkData(raw []byte) (string, models.Problems) {
	var problems models.Problems
	path := []string{"data"}
	if !utf8.Valid(raw) {
		problems.Add(models.CodeInvalid, path, "data is not valid UTF-8")
		return "", problems
	}
	if depth(raw) > maxDepth {
		problems.Add(models.CodeInvalid, path, "data nests deeper than %d levels", maxDepth)
		return "", problems
	}
	var compact bytes.Buffer
	compact.Grow(len(raw))
	if err := json.Compact(&compact, raw); err != nil {
		problems.Add(models.CodeInvalid, path, "data is not valid JSON")
		return "", problems
	}
	if b := compact.Bytes(); len(b) == 0 || b[0] != '{' {
		problems.Add(models.CodeInvalid, path, "data must be a JSON object, for example {\"participant\": {\"id\": \"p_1\"}}")
		return "", problems
	}
	if n := compact.Len(); n > i.opt.MaxEventBytes {
		problems.Add(models.CodeTooLarge, path, "data is %d bytes of compact JSON; at most %d are allowed", n, i.opt.MaxEventBytes)
		return "", problems
	}
	return compact.String(), problems
}

// depth counts how deep brackets nest outside of strings, without recursion.
func depth(raw []byte) int {
	level, deepest := 0, 0
	inString := false
	for n := 0; n < len(raw); n++ {
		switch c := raw[n]; {
		case inString && c == '\\':
			n++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

func checkKey(key *string) models.Problems {
	var problems models.Problems
	if key == nil {
		return nil
	}
	path := []string{"idempotencyKey"}
	switch n := utf8.RuneCountInString(*key); {
	case n == 0:
		problems.Add(models.CodeInvalid, path, "the idempotency key is empty; leave it out or give 1 to %d characters", maxKeyLength)
	case n > maxKeyLength:
		problems.Add(models.CodeTooLong, path, "the idempotency key has %d characters; at most %d are allowed", n, maxKeyLength)
	case !utf8.ValidString(*key) || strings.ContainsRune(*key, 0):
		problems.Add(models.CodeInvalid, path, "the idempotency key must be text without NUL characters")
	}
	return problems
}

func checkType(c *catalogue.Catalogue, name, data string) models.Problems {
	var problems models.Problems
	t, ok := c.Type(name)
	switch {
	case !ok:
		problems.Add(models.CodeUnknownEventType, []string{"eventType"}, "%s", c.UnknownType(name))
	case t.Status == models.EventTypeArchived:
		problems.Add(models.CodeNotAllowedNow, []string{"eventType"}, "event type %s is archived and takes no new events", name)
	case data != "":
		for _, p := range c.CheckData(name, data) {
			p.Path = []string{"data"}
			problems = append(problems, p)
		}
	}
	return problems
}

// match decides which webhooks of ix the event goes to.
func (it *item) match(ix *catalogue.Index) {
	it.index = ix
	it.matches = ix.Match(it.matchable())
}

// matchable is the event as the catalogue looks at it.
func (it *item) matchable() catalogue.Event {
	return catalogue.Event{ID: it.event.ID, Type: it.event.EventType, Timestamp: it.event.Timestamp, Data: *it.event.Data}
}
