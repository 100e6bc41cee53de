package graph

import (
	"context"

	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/models"
)

func (r eventResolver) Explain(ctx context.Context, e *models.Event, first *int, after *string, last *int, before *string, verdicts []catalogue.Verdict) (*model.MatchExplanationConnection, error) {
	page, err := r.control.Explain(ctx, caller(ctx), *e, verdicts, models.Page{First: first, After: after, Last: last, Before: before})
	if err != nil {
		return nil, err
	}
	return &model.MatchExplanationConnection{
		Nodes: page.Items, PageInfo: pageInfo(page),
		Edges: edges(page, func(cursor string, node *control.Explanation) model.MatchExplanationEdge {
			return model.MatchExplanationEdge{Cursor: cursor, Node: node}
		}),
	}, nil
}
