package control_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/control"
	"github.com/intervengine/webhooks/models"
)

func TestRotation(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w, first, err := f.CreateWebhook(t.Context(), f.acme, input(nil))
		require.NoError(t, err)
		before := time.Now()
		w, second, err := f.RotateWebhookSecretKey(t.Context(), f.acme, w.ID, "PT24H", new(1))
		require.NoError(t, err)
		require.NotEqual(t, first, second)
		require.Equal(t, 2, w.Version)
		require.Equal(t, second[len(second)-5:len(second)-1], *w.KeyHint)
		require.WithinDuration(t, before.Add(24*time.Hour), *w.PreviousExpiresAt, time.Minute)
		requireKeys(t, f, w, second, first)

		w, third, err := f.RotateWebhookSecretKey(t.Context(), f.acme, w.ID, "P7D", nil)
		require.NoError(t, err)
		requireKeys(t, f, w, third, second)

		w, fourth, err := f.RotateWebhookSecretKey(t.Context(), f.acme, w.ID, "PT0S", nil)
		require.NoError(t, err)
		require.Nil(t, w.PreviousExpiresAt)
		requireKeys(t, f, w, fourth, "")

		for name, overlap := range map[string]string{
			"empty": "", "Go's form": "24h", "negative": "-PT1S", "too long": "P8D", "months": "P1M",
		} {
			t.Log(name)
			_, key, err := f.RotateWebhookSecretKey(t.Context(), f.acme, w.ID, overlap, nil)
			requireProblems(t, err, found{"INVALID", "overlap"})
			require.Empty(t, key)
		}
		_, _, err = f.RotateWebhookSecretKey(t.Context(), f.acme, w.ID, "x", new(1))
		requireProblems(t, err, found{"INVALID", "overlap"}, found{"CONFLICT", "expectedVersion"})
		stored, err := f.store.WebhookByID(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, w, stored)
	})
}

func requireKeys(t *testing.T, f *fixture, w models.Webhook, current, previous string) {
	t.Helper()
	key, err := f.keyring.OpenSecret(w.SealedKey, w.ID)
	require.NoError(t, err)
	require.Equal(t, current, key.Reveal())
	if previous == "" {
		require.Empty(t, w.SealedPreviousKey)
		return
	}
	key, err = f.keyring.OpenSecret(w.SealedPreviousKey, w.ID)
	require.NoError(t, err)
	require.Equal(t, previous, key.Reveal())
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		w := f.create(t, func(in *control.WebhookInput) {
			in.Headers = []control.HeaderInput{
				{"Authorization", new("Bearer secret-1")}, {"X-Region", new("eu")}, {"X-Api-Key", new("secret-2")},
			}
		})
		shown, err := f.Headers(t.Context(), w)
		require.NoError(t, err)
		require.Equal(t, []models.Header{
			{Name: "Authorization", Value: "********", Masked: true},
			{Name: "X-Region", Value: "eu"},
			{Name: "X-Api-Key", Value: "********", Masked: true},
		}, shown)

		update := func(headers ...control.HeaderInput) (models.Webhook, error) {
			return f.UpdateWebhook(t.Context(), f.acme, w.ID, control.WebhookChange{Headers: set(headers)}, nil)
		}
		w, err = update(control.HeaderInput{"authorization", nil}, control.HeaderInput{"X-Region", new("us")}, control.HeaderInput{"X-New", new("")})
		require.NoError(t, err)
		text, err := f.keyring.Open(w.SealedHeaders, w.ID+"/headers")
		require.NoError(t, err)
		require.JSONEq(t, `[{"Name":"authorization","Value":"Bearer secret-1"},{"Name":"X-Region","Value":"us"},{"Name":"X-New","Value":""}]`,
			string(text), "an absent value keeps the stored one, what is not named is gone")
		_, err = f.keyring.Open(w.SealedHeaders, w.ID)
		require.Error(t, err, "headers do not open as a key")

		_, err = update(control.HeaderInput{"authorization", new("********")}, control.HeaderInput{"X-Api-Key", nil})
		requireProblems(t, err, found{"INVALID", "input.headers.0.value"}, found{"REQUIRED", "input.headers.1.value"})
		stored, err := f.store.WebhookByID(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, w, stored)

		w, err = update()
		require.NoError(t, err)
		require.Empty(t, w.SealedHeaders)
		shown, err = f.Headers(t.Context(), w)
		require.NoError(t, err)
		require.Empty(t, shown)
	})
}

// Whoever has the database alone has no secret.
func TestDumpHoldsNoSecret(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, f *fixture) {
		const planted = "planted-header-value"
		w, first, err := f.CreateWebhook(t.Context(), f.acme, input(func(in *control.WebhookInput) {
			in.Name = "recognisable name"
			in.Headers = []control.HeaderInput{{"Authorization", new(planted)}, {"X-Plain", new(planted)}}
		}))
		require.NoError(t, err)
		_, second, err := f.RotateWebhookSecretKey(t.Context(), f.acme, w.ID, "PT24H", nil)
		require.NoError(t, err)
		_, apiKey, err := f.CreateAPIKey(t.Context(), f.platform, control.APIKeyInput{Name: "k", Scopes: []models.Scope{"READ"}})
		require.NoError(t, err)

		text := dump(t, f)
		require.Contains(t, text, "recognisable name", "the dump is of this database")
		for _, secret := range []string{planted, first, first[6:], second, second[6:], apiKey, apiKey[10:]} {
			require.NotContains(t, text, secret)
		}
	})
}

// dump is all that is stored, as text.
func dump(t *testing.T, f *fixture) string {
	t.Helper()
	var text strings.Builder
	if f.store.Dialect() == models.DialectSQLite {
		files, err := filepath.Glob(f.dsn + "*")
		require.NoError(t, err)
		for _, file := range files {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			text.Write(content)
		}
		return text.String()
	}
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, f.dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(ctx)) }()
	rows, err := conn.Query(ctx, `SELECT quote_ident(table_name) FROM information_schema.tables
		WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.NotEmpty(t, tables)
	for _, table := range tables {
		rows, err := conn.Query(ctx, "SELECT row_to_json(t)::text FROM "+table+" AS t")
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		text.WriteString(strings.Join(lines, "\n"))
	}
	return text.String()
}
