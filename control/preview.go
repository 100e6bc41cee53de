package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/egress"
	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/signing"
)

// PreviewInput asks what one webhook would be sent for one event: exactly one of WebhookID and
// Webhook, and exactly one of EventID and Draft.
type PreviewInput struct {
	WebhookID *string
	Webhook   *WebhookInput // one that is not saved
	EventID   *string
	// Draft makes an event that is not emitted, by the rules of an emit; its problems have paths
	// relative to the event.
	Draft func(ctx context.Context) (models.Event, error)
}

// Preview is what a webhook would be sent. Nothing was sent and nothing saved.
type Preview struct {
	Verdict catalogue.Verdict
	Detail  *string
	// Request is nil where the verdict means that nothing would ever be sent.
	Request *PreviewRequest
}

// PreviewRequest is the request that a delivery would make now. Its signature is real.
type PreviewRequest struct {
	Method, URL string
	Headers     []models.Header // masked as in history
	Body        string
	Curl        string // a command for a POSIX shell that sends it, but for what is masked
}

// PreviewDelivery decides about the event as the webhook is now and makes the request that would be
// sent: the body byte for byte, and the signature with the webhook's own key, which itself never
// shows. A webhook that is not saved has no key yet; one is made for this signature and thrown away.
func (c *Control) PreviewDelivery(ctx context.Context, p *auth.Principal, in PreviewInput) (Preview, error) {
	check := checker{prefix: []string{"input"}}
	check.exactlyOne("webhookId", in.WebhookID != nil, "webhook", in.Webhook != nil)
	check.exactlyOne("eventId", in.EventID != nil, "event", in.Draft != nil)
	if err := check.problems.Err(); err != nil {
		return Preview{}, err
	}
	w, signer, err := c.previewWebhook(ctx, p, in)
	if err := check.collect(err); err != nil {
		return Preview{}, err
	}
	event, err := c.previewEvent(ctx, p, in)
	if err := check.collect(err); err != nil {
		return Preview{}, err
	}
	if len(check.problems) == 0 && in.WebhookID != nil && in.EventID != nil && w.Tenant != event.Tenant {
		check.add(models.CodeInvalid, []string{"eventId"}, "the event belongs to another tenant than the webhook")
	}
	if err := check.problems.Err(); err != nil {
		return Preview{}, err
	}
	known, err := c.catalogue(ctx)
	if err != nil {
		return Preview{}, err
	}
	decision := known.Decide(&w, catalogue.NewSubject(catalogue.Event{
		ID: event.ID, Type: event.EventType, Timestamp: event.Timestamp, Data: *event.Data,
	}))
	preview := Preview{Verdict: decision.Verdict, Detail: nonEmpty(decision.Detail)}
	switch decision.Verdict {
	case catalogue.Matched, catalogue.Paused, catalogue.Disabled:
		preview.Request, err = c.previewRequest(&w, signer, &event, decision.Body)
	case catalogue.CreatedLater, catalogue.NotSubscribed, catalogue.FilteredOut, catalogue.FilterError:
	}
	return preview, err
}

// exactlyOne wants one of two arguments that say the same in two ways.
func (k *checker) exactlyOne(a string, hasA bool, b string, hasB bool) {
	switch {
	case hasA && hasB:
		k.add(models.CodeInvalid, []string{b}, "give %s or %s, not both", a, b)
	case !hasA && !hasB:
		k.add(models.CodeRequired, []string{a}, "give %s or %s", a, b)
	}
}

// collect keeps the problems of err; what remains is a fault.
func (k *checker) collect(err error) error {
	if problems, ok := errors.AsType[models.Problems](err); ok {
		k.problems = append(k.problems, problems...)
		return nil
	}
	return err
}

// previewWebhook gives the webhook of the preview and what signs for it now.
func (c *Control) previewWebhook(ctx context.Context, p *auth.Principal, in PreviewInput) (models.Webhook, *signing.Signer, error) {
	if in.WebhookID != nil {
		w, err := c.store.Tenant(p.Reach()).Webhook(ctx, *in.WebhookID)
		switch {
		case errors.Is(err, models.ErrNotFound), err == nil && w.DeletedAt != nil:
			return models.Webhook{}, nil, notFound("input", "webhookId")
		case err != nil:
			return models.Webhook{}, nil, err
		}
		signer, err := c.signer(&w)
		return w, signer, err
	}
	w, key, plan, err := c.draft(ctx, p, *in.Webhook, "input", "webhook")
	if err != nil {
		return models.Webhook{}, nil, err
	}
	if err := plan.check.problems.Err(); err != nil {
		return models.Webhook{}, nil, err
	}
	return w, signing.NewSigner(key), nil
}

// signer signs as a worker would now: with the previous key too, while a rotation overlaps.
func (c *Control) signer(w *models.Webhook) (*signing.Signer, error) {
	key, err := c.keyring.OpenSecret(w.SealedKey, w.ID)
	if err != nil {
		return nil, fmt.Errorf("open secret key of %s: %w", w.ID, err)
	}
	if w.SealedPreviousKey == "" || w.PreviousExpiresAt == nil || !c.now().Before(*w.PreviousExpiresAt) {
		return signing.NewSigner(key), nil
	}
	previous, err := c.keyring.OpenSecret(w.SealedPreviousKey, w.ID)
	if err != nil {
		return nil, fmt.Errorf("open previous secret key of %s: %w", w.ID, err)
	}
	return signing.NewSigner(key, previous), nil
}

// previewEvent gives the event of the preview, which has data.
func (c *Control) previewEvent(ctx context.Context, p *auth.Principal, in PreviewInput) (models.Event, error) {
	if in.EventID == nil {
		event, err := in.Draft(ctx)
		if problems, ok := errors.AsType[models.Problems](err); ok {
			check := checker{prefix: []string{"input", "event"}}
			check.adopt(problems)
			return event, check.problems
		}
		return event, err
	}
	event, err := c.store.Tenant(p.Reach()).Event(ctx, *in.EventID)
	switch {
	case errors.Is(err, models.ErrNotFound):
		return event, notFound("input", "eventId")
	case err == nil && event.Data == nil:
		return event, problem(models.CodeNotAllowedNow, []string{"input", "eventId"}, "the event's data was erased: there is nothing left to send")
	}
	return event, err
}

func (c *Control) previewRequest(w *models.Webhook, signer *signing.Signer, event *models.Event, body *string) (*PreviewRequest, error) {
	target, err := egress.ParseTarget(w.TargetURL)
	if err != nil {
		return nil, fmt.Errorf("parse target of %s: %w", w.ID, err)
	}
	headers, err := c.openHeaders(w)
	if err != nil {
		return nil, err
	}
	data := *event.Data
	if body != nil {
		data = *body
	}
	request := egress.Request{
		ID: event.ID, Target: target, Headers: headers, Timestamp: c.now(), Signer: signer, Version: c.version,
		Body: models.Envelope(event.EventType, event.Timestamp, data),
	}
	shown := request.ShownHeaders()
	preview := &PreviewRequest{
		Method: http.MethodPost, URL: target.String(), Headers: make([]models.Header, len(shown)),
		Body: string(request.Body), Curl: request.Curl(),
	}
	for i, h := range shown {
		preview.Headers[i] = models.Header{Name: h.Name, Value: h.Value, Masked: h.Masked}
	}
	return preview, nil
}
