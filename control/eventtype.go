package control

import (
	"context"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

// maxBroken bounds the broken webhooks that an answer lists.
const maxBroken = 100

// EventTypeInput writes an event type. In a new one, what is absent gets its default: a title made
// of the name, no description, schema or example, not strict, ACTIVE. In an existing one it stays,
// and null goes back to that default.
type EventTypeInput struct {
	Name        string
	Title       Field[string]
	Description Field[string]
	Schema      Field[string] // JSON Schema as text
	Example     Field[string] // JSON as text
	Strict      Field[bool]
	Status      Field[models.EventTypeStatus]
}

// EventTypeChange is what became, or would become, of an event type.
type EventTypeChange struct {
	// EventType is the type as it is now stored; in a dry run as it would be, without an id where it
	// is new.
	EventType models.EventType
	// Broken are the first 100 of the BrokenCount webhooks of all tenants whose filter or payload
	// query compiles now and does not with the change.
	Broken      []models.Webhook
	BrokenCount int
}

// UpsertEventType writes an event type, or with dryRun says only what that would break. A change
// that breaks webhooks is NOT_ALLOWED_NOW unless force is set; the answer lists them either way.
func (c *Control) UpsertEventType(ctx context.Context, p *auth.Principal, in EventTypeInput, dryRun, force bool) (EventTypeChange, error) {
	if !p.Reach().All { // the catalogue is shared by all tenants
		return EventTypeChange{}, auth.ErrForbiddenTenant
	}
	known, err := c.catalogue(ctx)
	if err != nil {
		return EventTypeChange{}, err
	}
	draft, exists := known.Type(in.Name)
	if !exists {
		draft = models.EventType{Name: in.Name, Status: models.EventTypeActive}
	}
	in.apply(&draft, !exists)
	check := checker{prefix: []string{"input"}}
	check.adopt(known.CheckType(draft))
	if err := check.problems.Err(); err != nil {
		return EventTypeChange{}, err
	}
	change := EventTypeChange{EventType: draft}
	if err := c.findBroken(ctx, known, &change); err != nil {
		return EventTypeChange{}, err
	}
	switch {
	case dryRun:
		return change, nil
	case change.BrokenCount > 0 && !force:
		return change, problem(models.CodeNotAllowedNow, []string{"force"},
			"the change would break the filter or the payload query of %d webhooks; set force to do it nevertheless", change.BrokenCount)
	}
	change.EventType, err = c.store.UpsertEventType(ctx, in.Name, func(t *models.EventType) error {
		// The row may be newer than the catalogue that was asked before.
		in.apply(t, t.CreatedAt.IsZero())
		check.problems = nil
		check.adopt(known.CheckType(*t))
		return check.problems.Err()
	})
	return change, err
}

// apply writes the input into t.
func (in EventTypeInput) apply(t *models.EventType, isNew bool) {
	if in.Title.Set || isNew {
		t.Title = valueOr(in.Title, titleOf(t.Name))
	}
	if in.Description.Set {
		t.Description = in.Description.Value
	}
	if in.Schema.Set {
		t.Schema = in.Schema.Value
	}
	if in.Example.Set {
		t.Example = in.Example.Value
	}
	if in.Strict.Set {
		t.Strict = valueOr(in.Strict, false)
	}
	if in.Status.Set {
		t.Status = valueOr(in.Status, models.EventTypeActive)
	}
}

// titleOf makes "Participant Created" of participant.created.
func titleOf(name string) string {
	words := strings.FieldsFunc(name, func(r rune) bool { return r == '.' || r == '_' })
	for i, word := range words {
		first, size := utf8.DecodeRuneInString(word)
		words[i] = string(unicode.ToUpper(first)) + word[size:]
	}
	return strings.Join(words, " ")
}

// findBroken fills in the webhooks that the change would break, page by page.
func (c *Control) findBroken(ctx context.Context, known *catalogue.Catalogue, change *EventTypeChange) error {
	types := known.Types()
	i := slices.IndexFunc(types, func(t models.EventType) bool { return t.Name == change.EventType.Name })
	if i < 0 {
		types = append(types, change.EventType)
	} else {
		types[i] = change.EventType
	}
	next, err := known.With(types)
	if err != nil {
		return err
	}
	size := models.MaxPageSize
	page := models.Page{First: &size}
	for {
		webhooks, err := c.store.Tenant(models.Reach{All: true}).Webhooks(ctx, models.WebhookFilter{}, page)
		if err != nil {
			return err
		}
		for _, broken := range known.Broken(next, webhooks.Items) {
			change.BrokenCount++
			if len(change.Broken) < maxBroken {
				change.Broken = append(change.Broken, *broken.Webhook)
			}
		}
		if !webhooks.HasNext {
			return nil
		}
		page.After = &webhooks.Cursors[len(webhooks.Cursors)-1]
	}
}
