package control_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/models"
)

const (
	orderSchema = `{"type":"object","properties":{"total":{"type":"number"},"note":{"type":"string"}}}`
	otherSchema = `{"type":"object","properties":{"note":{"type":"string"}},"additionalProperties":false}`
)

func TestUpsertEventType(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		in := control.EventTypeInput{Name: "order.was_placed", Schema: set(orderSchema), Example: set(`{"total":1.10}`)}
		dry, err := f.UpsertEventType(t.Context(), f.platform, in, true, false)
		require.NoError(t, err)
		require.Empty(t, dry.EventType.ID)
		require.Equal(t, "Order Was Placed", dry.EventType.Title)
		all := f.store.Tenant(models.Reach{All: true})
		_, err = all.EventTypeByName(t.Context(), "order.was_placed")
		require.ErrorIs(t, err, models.ErrNotFound, "a dry run writes nothing")

		made, err := f.UpsertEventType(t.Context(), f.platform, in, false, false)
		require.NoError(t, err)
		require.Equal(t, models.EventTypeActive, made.EventType.Status)
		stored, err := all.EventTypeByName(t.Context(), "order.was_placed")
		require.NoError(t, err)
		require.Equal(t, made.EventType, stored)

		changed, err := f.UpsertEventType(t.Context(), f.platform, control.EventTypeInput{
			Name: "order.was_placed", Title: set("Order"), Status: set(models.EventTypeDeprecated), Example: null[string](), Strict: set(true),
		}, false, false)
		require.NoError(t, err)
		require.Equal(t, made.EventType.ID, changed.EventType.ID)
		require.JSONEq(t, orderSchema, *changed.EventType.Schema, "absent stays")
		require.Nil(t, changed.EventType.Example)
		require.True(t, changed.EventType.Strict)

		_, err = f.UpsertEventType(t.Context(), f.acme, in, false, false)
		require.ErrorIs(t, err, auth.ErrForbiddenTenant)
	})
}

func TestBadEventTypes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		tests := map[string]struct {
			in   control.EventTypeInput
			want []found
		}{
			"no name":       {control.EventTypeInput{}, []found{{"REQUIRED", "input.name"}}},
			"a notice":      {control.EventTypeInput{Name: "webhook.mine"}, []found{{"INVALID", "input.name"}}},
			"broken schema": {control.EventTypeInput{Name: "a.b", Schema: set(`{"type":"nope"}`)}, []found{{"INVALID_SCHEMA", "input.schema"}}},
			"strict alone":  {control.EventTypeInput{Name: "a.b", Strict: set(true)}, []found{{"REQUIRED", "input.schema"}}},
			"bad status":    {control.EventTypeInput{Name: "a.b", Status: set(models.EventTypeStatus("GONE"))}, []found{{"INVALID", "input.status"}}},
			"at once": {
				control.EventTypeInput{Name: "A B", Example: set(`[]`), Status: set(models.EventTypeStatus(""))},
				[]found{{"INVALID", "input.name"}, {"INVALID", "input.example"}, {"INVALID", "input.status"}},
			},
		}
		before, err := f.store.ConfigEpoch(t.Context())
		require.NoError(t, err)
		for name, tt := range tests {
			t.Log(name)
			_, err := f.UpsertEventType(t.Context(), f.platform, tt.in, false, true)
			requireProblems(t, err, tt.want...)
		}
		after, err := f.store.ConfigEpoch(t.Context())
		require.NoError(t, err)
		require.Equal(t, before, after)
	})
}

func TestBreakingChangeNeedsForce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		in := control.EventTypeInput{Name: "order.placed", Schema: set(orderSchema)}
		_, err := f.UpsertEventType(t.Context(), f.platform, in, false, false)
		require.NoError(t, err)
		broken := f.create(t, func(in *control.WebhookInput) {
			in.EventTypes, in.Filter = []string{"order.placed"}, new("data.total > 10")
		})
		f.create(t, func(in *control.WebhookInput) {
			in.EventTypes, in.Filter = []string{"order.placed"}, new(`data.note == "x"`)
		})

		in.Schema = set(otherSchema)
		for name, dryRun := range map[string]bool{"dry run": true, "without force": false} {
			change, err := f.UpsertEventType(t.Context(), f.platform, in, dryRun, false)
			if !dryRun {
				requireProblems(t, err, found{"NOT_ALLOWED_NOW", "force"})
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, 1, change.BrokenCount, name)
			require.Equal(t, broken.ID, change.Broken[0].ID, name)
		}
		forced, err := f.UpsertEventType(t.Context(), f.platform, in, false, true)
		require.NoError(t, err)
		require.Equal(t, 1, forced.BrokenCount)
		require.JSONEq(t, otherSchema, *forced.EventType.Schema)

		_, err = f.UpdateWebhook(t.Context(), f.acme, broken.ID, control.WebhookChange{Name: set("renamed")}, nil)
		require.NoError(t, err, "a webhook that the catalogue left behind can still be renamed")
	})
}
