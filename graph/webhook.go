package graph

import (
	"context"
	"time"

	"github.com/99designs/gqlgen/graphql"

	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

type webhookResolver struct{ *Resolver }

type webhookConnectionResolver struct{ *Resolver }

// Webhook resolves the fields of Webhook that are not stored with it.
func (r *Resolver) Webhook() generated.WebhookResolver { return webhookResolver{r} }

// WebhookConnection resolves what is counted only where it was asked for.
func (r *Resolver) WebhookConnection() generated.WebhookConnectionResolver {
	return webhookConnectionResolver{r}
}

func (r queryResolver) Webhook(ctx context.Context, id, externalID *string) (*models.Webhook, error) {
	p := caller(ctx)
	t := r.store.Tenant(p.Reach())
	switch {
	case (id == nil) == (externalID == nil):
		return nil, &badRequestError{"give exactly one of id and externalId"}
	case id != nil:
		return found(t.Webhook(ctx, *id))
	}
	tenant, err := p.TenantFor(nil)
	if err != nil {
		return nil, err
	}
	return found(t.WebhookByExternalID(ctx, tenant, *externalID))
}

func (r queryResolver) Webhooks(ctx context.Context, first *int, after *string, last *int, before *string, filter *model.WebhookFilter) (*model.WebhookConnection, error) {
	p := caller(ctx)
	var f models.WebhookFilter
	if filter != nil {
		if err := named(p, filter.Tenant); err != nil {
			return nil, err
		}
		f = models.WebhookFilter{Status: filter.Status, EventType: filter.EventType, Search: filter.Search, Tenant: filter.Tenant}
	}
	page, err := r.store.Tenant(p.Reach()).Webhooks(ctx, f, models.Page{First: first, After: after, Last: last, Before: before})
	if err != nil {
		return nil, err
	}
	return &model.WebhookConnection{
		Nodes: page.Items, PageInfo: pageInfo(page), Filter: f,
		Edges: edges(page, func(cursor string, node *models.Webhook) model.WebhookEdge {
			return model.WebhookEdge{Cursor: cursor, Node: node}
		}),
	}, nil
}

func (r webhookConnectionResolver) TotalCount(ctx context.Context, c *model.WebhookConnection) (int, error) {
	return r.store.Tenant(caller(ctx).Reach()).WebhookCount(ctx, c.Filter)
}

func (r webhookResolver) EventTypes(_ context.Context, w *models.Webhook) ([]string, error) {
	return w.EventTypes, nil
}

func (r webhookResolver) Headers(ctx context.Context, w *models.Webhook) ([]models.Header, error) {
	return r.control.Headers(ctx, *w)
}

func (r webhookResolver) Timeout(_ context.Context, w *models.Webhook) (string, error) {
	if w.Timeout != nil {
		return models.FormatDuration(time.Duration(*w.Timeout)), nil
	}
	return models.FormatDuration(r.control.Defaults().Timeout), nil
}

func (r webhookResolver) RetrySchedule(_ context.Context, w *models.Webhook) ([]string, error) {
	schedule := r.control.Defaults().Schedule
	if w.RetrySchedule != nil {
		schedule = *w.RetrySchedule
	}
	steps := make([]string, len(schedule))
	for i, d := range schedule {
		steps[i] = models.FormatDuration(d)
	}
	return steps, nil
}

// PreviousSecretKeyExpiresAt is null once the overlap is over, though the time stays stored.
func (r webhookResolver) PreviousSecretKeyExpiresAt(_ context.Context, w *models.Webhook) (*time.Time, error) {
	if w.PreviousExpiresAt == nil || !w.PreviousExpiresAt.After(r.now()) {
		return nil, nil
	}
	return w.PreviousExpiresAt, nil
}

func (r webhookResolver) Deliveries(ctx context.Context, w *models.Webhook, first *int, after *string, last *int, before *string, filter *model.DeliveryFilter) (*model.DeliveryConnection, error) {
	f, err := deliveryFilter(caller(ctx), filter)
	if err != nil {
		return nil, err
	}
	key, err := newPageKey(w.ID, f, models.Page{First: first, After: after, Last: last, Before: before})
	if err != nil {
		return nil, err
	}
	l := loadersOf(ctx)
	l.webhooks.Prime(w.ID, *w)
	page, err := l.ofWebhook.Load(ctx, key)
	if err != nil {
		return nil, err
	}
	return deliveryConnection(page), nil
}

func (r mutationResolver) CreateWebhook(ctx context.Context, in model.CreateWebhookInput) (*model.CreateWebhookPayload, error) {
	w, key, err := r.control.CreateWebhook(ctx, caller(ctx), webhookInput(in))
	if err != nil {
		problems, err := problemsOf(err)
		return &model.CreateWebhookPayload{UserErrors: problems}, err
	}
	return &model.CreateWebhookPayload{Webhook: &w, SecretKey: shownOnce(key)}, nil
}

func webhookInput(in model.CreateWebhookInput) control.WebhookInput {
	input := control.WebhookInput{
		ExternalID: in.ExternalID, Name: in.Name, TargetURL: in.TargetURL, EventTypes: in.EventTypes,
		Filter: in.Filter, PayloadQuery: in.PayloadQuery, Headers: headers(in.Headers), Timeout: in.Timeout,
		RateLimitPerSecond: in.RateLimitPerSecond, Signing: in.Signing, Tenant: in.Tenant,
	}
	if in.RetrySchedule != nil { // an empty one is set as well
		input.RetrySchedule = &in.RetrySchedule
	}
	return input
}

func (r mutationResolver) UpdateWebhook(ctx context.Context, id string, in model.UpdateWebhookInput, expectedVersion *int) (*model.UpdateWebhookPayload, error) {
	w, err := r.control.UpdateWebhook(ctx, caller(ctx), id, control.WebhookChange{
		ExternalID:         fieldOf(in.ExternalID),
		Name:               fieldOf(in.Name),
		TargetURL:          fieldOf(in.TargetURL),
		EventTypes:         listOf(in.EventTypes, same),
		Filter:             fieldOf(in.Filter),
		PayloadQuery:       fieldOf(in.PayloadQuery),
		Headers:            listOf(in.Headers, headers),
		Timeout:            fieldOf(in.Timeout),
		RetrySchedule:      listOf(in.RetrySchedule, same),
		RateLimitPerSecond: fieldOf(in.RateLimitPerSecond),
	}, expectedVersion)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.UpdateWebhookPayload{UserErrors: problems}, err
	}
	return &model.UpdateWebhookPayload{Webhook: &w}, nil
}

