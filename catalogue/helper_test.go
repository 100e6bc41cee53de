package catalogue_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

var update = flag.Bool("update", false, "renew the golden files")

// newCatalogue is a catalogue of the built-in types and of more.
func newCatalogue(t testing.TB, more ...models.EventType) *catalogue.Catalogue {
	t.Helper()
	c, err := catalogue.New(append(catalogue.Builtin(), more...))
	require.NoError(t, err)
	return c
}

// typed is an event type with a schema.
func typed(name, schema string) models.EventType {
	return models.EventType{Name: name, Title: name, Schema: &schema, Status: models.EventTypeActive}
}

func event(eventType, data string) catalogue.Event {
	at := time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)
	return catalogue.Event{ID: "evt_1", Type: eventType, Timestamp: at, Data: data}
}

// golden compares text with a file in testdata, or renews the file.
func golden(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o750))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), text)
}

// only gives the one problem that there must be.
func only(t testing.TB, problems models.Problems) models.Problem {
	t.Helper()
	require.Len(t, problems, 1)
	return problems[0]
}
