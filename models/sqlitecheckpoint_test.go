package models_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// What was committed reaches the database file without anybody committing more.
func TestSQLite_TheLogIsCopied(t *testing.T) {
	t.Parallel()
	store := modelstest.SQLite(t)
	commit(t, store, eventTo())
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		length, copied, err := store.Log(t.Context())
		require.NoError(c, err)
		require.Equal(c, length, copied)
	}, time.Minute, 50*time.Millisecond)
}

// A log that somebody always writes to does not grow for ever.
func TestSQLite_ALogThatNeverRestsBeginsAnew(t *testing.T) {
	t.Parallel()
	store := modelstest.SQLite(t)
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for ctx.Err() == nil {
				e := eventTo()
				e.Data = new(`{"text":"` + strings.Repeat("x", 50_000) + `"}`)
				_, err := store.CommitEvents(context.WithoutCancel(ctx), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
					return []models.NewEvent{e}, nil
				})
				if !assert.NoError(t, err) {
					return
				}
			}
		})
	}
	defer writers.Wait()
	defer stop()
	grown := 0
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		length, _, err := store.Log(ctx)
		require.NoError(c, err)
		grown = max(grown, length)
		require.Greater(c, grown, models.LongLog, "it has not become long yet")
		require.Less(c, length, grown/2, "it has not begun anew")
		require.Less(c, grown, models.AutoCheckpoint, "SQLite itself saw to it")
	}, time.Minute, 5*time.Millisecond)
}