func (r mutationResolver) DeleteWebhook(ctx context.Context, id string) (*model.DeleteWebhookPayload, error) {
	if err := r.control.DeleteWebhook(ctx, caller(ctx), id); err != nil {
		problems, err := problemsOf(err)
		return &model.DeleteWebhookPayload{UserErrors: problems}, err
	}
	return &model.DeleteWebhookPayload{DeletedID: &id}, nil
}

func (r mutationResolver) PauseWebhook(ctx context.Context, id string) (*model.PauseWebhookPayload, error) {
	w, err := r.control.PauseWebhook(ctx, caller(ctx), id)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.PauseWebhookPayload{UserErrors: problems}, err
	}
	return &model.PauseWebhookPayload{Webhook: &w}, nil
}

func (r mutationResolver) ResumeWebhook(ctx context.Context, id string) (*model.ResumeWebhookPayload, error) {
	w, err := r.control.ResumeWebhook(ctx, caller(ctx), id)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.ResumeWebhookPayload{UserErrors: problems}, err
	}
	return &model.ResumeWebhookPayload{Webhook: &w}, nil
}

func (r mutationResolver) DisableWebhook(ctx context.Context, id string) (*model.DisableWebhookPayload, error) {
	w, err := r.control.DisableWebhook(ctx, caller(ctx), id)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.DisableWebhookPayload{UserErrors: problems}, err
	}
	return &model.DisableWebhookPayload{Webhook: &w}, nil
}

func (r mutationResolver) RotateWebhookSecretKey(ctx context.Context, id, overlap string, expectedVersion *int) (*model.RotateWebhookSecretKeyPayload, error) {
	w, key, err := r.control.RotateWebhookSecretKey(ctx, caller(ctx), id, overlap, expectedVersion)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.RotateWebhookSecretKeyPayload{UserErrors: problems}, err
	}
	return &model.RotateWebhookSecretKeyPayload{Webhook: &w, SecretKey: shownOnce(key)}, nil
}

func (r mutationResolver) TestWebhook(ctx context.Context, id string, eventType, data *string) (*model.TestWebhookPayload, error) {
	var text []byte
	if data != nil {
		text = []byte(*data)
	}
	d, err := r.control.TestWebhook(ctx, caller(ctx), id, eventType, text)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.TestWebhookPayload{UserErrors: problems}, err
	}
	return &model.TestWebhookPayload{Delivery: &d}, nil
}

// shownOnce is a key for the one answer that shows it; a webhook that signs with a private key has
// none to show.
func shownOnce(key string) *string {
	if key == "" {
		return nil
	}
	return &key
}

func headers(in []model.HeaderInput) []control.HeaderInput {
	list := make([]control.HeaderInput, len(in))
	for i, h := range in {
		list[i] = control.HeaderInput{Name: h.Name, Value: h.Value}
	}
	return list
}

// fieldOf tells absent, null and a value apart.
func fieldOf[T any](o graphql.Omittable[*T]) control.Field[T] {
	v, set := o.ValueOK()
	return control.Field[T]{Set: set, Value: v}
}

// listOf is fieldOf for lists, whose null is a nil slice.
func listOf[In, Out any](o graphql.Omittable[[]In], convert func([]In) []Out) control.Field[[]Out] {
	v, set := o.ValueOK()
	field := control.Field[[]Out]{Set: set}
	if set && v != nil {
		list := convert(v)
		field.Value = &list
	}
	return field
}

func same(list []string) []string { return list }
