package graph

import (
	"context"
	"slices"
	"strconv"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/intervengine/webhooks/graph/generated"
	"github.com/intervengine/webhooks/graph/model"
	"github.com/intervengine/webhooks/intake"
	"github.com/intervengine/webhooks/models"
)

type emitEventPayloadResolver struct{ *Resolver }

// EmitEventPayload resolves what an emitter may look at only with the scope READ.
func (r *Resolver) EmitEventPayload() generated.EmitEventPayloadResolver {
	return emitEventPayloadResolver{r}
}

func (r mutationResolver) EmitEvent(ctx context.Context, input model.EmitEventInput) (*model.EmitEventPayload, error) {
	outputs := r.intake.Emit(ctx, caller(ctx), []intake.Input{emitted(input)})
	payload, err := emitPayload(outputs[0], "input")
	if err != nil {
		return nil, err
	}
	return &payload, nil
}

func (r mutationResolver) EmitEvents(ctx context.Context, inputs []model.EmitEventInput) (*model.EmitEventsPayload, error) {
	if most := r.intake.MaxBatch(); len(inputs) > most {
		var problems models.Problems
		problems.Add(models.CodeTooLarge, []string{"inputs"}, "has more events than one call may have: at most %d are allowed", most)
		return &model.EmitEventsPayload{UserErrors: problems}, nil
	}
	events := make([]intake.Input, len(inputs))
	for i, input := range inputs {
		events[i] = emitted(input)
	}
	outputs := r.intake.Emit(ctx, caller(ctx), events)
	results := make([]model.EmitEventPayload, len(outputs))
	failed := make(map[int]error)
	for i, output := range outputs {
		var err error
		if results[i], err = emitPayload(output, "inputs", strconv.Itoa(i)); err != nil {
			failed[i] = err
		}
	}
	if len(failed) > 0 && len(failed) == len(outputs) {
		return nil, failed[0] // one error says as much as a hundred
	}
	// Some are stored: their answers must not be lost with the others' errors.
	for i := range outputs {
		if err, ok := failed[i]; ok {
			path := append(slices.Clone(graphql.GetPath(ctx)), ast.PathName("results"), ast.PathIndex(i))
			graphql.AddError(ctx, &gqlerror.Error{Err: err, Path: path})
		}
	}
	return &model.EmitEventsPayload{Results: results}, nil
}

func emitted(in model.EmitEventInput) intake.Input {
	return intake.Input{
		EventType: in.EventType, Data: []byte(in.Data), Timestamp: in.Timestamp, DeliverAt: in.DeliverAt,
		IdempotencyKey: in.IdempotencyKey, Tenant: in.Tenant,
	}
}

// emitPayload maps the answer for the input at path.
func emitPayload(out intake.Output, path ...string) (model.EmitEventPayload, error) {
	problems, err := problemsOf(out.Err)
	if err != nil {
		return model.EmitEventPayload{}, err
	}
	return model.EmitEventPayload{
		Event: out.Event, Duplicate: out.Duplicate, Matched: out.Matched, UserErrors: below(path, problems),
	}, nil
}

// below puts the path of an input in front of the problems' paths.
func below(path []string, problems []models.Problem) []models.Problem {
	list := make([]models.Problem, len(problems))
	for i, p := range problems {
		p.Path = append(append([]string(nil), path...), p.Path...)
		list[i] = p
	}
	return list
}

func (r emitEventPayloadResolver) Deliveries(ctx context.Context, payload *model.EmitEventPayload, first *int, after *string) (*model.DeliveryConnection, error) {
	if payload.Event == nil {
		return nil, nil
	}
	return deliveriesOfEvent(ctx, payload.Event.ID, models.DeliveryFilter{}, models.Page{First: first, After: after})
}
