package models_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
	"github.com/intervengine/webhooks/models/modelstest"
)

// disk is what a power cut would leave of a database: the files as they were before the last sync
// that has succeeded.
type disk struct {
	t    *testing.T
	path string
	last atomic.Pointer[files]
}

type files struct{ data, log []byte }

func (d *disk) flush(log *os.File) error {
	const header = 32 // of a log, with salts that are new whenever it begins anew
	for {
		var before [header]byte
		n, err := log.ReadAt(before[:], 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		// In this order, so that the log has whatever of it is in the data.
		data, err := os.ReadFile(d.path)
		if err != nil {
			return err
		}
		written, err := os.ReadFile(log.Name())
		if err != nil {
			return err
		}
		// A log that was copied to the data after that was read, and begun anew before it was read itself,
		// makes a pair that no disk ever held.
		if !bytes.HasPrefix(written, before[:n]) {
			continue
		}
		if err := log.Sync(); err != nil {
			return err
		}
		d.last.Store(&files{data, written})
		return nil
	}
}

// has asks the database that a power cut would leave now.
func (d *disk) has(query, id string) bool {
	path := filepath.Join(d.t.TempDir(), "after.db")
	left := d.last.Load()
	ok := assert.NotNil(d.t, left) &&
		assert.NoError(d.t, os.WriteFile(path, left.data, 0o600)) && assert.NoError(d.t, os.WriteFile(path+"-wal", left.log, 0o600))
	if !ok {
		return false
	}
	db, err := sql.Open("sqlite", "file:"+path)
	if !assert.NoError(d.t, err) {
		return false
	}
	defer func() { _ = db.Close() }()
	var there bool
	assert.NoError(d.t, db.QueryRowContext(d.t.Context(), query, id).Scan(&there))
	return there
}

const (
	hasEvent    = "SELECT EXISTS (SELECT 1 FROM events WHERE id = ?)"
	hasDelivery = "SELECT EXISTS (SELECT 1 FROM deliveries WHERE id = ?)"
	hasAttempt  = "SELECT EXISTS (SELECT 1 FROM attempts WHERE delivery_id = ?)"
	hasWebhook  = "SELECT EXISTS (SELECT 1 FROM webhooks WHERE id = ?)"
)

func openWithDisk(t *testing.T) (*models.Store, *disk) {
	t.Helper()
	d := &disk{t: t, path: filepath.Join(t.TempDir(), "webhooks.db")}
	store := modelstest.Open(t, models.Options{DSN: d.path})
	store.OnFlush(d.flush)
	return store, d
}

// Whatever an operation has answered would be there after a power cut, and so would what a claim is
// of, which is about to be sent.
func TestSQLite_WhatIsAnsweredIsOnTheDisk(t *testing.T) {
	t.Parallel()
	store, disk := openWithDisk(t)
	w := newWebhook(t, store, "acme", nil)
	require.True(t, disk.has(hasWebhook, w.ID))
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for range 5 {
				result := commit(t, store, eventTo(w))[0]
				assert.True(t, disk.has(hasEvent, result.Event.ID))
				id := result.Deliveries[0].ID
				c := claimOne(t, store, id, "a token "+id)
				assert.True(t, disk.has(hasDelivery, id))
				record(t, store, attempt(c, models.OutcomeSuccess, models.Succeeded()))
				assert.True(t, disk.has(hasAttempt, id))
			}
		})
	}
	callers.Wait()
}

// What others see of a commit before its sync goes nowhere: not to a receiver, and not into the feed.
func TestSQLite_WhatIsNotOnTheDiskYetLeavesTheProcessOnlyAfter(t *testing.T) {
	t.Parallel()
	store, disk := openWithDisk(t)
	w := newWebhook(t, store, "acme", nil)
	start, err := store.FeedHead(t.Context())
	require.NoError(t, err)
	syncing, release := make(chan struct{}, 100), make(chan struct{})
	store.OnFlush(func(log *os.File) error {
		syncing <- struct{}{}
		<-release
		return disk.flush(log)
	})
	e := eventTo(w)
	e.Deliveries[0].ID = models.NewID(models.PrefixDelivery)
	id := e.Deliveries[0].ID
	var others sync.WaitGroup
	answered := make(chan struct{})
	others.Go(func() { commit(t, store, e); close(answered) })
	select {
	case <-syncing:
	case <-answered:
		t.Fatal("nothing was synced")
	}
	there, err := store.Count(t.Context(), "SELECT count(*) FROM deliveries WHERE id = ?", id)
	require.NoError(t, err)
	require.Equal(t, 1, there, "it is committed")
	others.Go(func() {
		claims, err := store.Claim(t.Context(), []string{id}, "a token", lease)
		if assert.NoError(t, err) && assert.Len(t, claims.Claimed, 1) {
			assert.True(t, disk.has(hasDelivery, id))
		}
	})
	others.Go(func() {
		page, err := store.ReadFeed(t.Context(), models.FeedRead{From: start})
		if assert.NoError(t, err) && assert.NotEmpty(t, page.Items) {
			assert.True(t, disk.has(hasDelivery, id))
		}
	})
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		claimed, err := store.Count(t.Context(), "SELECT count(*) FROM deliveries WHERE claim_token IS NOT NULL")
		require.NoError(c, err)
		require.Equal(c, 1, claimed)
	}, time.Minute, time.Millisecond)
	close(release)
	others.Wait()
}

// A disk that fails makes what was committed uncertain, and says so only once: what it then seems to
// take may not be there. Everybody hears that it is unavailable until all of it was written anew.
func TestSQLite_ADiskThatFailedIsNotBelieved(t *testing.T) {
	t.Parallel()
	store, disk := openWithDisk(t)
	w := newWebhook(t, store, "acme", nil)
	failures := 2
	store.OnFlush(func(log *os.File) error {
		if failures--; failures >= 0 {
			return syscall.EIO
		}
		return disk.flush(log)
	})
	e := eventTo(w)
	e.IdempotencyKey, e.IdempotencyHash = new("once"), "hash"
	emit := func() ([]models.EventResult, error) {
		return store.CommitEvents(t.Context(), func(context.Context, *models.EventTx) ([]models.NewEvent, error) {
			return []models.NewEvent{e}, nil
		})
	}
	var length int
	for range 2 {
		before, _, err := store.Log(t.Context())
		require.NoError(t, err)
		length = max(length, before)
		_, err = emit()
		var away *models.UnavailableError
		require.ErrorAs(t, err, &away)
		assert.True(t, away.OutcomeUnknown)
	}
	results, err := emit()
	require.NoError(t, err)
	assert.True(t, results[0].Duplicate)
	assert.True(t, disk.has(hasEvent, results[0].Event.ID))
	after, _, err := store.Log(t.Context())
	require.NoError(t, err)
	assert.Less(t, after, length, "the log has not begun anew")
}
