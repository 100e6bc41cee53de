package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/intervengine/webhooks/models"
)

// keyReadTimeout bounds a read that several callers wait for; it must not hang on the first of
// them, nor end with it.
const keyReadTimeout = 3 * time.Second

// keyCache knows stored keys by their hash. Good and bad keys have own caches, so that a flood
// of bad ones cannot push out the good.
type keyCache struct {
	store  Keys
	now    func() time.Time
	maxAge time.Duration
	good   *lru.Cache[string, keyEntry]
	bad    *lru.Cache[string, keyEntry]
	reads  singleflight.Group

	mu         sync.Mutex
	generation uint64        // raised by invalidate
	changed    chan struct{} // closed and replaced by invalidate
}

type keyEntry struct {
	id         string
	principal  *Principal // of a good key
	err        error      // of a bad one
	generation uint64     // before the read: what changed during it makes the entry old
	readAt     time.Time
}

func newKeyCache(store Keys, now func() time.Time, maxAge time.Duration) *keyCache {
	return &keyCache{
		store: store, now: now, maxAge: maxAge,
		good: newLRU[string, keyEntry](maxCachedKeys), bad: newLRU[string, keyEntry](maxCachedKeys),
		changed: make(chan struct{}),
	}
}

// newLRU makes a cache of a constant, positive size.
func newLRU[K comparable, V any](size int) *lru.Cache[K, V] {
	c, err := lru.New[K, V](size)
	if err != nil {
		panic(err)
	}
	return c
}

func (c *keyCache) invalidate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *keyCache) changes() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *keyCache) current() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

// lookup finds the principal and the id of the key with this hash. A key that was never seen
// good is read only if mayRead; else the answer is errNotChecked.
func (c *keyCache) lookup(ctx context.Context, hash string, mayRead bool) (*Principal, string, error) {
	generation := c.current()
	fresh := func(e keyEntry) bool {
		return e.generation == generation && c.now().Sub(e.readAt) < c.maxAge
	}
	known, ok := c.good.Get(hash)
	if ok && fresh(known) {
		return known.result(c.now())
	}
	if bad, found := c.bad.Get(hash); found && fresh(bad) {
		return bad.result(c.now())
	}
	if !ok && !mayRead {
		return nil, "", errNotChecked
	}
	// The generation is part of the name: who comes after a change must not join a read that
	// began before it.
	read := c.reads.DoChan(hash+strconv.FormatUint(generation, 36), func() (any, error) {
		shared, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyReadTimeout)
		defer cancel()
		return c.read(shared, hash, generation)
	})
	select {
	case <-ctx.Done():
		return nil, "", ctx.Err()
	case r := <-read:
		if r.Err != nil {
			return nil, "", r.Err
		}
		entry, _ := r.Val.(keyEntry)
		return entry.result(c.now())
	}
}

func (c *keyCache) read(ctx context.Context, hash string, generation uint64) (keyEntry, error) {
	e := keyEntry{generation: generation, readAt: c.now()}
	key, err := c.store.APIKeyByHash(ctx, hash)
	switch {
	case errors.Is(err, models.ErrNotFound):
		e.err = fmt.Errorf("%w: unknown API key", ErrBadCredentials)
	case err != nil:
		return e, fmt.Errorf("read API key: %w", err)
	case subtle.ConstantTimeCompare([]byte(key.Hash), []byte(hash)) != 1:
		// An index that folds case or trims would find what was not asked for.
		e.err = fmt.Errorf("%w: unknown API key", ErrBadCredentials)
	case key.RevokedAt != nil:
		e.err = fmt.Errorf("%w: the API key was revoked", ErrBadCredentials)
	default:
		e.id = key.ID
		e.principal, e.err = principalOf(key)
	}
	if e.err != nil {
		c.good.Remove(hash)
		c.bad.Add(hash, e)
	} else {
		c.bad.Remove(hash)
		c.good.Add(hash, e)
	}
	return e, nil
}

func principalOf(key models.APIKey) (*Principal, error) {
	p := &Principal{ID: key.ID, Tenant: key.Tenant, ExpiresAt: key.ExpiresAt, hash: key.Hash}
	for _, s := range key.Scopes {
		p.Scopes = append(p.Scopes, models.Scope(s))
	}
	if p.Tenant != nil && slices.Contains(p.Scopes, models.ScopeAdmin) {
		return nil, fmt.Errorf("%w: ADMIN is for platform keys alone", ErrBadCredentials)
	}
	return p, nil
}

func (e keyEntry) result(now time.Time) (*Principal, string, error) {
	if e.err != nil {
		return nil, "", e.err
	}
	if e.principal.expired(now) {
		return nil, "", fmt.Errorf("%w: the API key has expired", ErrBadCredentials)
	}
	return e.principal, e.id, nil
}

// usage collects when keys were last used and writes it now and then, in one statement.
type usage struct {
	store Keys
	every time.Duration

	mu    sync.Mutex
	times map[string]time.Time // as many entries as there are stored keys, at most
}

func (u *usage) note(id string, at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.times[id] = at
}

// flush writes what was noted; after an error it is kept for the next time.
func (u *usage) flush(ctx context.Context) error {
	u.mu.Lock()
	noted := u.times
	u.times = map[string]time.Time{}
	u.mu.Unlock()
	if len(noted) == 0 {
		return nil
	}
	for id, at := range noted {
		noted[id] = models.Instant(at)
	}
	err := u.store.TouchAPIKeys(ctx, noted)
	if err == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, at := range noted {
		if _, newer := u.times[id]; !newer {
			u.times[id] = at
		}
	}
	return fmt.Errorf("write last use of API keys: %w", err)
}
