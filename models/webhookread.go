package models

import (
	"context"
	"encoding/json"
	"strings"

	"gorm.io/gorm"
)

// Webhook gives a webhook by id, deleted ones too: their history stays readable.
func (t *Tenant) Webhook(ctx context.Context, id string) (Webhook, error) {
	return one[Webhook](ctx, t, PrefixWebhook, id)
}

// WebhookByExternalID gives the webhook with the caller's own key, which is unique among a tenant's
// webhooks that are not deleted. A reach over all tenants looks in the one named.
func (t *Tenant) WebhookByExternalID(ctx context.Context, tenant, externalID string) (Webhook, error) {
	return take[Webhook](ctx, t.store, func(db *gorm.DB) *gorm.DB {
		return equal(t.of(db, &Webhook{}, &tenant).Where("deleted_at IS NULL"), "external_id", &externalID)
	})
}

// WebhooksByIDs gives webhooks by id, deleted ones too. Unknown ids are absent.
func (t *Tenant) WebhooksByIDs(ctx context.Context, ids []string) (map[string]Webhook, error) {
	return byIDs(ctx, t, PrefixWebhook, ids, webhookID)
}

// Webhooks lists webhooks that are not deleted, newest first.
func (t *Tenant) Webhooks(ctx context.Context, f WebhookFilter, p Page) (Result[Webhook], error) {
	return page(ctx, t.store, byID("webhooks", "", PrefixWebhook, webhookID), p, func(db *gorm.DB) []*gorm.DB {
		return []*gorm.DB{t.webhooks(db, f)}
	})
}

// WebhookCount counts what Webhooks lists over all its pages.
func (t *Tenant) WebhookCount(ctx context.Context, f WebhookFilter) (int, error) {
	return count(ctx, t.store, func(db *gorm.DB) *gorm.DB { return t.webhooks(db, f) })
}

func webhookID(w *Webhook) string { return w.ID }

func (t *Tenant) webhooks(db *gorm.DB, f WebhookFilter) *gorm.DB {
	q := t.of(db, &Webhook{}, f.Tenant).Where("deleted_at IS NULL")
	q = equal(q, "status", f.Status)
	if f.EventType != nil {
		q = subscribed(q, *f.EventType)
	}
	if f.Search != nil && *f.Search != "" {
		if !storable(*f.Search) {
			return nothing(q)
		}
		const like = ` LIKE lower(?) ESCAPE '\'`
		s := contains(*f.Search)
		q = q.Where("lower(name)"+like+" OR lower(target_url)"+like+" OR lower(external_id)"+like, s, s, s)
	}
	return q
}

// subscribed narrows q to the webhooks that list the pattern, or a pattern that takes in the
// name. The list is stored as a JSON array of texts that need no escapes, so an entry is found
// with its quotes; replace compares bytes on both databases, which LIKE does not.
func subscribed(q *gorm.DB, eventType string) *gorm.DB {
	if !storable(eventType) {
		return nothing(q)
	}
	var conditions []string
	var entries []any
	for _, pattern := range patterns(eventType) {
		entry, err := json.Marshal(pattern)
		if err != nil { // a string always encodes
			return nothing(q)
		}
		conditions = append(conditions, "replace(event_types, ?, '') <> event_types")
		entries = append(entries, string(entry))
	}
	return q.Where("("+strings.Join(conditions, " OR ")+")", entries...)
}

// patterns are the entries of a subscription that take in eventType: itself and, where it is a
// name and not a pattern, the wildcards above it. "*" leaves out the notices webhook.*.
func patterns(eventType string) []string {
	found := []string{eventType}
	if strings.HasSuffix(eventType, "*") {
		return found
	}
	for i := len(eventType) - 1; i > 0; i-- {
		if eventType[i] == '.' {
			found = append(found, eventType[:i]+".*")
		}
	}
	if !strings.HasPrefix(eventType, "webhook.") {
		found = append(found, "*")
	}
	return found
}

// InForce is a webhook with what it was at some config epoch.
type InForce struct {
	Webhook Webhook
	// Revision is the newest of the webhook's revisions up to that epoch; nil where the webhook was
	// created later.
	Revision *Revision
}

// inForce is a row of RevisionsInForce: the webhook's columns and, prefixed, the revision's, all NULL
// where there is none.
type inForce struct {
	Webhook  `gorm:"embedded"`
	Revision Revision `gorm:"embedded;embeddedPrefix:r_"`
}

// revisionColumns are selected by name, since two tables share most of theirs.
var revisionColumns = []string{
	"webhook_id", "revision", "epoch", "tenant", "event_types", "filter", "payload_query",
	"status", "status_reason", "deleted", "created_at",
}

// RevisionsInForce lists, newest first, the webhooks that a tenant had at a config epoch, deleted
// since or not, and those that it has now. parent is the object that the list is shown under; its
// cursors are bound to it. A tenant out of reach has none.
func (t *Tenant) RevisionsInForce(ctx context.Context, tenant, parent string, epoch int64, p Page) (Result[InForce], error) {
	columns := make([]string, 0, len(revisionColumns)+1)
	columns = append(columns, "webhooks.*")
	for _, c := range revisionColumns {
		columns = append(columns, "r."+c+" AS r_"+c)
	}
	out := !storable(tenant) || !t.reach.All && tenant != t.reach.Tenant
	l := byID("explain", parent, PrefixWebhook, func(r *inForce) string { return r.ID })
	l.column = "webhooks.id"
	rows, err := page(ctx, t.store, l, p, func(db *gorm.DB) []*gorm.DB {
		// In: the epoch. Out: each webhook of the tenant with at most one revision.
		q := db.Table("webhooks").Select(strings.Join(columns, ", ")).Joins(`LEFT JOIN webhook_revisions AS r ON r.webhook_id = webhooks.id AND r.revision =
				(SELECT MAX(revision) FROM webhook_revisions WHERE webhook_id = webhooks.id AND epoch <= ?)`, epoch).
			Where("webhooks.tenant = ?", tenant).
			// A webhook that was gone by then, or came and went since, says nothing about the event.
			Where("((r.webhook_id IS NOT NULL AND NOT r.deleted) OR (r.webhook_id IS NULL AND webhooks.deleted_at IS NULL))")
		if out {
			q = nothing(q)
		}
		return []*gorm.DB{q}
	})
	if err != nil {
		return Result[InForce]{}, err
	}
	items := make([]InForce, len(rows.Items))
	for i, row := range rows.Items {
		items[i].Webhook = row.Webhook
		if row.Revision.WebhookID != "" {
			items[i].Revision = &row.Revision
		}
	}
	return Result[InForce]{Items: items, Cursors: rows.Cursors, HasNext: rows.HasNext, HasPrevious: rows.HasPrevious}, nil
}
