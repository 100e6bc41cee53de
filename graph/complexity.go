package graph

import (
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/intervengine/webhooks/models"
)

// What a field counts for, where it is not 1: those that carry a body, or cost a statement for each
// object that has them.
var fieldCost = map[string]int{
	"Event.data":              5,
	"EventType.schema":        5,
	"HttpRequest.body":        5,
	"HttpResponse.body":       5,
	"Webhook.deliveries":      20,
	"Webhook.stats":           50,
	"Event.deliveries":        20,
	"Event.explain":           100,
	"Query.previewDelivery":   50,
	"Query.replay":            5,
	"Query.replays":           20,
	"Query.deliveryStats":     50,
	"Query.eventCatalogueSdl": 100,
	"Query.__schema":          5_000, // the whole of it is 100 kB
	"Query.__type":            50,
}

// How many entries a list without a page size is taken to have.
var listSize = map[string]int{
	"Delivery.attempts":                     4, // most have one; there may be up to 100
	"Webhook.retrySchedule":                 1,
	"UpsertEventTypePayload.brokenWebhooks": 10, // most changes break none; there may be up to 100
}

// complexity is how many fields the answer to an operation may have. It runs on a validated
// document, for each request, because page sizes may come in variables.
type complexity struct {
	variables map[string]any
	fragments map[string]int
}

func (l *Limits) checkComplexity(op *ast.OperationDefinition, variables map[string]any) *gqlerror.Error {
	c := complexity{variables: variables, fragments: map[string]int{}}
	if c.set(op.SelectionSet) > l.Complexity {
		return tooComplex("the answer may have more than %d fields; ask for smaller pages or fewer fields", l.Complexity)
	}
	return nil
}

func (c *complexity) set(set ast.SelectionSet) int {
	sum := 0
	for _, s := range set {
		switch s := s.(type) {
		case *ast.Field:
			sum = saturate(sum, c.field(s))
		case *ast.InlineFragment:
			sum = saturate(sum, c.set(s.SelectionSet))
		case *ast.FragmentSpread:
			// What a fragment costs does not depend on where it stands.
			cost, ok := c.fragments[s.Name]
			if !ok {
				cost = c.set(s.Definition.SelectionSet)
				c.fragments[s.Name] = cost
			}
			sum = saturate(sum, cost)
		}
	}
	return sum
}

func (c *complexity) field(f *ast.Field) int {
	var name string
	if f.ObjectDefinition != nil {
		name = f.ObjectDefinition.Name + "." + f.Name
	}
	cost := 1
	if n, ok := fieldCost[name]; ok {
		cost = n
	}
	if f.Name == "__schema" || f.Name == "__type" {
		return cost // its children are bounded by depth and number, and cost no statement
	}
	if len(f.SelectionSet) == 0 {
		return cost
	}
	return saturate(cost, multiply(c.entries(f, name), c.set(f.SelectionSet)))
}

// entries is how many objects a field with children gives.
func (c *complexity) entries(f *ast.Field, name string) int {
	if f.Definition == nil {
		return 1
	}
	if n, ok := listSize[name]; ok {
		return n
	}
	for _, list := range [...]string{"ids", "inputs"} { // nodes, emitEvents
		if arg := f.Arguments.ForName(list); arg != nil {
			return c.length(arg.Value)
		}
	}
	if f.Definition.Arguments.ForName("first") == nil {
		return 1
	}
	for _, size := range [...]string{"first", "last"} {
		arg := f.Arguments.ForName(size)
		if arg == nil {
			continue
		}
		if v, err := arg.Value.Value(c.variables); err == nil {
			if n, ok := v.(int64); ok {
				// Sizes out of range are refused by whoever reads the page.
				return int(min(max(n, 1), models.MaxPageSize))
			}
		}
	}
	return models.DefaultPageSize
}

func (c *complexity) length(v *ast.Value) int {
	if v.Kind == ast.ListValue {
		return max(len(v.Children), 1)
	}
	if list, err := v.Value(c.variables); err == nil {
		if list, ok := list.([]any); ok {
			return max(len(list), 1)
		}
	}
	return 1
}

func multiply(a, b int) int {
	if a != 0 && b > (1<<31-1)/a {
		return 1<<31 - 1
	}
	return a * b
}
