package models_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// Clock never runs ahead of the database's clock, and is close behind it.
func TestClock_IsTheDatabases(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, s *models.Store) {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { require.NoError(t, s.RunClock(ctx)) })
		for range 50 {
			told := s.Clock()
			now, err := s.Now(t.Context())
			require.NoError(t, err)
			require.False(t, told.After(now), "%s ahead", told.Sub(now))
			require.Less(t, now.Sub(told), 30*time.Second)
		}
		cancel()
		running.Wait()
	})
}
