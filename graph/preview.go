package graph

import (
	"context"

	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

func (r queryResolver) PreviewDelivery(ctx context.Context, in model.PreviewDeliveryInput) (*model.PreviewDeliveryPayload, error) {
	p := caller(ctx)
	input := control.PreviewInput{WebhookID: in.WebhookID, EventID: in.EventID}
	if in.Webhook != nil {
		w := webhookInput(*in.Webhook)
		input.Webhook = &w
	}
	if in.Event != nil {
		input.Draft = func(ctx context.Context) (models.Event, error) { return r.intake.Draft(ctx, p, emitted(*in.Event)) }
	}
	preview, err := r.control.PreviewDelivery(ctx, p, input)
	if err != nil {
		problems, err := problemsOf(err)
		return &model.PreviewDeliveryPayload{UserErrors: problems}, err
	}
	payload := &model.PreviewDeliveryPayload{Verdict: &preview.Verdict, Detail: preview.Detail}
	if q := preview.Request; q != nil {
		payload.Request = &model.HTTPRequest{Method: q.Method, URL: q.URL, Headers: q.Headers, Preview: &q.Body}
		payload.Curl = &q.Curl
	}
	return payload, nil
}
