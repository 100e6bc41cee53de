package graph

import (
	"context"
	"slices"

	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/live"
	"github.com/intervengine/webhooks/models"
)

type subscriptionResolver struct{ *Resolver }

// Subscription is the root of what is followed.
func (r *Resolver) Subscription() generated.SubscriptionResolver { return subscriptionResolver{r} }

// source is where the updates of a running subscription come from. gqlgen wants a channel of them;
// whoever runs the subscription pulls one update into it and has it executed, so that errors keep
// their place and no goroutine stands between.
type source struct {
	// pull waits for the next update and puts it into the channel, which has room for it.
	pull  func(ctx context.Context) error
	close func()
}

type sourceKey struct{}

// follow makes the channel of a subscription's updates.
func follow[T any](ctx context.Context, s *live.Subscription, update func(live.Update) *T) <-chan *T {
	updates := make(chan *T, 1)
	if to, ok := ctx.Value(sourceKey{}).(*source); ok {
		to.close = s.Close
		to.pull = func(ctx context.Context) error {
			u, err := s.Next(ctx)
			if err == nil {
				updates <- update(u)
			}
			return err
		}
	}
	return updates
}

func (r subscriptionResolver) DeliveryUpdated(ctx context.Context, filter *model.DeliveryFilter, after *string) (<-chan *model.DeliveryUpdate, error) {
	p := caller(ctx)
	f, err := deliveryFilter(p, filter)
	if err != nil {
		return nil, err
	}
	s, err := r.live.Deliveries(ctx, live.Query{Reach: p.Reach(), After: after}, f)
	if err != nil {
		return nil, err
	}
	return follow(ctx, s, func(u live.Update) *model.DeliveryUpdate {
		return &model.DeliveryUpdate{Cursor: u.Cursor, Delivery: u.Delivery}
	}), nil
}

func (r subscriptionResolver) EventEmitted(ctx context.Context, eventTypes []string, filter, payloadQuery, after *string) (<-chan *model.EventUpdate, error) {
	if err := filterSizes(len(eventTypes)); err != nil {
		return nil, err
	}
	c, err := r.intake.Catalogue(ctx)
	if err != nil {
		return nil, err
	}
	keep, err := eventMatcher(c, eventTypes, filter, payloadQuery)
	if err != nil {
		return nil, err
	}
	s, err := r.live.Events(ctx, live.Query{Reach: caller(ctx).Reach(), After: after}, keep)
	if err != nil {
		return nil, err
	}
	return follow(ctx, s, func(u live.Update) *model.EventUpdate {
		return &model.EventUpdate{Cursor: u.Cursor, Event: u.Event, Data: u.Data}
	}), nil
}

// eventMatcher compiles what eventEmitted is asked for, by the rules of a webhook. As for a webhook,
// an event for which the filter fails is no match; a payload query that fails ends the subscription.
func eventMatcher(c *catalogue.Catalogue, eventTypes []string, filter, payloadQuery *string) (func(*models.Event) (string, bool, error), error) {
	var problems models.Problems
	at := func(name string, found models.Problems) {
		for _, p := range found {
			p.Path = append([]string{name}, p.Path...)
			problems = append(problems, p)
		}
	}
	patterns := eventTypes
	if eventTypes == nil {
		patterns = []string{"*"}
	} else {
		at("eventTypes", c.CheckPatterns(eventTypes))
	}
	var compiled *catalogue.Filter
	var shape *catalogue.Shape
	if filter != nil {
		var found models.Problems
		compiled, found = c.CompileFilter(*filter, patterns)
		at("filter", found)
	}
	if payloadQuery != nil {
		var found models.Problems
		shape, found = c.CompilePayloadQuery(*payloadQuery, patterns)
		at("payloadQuery", found)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	patterns = slices.Clone(patterns)
	return func(e *models.Event) (string, bool, error) {
		// All is more than "*" means, which leaves out the notices.
		if eventTypes != nil && !catalogue.MatchPatterns(patterns, e.EventType) {
			return "", false, nil
		}
		if compiled == nil && shape == nil {
			return *e.Data, true, nil
		}
		subject := catalogue.NewSubject(catalogue.Event{ID: e.ID, Type: e.EventType, Timestamp: e.Timestamp, Data: *e.Data})
		if compiled != nil {
			if pass, _, err := compiled.Pass(subject); err != nil || !pass {
				return "", false, nil //nolint:nilerr // as for a webhook, a filter that fails does not match
			}
		}
		if shape == nil {
			return *e.Data, true, nil
		}
		data, err := shape.Body(subject)
		if err != nil {
			return "", false, &badRequestError{"the payload query failed on event " + e.ID + ": " + err.Error()}
		}
		return data, true, nil
	}, nil
}
