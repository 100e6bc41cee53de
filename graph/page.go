package graph

import (
	"time"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

// maxFilterList bounds the lists of a filter: each entry is a comparison a row.
const maxFilterList = 100

func pageInfo[T any](r models.Result[T]) *model.PageInfo {
	info := &model.PageInfo{HasNextPage: r.HasNext, HasPreviousPage: r.HasPrevious}
	if n := len(r.Cursors); n > 0 {
		info.StartCursor, info.EndCursor = &r.Cursors[0], &r.Cursors[n-1]
	}
	return info
}

// edges pairs the items of a page with their cursors.
func edges[T, E any](r models.Result[T], edge func(cursor string, node *T) E) []E {
	list := make([]E, len(r.Items))
	for i := range r.Items {
		list[i] = edge(r.Cursors[i], &r.Items[i])
	}
	return list
}

func deliveryConnection(r models.Result[models.Delivery]) *model.DeliveryConnection {
	return &model.DeliveryConnection{
		Nodes: r.Items, PageInfo: pageInfo(r),
		Edges: edges(r, func(cursor string, node *models.Delivery) model.DeliveryEdge {
			return model.DeliveryEdge{Cursor: cursor, Node: node}
		}),
	}
}

// named checks a tenant that a filter names: naming another than one's own is an error, not an
// empty list.
func named(p *auth.Principal, tenant *string) error {
	if tenant == nil {
		return nil
	}
	_, err := p.TenantFor(tenant)
	return err
}

// deliveryFilter checks and maps a filter; nil is one that leaves everything.
func deliveryFilter(p *auth.Principal, f *model.DeliveryFilter) (models.DeliveryFilter, error) {
	if f == nil {
		return models.DeliveryFilter{}, nil
	}
	if err := named(p, f.Tenant); err != nil {
		return models.DeliveryFilter{}, err
	}
	if err := filterSizes(len(f.EventTypes), len(f.Statuses), len(f.Outcomes), len(f.Triggers)); err != nil {
		return models.DeliveryFilter{}, err
	}
	filter := models.DeliveryFilter{
		WebhookID: f.WebhookID, EventID: f.EventID, EventTypes: f.EventTypes, Statuses: f.Statuses,
		Outcomes: f.Outcomes, Triggers: f.Triggers, Since: f.Since, Until: f.Until, Tenant: f.Tenant,
	}
	if s := f.ResponseStatus; s != nil {
		filter.ResponseMin, filter.ResponseMax = s.Min, s.Max
	}
	return filter, filterTimes(f.Since, f.Until)
}

func filterSizes(sizes ...int) error {
	for _, n := range sizes {
		if n > maxFilterList {
			return &badRequestError{"a list in a filter may have at most 100 entries"}
		}
	}
	return nil
}

func filterTimes(since, until *time.Time) error {
	if since != nil && until != nil && until.Before(*since) {
		return &badRequestError{"until must not be before since"}
	}
	return nil
}
