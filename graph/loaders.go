package graph

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/vikstrous/dataloadgen"

	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

// loaderWait is how long a loader waits for more keys. The fields of a list are resolved at once, so
// the keys of a page come within microseconds of each other, or later where the machine is busy.
const loaderWait = time.Millisecond

// loaders read the children of many objects in one statement, and each child once in a request.
type loaders struct {
	webhooks     *dataloadgen.Loader[string, models.Webhook]
	events       *dataloadgen.Loader[string, models.Event]
	deliveries   *dataloadgen.Loader[string, models.Delivery]
	eventTypes   *dataloadgen.Loader[string, models.EventType]
	replays      *dataloadgen.Loader[string, models.Replay]
	attempt      *dataloadgen.Loader[string, models.Attempt]   // by its own id
	attempts     *dataloadgen.Loader[string, []models.Attempt] // by delivery
	lastAttempts *dataloadgen.Loader[string, models.Attempt]
	health       *dataloadgen.Loader[string, models.WebhookHealth]
	circuits     *dataloadgen.Loader[string, models.Circuit]
	// catalogue is the same for all fields of a request.
	catalogue func() (*catalogue.Catalogue, error)
	stats     *dataloadgen.Loader[statsKey, models.Stats]
	ofWebhook *dataloadgen.Loader[pageKey, models.Result[models.Delivery]]
	ofEvent   *dataloadgen.Loader[pageKey, models.Result[models.Delivery]]
}

type loadersKey struct{}

// withLoaders gives a request its loaders, which are made when a field first uses one: an emit needs
// none. They read as the caller in ctx may.
func (r *Resolver) withLoaders(ctx context.Context) context.Context {
	return context.WithValue(ctx, loadersKey{}, sync.OnceValue(func() *loaders { return r.newLoaders(ctx) }))
}

func (r *Resolver) newLoaders(ctx context.Context) *loaders {
	t := r.store.Tenant(caller(ctx).Reach())
	return &loaders{
		webhooks:     newLoader(t.WebhooksByIDs),
		events:       newLoader(t.EventsByIDs),
		deliveries:   newLoader(t.DeliveriesByIDs),
		eventTypes:   newLoader(t.EventTypesByIDs),
		replays:      newLoader(t.ReplaysByIDs),
		attempt:      newLoader(t.AttemptsByIDs),
		attempts:     newLoader(t.AttemptsOf),
		lastAttempts: newLoader(t.LastAttempts),
		health:       newLoader(t.Health),
		circuits:     newLoader(r.readCircuits),
		catalogue:    sync.OnceValues(func() (*catalogue.Catalogue, error) { return r.intake.Catalogue(ctx) }),
		stats:        newLoader(statistics(t.StatsOfWebhooks)),
		ofWebhook:    newLoader(pages(t.DeliveriesOfWebhooks)),
		ofEvent:      newLoader(pages(t.DeliveriesOfEvents)),
	}
}

func newLoader[K comparable, V any](fetch func(ctx context.Context, keys []K) (map[K]V, error)) *dataloadgen.Loader[K, V] {
	return dataloadgen.NewMappedLoader(fetch, dataloadgen.WithWait(loaderWait))
}

// loadersOf are the loaders of the request. Every field is resolved in one, by a known caller.
func loadersOf(ctx context.Context) *loaders {
	return ctx.Value(loadersKey{}).(func() *loaders)()
}

// load reads one object, nil where there is none.
func load[K comparable, V any](ctx context.Context, l *dataloadgen.Loader[K, V], key K) (*V, error) {
	v, err := l.Load(ctx, key)
	switch {
	case errors.Is(err, dataloadgen.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &v, nil
}

// pageKey asks for one page of one parent's deliveries. The arguments are as text, so that those of
// the same field under many parents are equal.
type pageKey struct{ parent, arguments string }

type pageArguments struct {
	Filter models.DeliveryFilter
	Page   models.Page
}

func newPageKey(parent string, f models.DeliveryFilter, p models.Page) (pageKey, error) {
	text, err := json.Marshal(pageArguments{f, p})
	return pageKey{parent, string(text)}, err
}

// pages reads the pages of many parents: one statement for all that have the same arguments.
func pages(read func(context.Context, []string, models.DeliveryFilter, models.Page) (map[string]models.Result[models.Delivery], error)) func(context.Context, []pageKey) (map[pageKey]models.Result[models.Delivery], error) {
	return func(ctx context.Context, keys []pageKey) (map[pageKey]models.Result[models.Delivery], error) {
		parents := map[string][]string{}
		for _, k := range keys {
			parents[k.arguments] = append(parents[k.arguments], k.parent)
		}
		found := make(map[pageKey]models.Result[models.Delivery], len(keys))
		failed := dataloadgen.MappedFetchError[pageKey]{}
		for arguments, ids := range parents {
			var a pageArguments
			err := json.Unmarshal([]byte(arguments), &a)
			var results map[string]models.Result[models.Delivery]
			if err == nil {
				results, err = read(ctx, ids, a.Filter, a.Page)
			}
			for _, id := range ids {
				if err != nil {
					failed[pageKey{id, arguments}] = err // another page's arguments may be good
					continue
				}
				found[pageKey{id, arguments}] = results[id]
			}
		}
		if len(failed) > 0 {
			return found, failed
		}
		return found, nil
	}
}
