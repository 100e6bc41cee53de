package control

import (
	"context"
	"slices"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

// Explanation is why a webhook got an event, or why it did not.
type Explanation struct {
	Webhook models.Webhook
	Verdict catalogue.Verdict
	Detail  *string // one sentence for a person: what decided
	// Delivery is the event's own one to the webhook; nil where it got none. Those that replays made
	// later say nothing about what happened then.
	Delivery *models.Delivery
}

// Explain says, for every webhook that the event's tenant had when the event came and for those that
// it has now, what became of the event there, newest webhook first. What was decided then is told
// from the revision that was in force and from the delivery that it made, so it stays the truth
// after edits, deletions and changes of schemas. verdicts narrows the list; none: all.
func (c *Control) Explain(ctx context.Context, p *auth.Principal, event models.Event, verdicts []catalogue.Verdict, page models.Page) (models.Result[Explanation], error) {
	known, err := c.catalogue(ctx)
	if err != nil {
		return models.Result[Explanation]{}, err
	}
	x := &explainer{tenant: c.store.Tenant(p.Reach()), catalogue: known, event: event}
	if len(verdicts) == 0 {
		return x.page(ctx, page)
	}
	return x.filtered(ctx, verdicts, page)
}

// explainer explains one event.
type explainer struct {
	tenant    *models.Tenant
	catalogue *catalogue.Catalogue
	event     models.Event
}

// page explains a page of webhooks.
func (x *explainer) page(ctx context.Context, p models.Page) (models.Result[Explanation], error) {
	rows, err := x.tenant.RevisionsInForce(ctx, x.event.Tenant, x.event.ID, x.event.Epoch, p)
	if err != nil {
		return models.Result[Explanation]{}, err
	}
	ids := make([]string, len(rows.Items))
	for i, row := range rows.Items {
		ids[i] = row.Webhook.ID
	}
	deliveries, err := x.tenant.DeliveriesTo(ctx, x.event.ID, ids)
	if err != nil {
		return models.Result[Explanation]{}, err
	}
	subject := x.subject()
	result := models.Result[Explanation]{
		Items: make([]Explanation, len(rows.Items)), Cursors: rows.Cursors, HasNext: rows.HasNext, HasPrevious: rows.HasPrevious,
	}
	for i, row := range rows.Items {
		e := Explanation{Webhook: row.Webhook}
		if d, ok := deliveries[row.Webhook.ID]; ok {
			e.Delivery = &d
		}
		decision := x.decide(row.Revision, e.Delivery, subject)
		e.Verdict = decision.Verdict
		e.Detail = nonEmpty(decision.Detail)
		result.Items[i] = e
	}
	return result, nil
}

// filtered walks over the webhooks until the page is full. Whether there is more in the direction
// of the walk is a fact; what lies behind the cursor is taken from the list of all webhooks.
func (x *explainer) filtered(ctx context.Context, verdicts []catalogue.Verdict, p models.Page) (models.Result[Explanation], error) {
	size, backward := models.DefaultPageSize, p.Last != nil
	switch {
	case p.First != nil:
		size = *p.First
	case p.Last != nil:
		size = *p.Last
	}
	var result models.Result[Explanation]
	for first := true; ; first = false {
		part := p
		if most := models.MaxPageSize; !first { // the first page checks what the caller asked for
			if part.First, part.Last = &most, nil; backward {
				part.First, part.Last = nil, &most
			}
		}
		rows, err := x.page(ctx, part)
		if err != nil {
			return models.Result[Explanation]{}, err
		}
		if first {
			result.HasPrevious, result.HasNext = p.After != nil && rows.HasPrevious, p.Before != nil && rows.HasNext
		}
		var items []Explanation
		var cursors []string
		for i, item := range rows.Items {
			if slices.Contains(verdicts, item.Verdict) {
				items, cursors = append(items, item), append(cursors, rows.Cursors[i])
			}
		}
		if backward {
			result.Items, result.Cursors = append(items, result.Items...), append(cursors, result.Cursors...)
		} else {
			result.Items, result.Cursors = append(result.Items, items...), append(result.Cursors, cursors...)
		}
		if over := len(result.Items) - size; over > 0 {
			if backward {
				result.Items, result.Cursors, result.HasPrevious = result.Items[over:], result.Cursors[over:], true
			} else {
				result.Items, result.Cursors, result.HasNext = result.Items[:size], result.Cursors[:size], true
			}
			return result, nil
		}
		switch {
		case backward && rows.HasPrevious && len(rows.Cursors) > 0:
			p.Before = &rows.Cursors[0]
		case !backward && rows.HasNext && len(rows.Cursors) > 0:
			p.After = &rows.Cursors[len(rows.Cursors)-1]
		default:
			return result, nil
		}
	}
}

// subject is the event as it is matched; nil once its data was erased.
func (x *explainer) subject() *catalogue.Subject {
	if x.event.Data == nil {
		return nil
	}
	return catalogue.NewSubject(catalogue.Event{
		ID: x.event.ID, Type: x.event.EventType, Timestamp: x.event.Timestamp, Data: *x.event.Data,
	})
}

// decide gives the verdict of a revision. Whether there is a delivery is what happened; the rest is
// told from the revision.
func (x *explainer) decide(rev *models.Revision, d *models.Delivery, subject *catalogue.Subject) catalogue.Decision {
	subscribed := rev != nil && catalogue.MatchPatterns(rev.EventTypes, x.event.EventType)
	switch {
	case rev == nil:
		return catalogue.Decision{Verdict: catalogue.CreatedLater, Detail: "The webhook was created after the event."}
	case x.event.Test && d != nil:
		return catalogue.Decision{Verdict: catalogue.Matched, Detail: "The event was a test of this webhook, whatever it subscribes to."}
	case x.event.Test:
		return catalogue.Decision{Verdict: catalogue.NotSubscribed, Detail: "The event was a test of another webhook."}
	case d != nil && d.Status == models.DeliverySkipped && d.StatusReason != nil && *d.StatusReason == models.ReasonFilterError:
		detail := "The filter or the payload query failed; what it said was erased with the event."
		if d.StatusDetail != nil {
			detail = *d.StatusDetail
		}
		return catalogue.Decision{Verdict: catalogue.FilterError, Detail: detail}
	case d != nil:
		return wasMatched(rev)
	case subscribed && subject == nil:
		return catalogue.Decision{
			Verdict: catalogue.FilteredOut,
			Detail:  "The filter was false. Which of its clauses decided cannot be said any more: the event's data was erased.",
		}
	}
	decision := catalogue.Decision{Verdict: catalogue.NotSubscribed, Detail: "The webhook was not subscribed to " + x.event.EventType + "."}
	if subscribed {
		decision = x.catalogue.Explain(*rev, subject)
	}
	if decision.Verdict == catalogue.Matched && isNotice(x.event.EventType) {
		return catalogue.Decision{Verdict: catalogue.NotSubscribed, Detail: "The notice is about this webhook: it goes to others only."}
	}
	return decision
}

// wasMatched is the verdict of a revision that made a delivery with a body.
func wasMatched(rev *models.Revision) catalogue.Decision {
	switch rev.Status {
	case models.WebhookDisabled:
		return catalogue.Decision{Verdict: catalogue.Disabled, Detail: "The webhook was disabled when the event came."}
	case models.WebhookPaused:
		return catalogue.Decision{Verdict: catalogue.Paused, Detail: "The webhook was paused when the event came."}
	case models.WebhookActive:
	}
	return catalogue.Decision{Verdict: catalogue.Matched}
}

func isNotice(eventType string) bool {
	return eventType == catalogue.NoticeFailing || eventType == catalogue.NoticeDisabled
}
