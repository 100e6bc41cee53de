package graph

import (
	"context"
	"net/http"

	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

type attemptResolver struct{ *Resolver }

type httpRequestResolver struct{ *Resolver }

// Attempt resolves the fields of Attempt that are not stored with it.
func (r *Resolver) Attempt() generated.AttemptResolver { return attemptResolver{r} }

// HttpRequest resolves the body of a request, which is not stored with the attempt.
func (r *Resolver) HttpRequest() generated.HttpRequestResolver {
	return httpRequestResolver{r}
}

func (r attemptResolver) Delivery(ctx context.Context, a *models.Attempt) (*models.Delivery, error) {
	return load(ctx, loadersOf(ctx).deliveries, a.DeliveryID)
}

func (r attemptResolver) Request(_ context.Context, a *models.Attempt) (*model.HTTPRequest, error) {
	return &model.HTTPRequest{Method: http.MethodPost, URL: a.RequestURL, Headers: a.RequestHeaders, Attempt: a}, nil
}

// Body is what every attempt of the delivery sends: the event's envelope around its data, or around
// what the payload query made of it.
func (r httpRequestResolver) Body(ctx context.Context, q *model.HTTPRequest) (string, error) {
	if q.Preview != nil {
		return *q.Preview, nil
	}
	l := loadersOf(ctx)
	d, err := load(ctx, l.deliveries, q.Attempt.DeliveryID)
	if d == nil {
		return "", err
	}
	e, err := load(ctx, l.events, d.EventID)
	if e == nil || e.Data == nil {
		return "", err
	}
	data := *e.Data
	if d.Body != nil {
		data = *d.Body
	}
	return string(models.Envelope(e.EventType, e.Timestamp, data)), nil
}

func (r attemptResolver) Response(_ context.Context, a *models.Attempt) (*model.HTTPResponse, error) {
	if a.ResponseStatus == nil {
		return nil, nil
	}
	response := &model.HTTPResponse{
		Status: *a.ResponseStatus, Headers: a.ResponseHeaders, BodyTruncated: a.ResponseTruncated,
	}
	if a.ResponseBody != nil {
		response.Body = *a.ResponseBody
	}
	return response, nil
}

func (r attemptResolver) Timing(_ context.Context, a *models.Attempt) (*model.AttemptTiming, error) {
	if a.TotalMicros == nil {
		return nil, nil
	}
	return &model.AttemptTiming{
		TotalMs: *milliseconds(a.TotalMicros), DNSMs: milliseconds(a.DNSMicros), ConnectMs: milliseconds(a.ConnectMicros),
		TLSMs: milliseconds(a.TLSMicros), FirstByteMs: milliseconds(a.FirstByteMicros),
	}, nil
}

func milliseconds(micros *int64) *float64 {
	if micros == nil {
		return nil
	}
	ms := float64(*micros) / 1000
	return &ms
}
