package auth_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
)

// memory keeps keys in memory, for the tests whose clock is synctest's: a database's sockets
// would stop that clock. It counts, and fails when told to.
type memory struct {
	mu      sync.Mutex
	keys    map[string]models.APIKey
	reads   int
	touches []map[string]time.Time
	err     error
	slow    time.Duration
}

func (m *memory) APIKeyByHash(_ context.Context, hash string) (models.APIKey, error) {
	m.mu.Lock()
	m.reads++
	key, ok := m.keys[hash]
	err, slow := m.err, m.slow
	m.mu.Unlock()
	if slow > 0 {
		advance(slow)
	}
	if err != nil {
		return models.APIKey{}, err
	}
	if !ok {
		return models.APIKey{}, models.ErrNotFound
	}
	return key, nil
}

func (m *memory) TouchAPIKeys(_ context.Context, used map[string]time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	m.touches = append(m.touches, maps.Clone(used))
	return nil
}

// add stores a new key and returns it as an Authorization header.
func (m *memory) add(change func(*models.APIKey)) (header, hash string) {
	key, prefix, hash := auth.NewKey()
	row := models.APIKey{
		ID: models.NewID(models.PrefixAPIKey), Name: "test", Scopes: models.StringList{"READ"},
		Prefix: prefix, Hash: hash,
	}
	if change != nil {
		change(&row)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keys[hash] = row
	return "Bearer " + key, hash
}

func (m *memory) change(hash string, change func(*models.APIKey)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	row := m.keys[hash]
	change(&row)
	m.keys[hash] = row
}

func (m *memory) set(change func(*memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

func (m *memory) readCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reads
}

func setup(t *testing.T, change func(*auth.Options)) (*auth.Authenticator, *memory) {
	t.Helper()
	m := &memory{keys: map[string]models.APIKey{}}
	o := auth.Options{Store: m, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	a, err := auth.New(o)
	require.NoError(t, err)
	return a, m
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	const admin = "an administrator's key"
	a, m := setup(t, func(o *auth.Options) { o.AdminKey = admin })
	read, _ := m.add(nil)
	tenant, _ := m.add(func(k *models.APIKey) { k.Tenant = new("acme"); k.Scopes = models.StringList{"MANAGE", "EMIT"} })
	expired, _ := m.add(func(k *models.APIKey) { k.ExpiresAt = new(time.Now().Add(-time.Second)) })
	revoked, _ := m.add(func(k *models.APIKey) { k.RevokedAt = new(time.Now()) })
	contradiction, _ := m.add(func(k *models.APIKey) { k.Tenant = new("acme"); k.Scopes = models.StringList{"ADMIN"} })
	unknown, _, _ := auth.NewKey()
	tests := map[string]struct {
		header string
		err    error
		text   string
		scopes []models.Scope
		tenant *string
	}{
		"no header":            {header: "", err: auth.ErrNoCredentials},
		"spaces":               {header: "  ", err: auth.ErrNoCredentials},
		"scheme alone":         {header: "Bearer", err: auth.ErrBadCredentials, text: "must be Bearer"},
		"nothing after it":     {header: "Bearer  ", err: auth.ErrBadCredentials, text: "must be Bearer"},
		"other scheme":         {header: "Basic " + read[7:], err: auth.ErrBadCredentials, text: "must be Bearer"},
		"no scheme":            {header: read[7:], err: auth.ErrBadCredentials, text: "must be Bearer"},
		"good key":             {header: read, scopes: []models.Scope{"READ"}},
		"scheme in lower case": {header: "bearer " + read[7:], scopes: []models.Scope{"READ"}},
		"more spaces":          {header: " Bearer   " + read[7:] + " ", scopes: []models.Scope{"READ"}},
		"tenant's key":         {header: tenant, scopes: []models.Scope{"MANAGE", "EMIT"}, tenant: new("acme")},
		"unknown key":          {header: "Bearer " + unknown, err: auth.ErrBadCredentials, text: "unknown API key"},
		"bad checksum":         {header: read + "x", err: auth.ErrBadCredentials, text: "checksum"},
		"expired key":          {header: expired, err: auth.ErrBadCredentials, text: "expired"},
		"revoked key":          {header: revoked, err: auth.ErrBadCredentials, text: "revoked"},
		"ADMIN with a tenant":  {header: contradiction, err: auth.ErrBadCredentials, text: "ADMIN"},
		"administrator":        {header: "Bearer " + admin, scopes: []models.Scope{"ADMIN"}},
		"not quite":            {header: "Bearer " + admin + "s", err: auth.ErrBadCredentials, text: "unknown"},
		"token, none taken":    {header: "Bearer a.b.c", err: auth.ErrBadCredentials, text: "unknown"},
		"enormous":             {header: "Bearer " + strings.Repeat("a", 1<<20), err: auth.ErrBadCredentials, text: "longer"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := a.Authenticate(t.Context(), tt.header)
			if tt.err != nil {
				require.ErrorIs(t, err, tt.err)
				require.ErrorContains(t, err, tt.text)
				require.NotContains(t, err.Error(), "iwk_")
				require.Nil(t, p)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.scopes, p.Scopes)
			require.Equal(t, tt.tenant, p.Tenant)
		})
	}
}

func TestNoAdminKeyMeansNoAdministrator(t *testing.T) {
	t.Parallel()
	a, _ := setup(t, nil)
	for _, header := range []string{"Bearer ", "Bearer \x00", "Bearer admin", `Bearer ""`} {
		_, err := a.Authenticate(t.Context(), header)
		require.ErrorIs(t, err, auth.ErrBadCredentials)
	}
}

func TestSteadyStateReadsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, m := setup(t, nil)
		header, hash := m.add(nil)
		unknown, _, _ := auth.NewKey()
		for range 1000 {
			_, err := a.Authenticate(t.Context(), header)
			require.NoError(t, err)
		}
		require.Equal(t, 1, m.readCount())
		for range 50 {
			_, err := a.Authenticate(t.Context(), "Bearer "+unknown)
			require.ErrorIs(t, err, auth.ErrBadCredentials)
		}
		require.Equal(t, 2, m.readCount(), "bad keys are remembered too")

		m.change(hash, func(k *models.APIKey) { k.RevokedAt = new(time.Now()) })
		advance(29 * time.Second)
		_, err := a.Authenticate(t.Context(), header)
		require.NoError(t, err)
		advance(time.Second)
		_, err = a.Authenticate(t.Context(), header)
		require.ErrorIs(t, err, auth.ErrBadCredentials, "without Invalidate, the cache's age bounds it")
	})
}

func TestRevokedKeyStopsAtInvalidate(t *testing.T) {
	t.Parallel()
	a, m := setup(t, nil)
	header, hash := m.add(nil)
	_, err := a.Authenticate(t.Context(), header)
	require.NoError(t, err)
	m.change(hash, func(k *models.APIKey) { k.RevokedAt = new(time.Now()) })
	a.Invalidate()
	_, err = a.Authenticate(t.Context(), header)
	require.ErrorIs(t, err, auth.ErrBadCredentials)
	require.ErrorContains(t, err, "revoked")
}

// A read that began before the change must not be what the cache keeps after it.
func TestReadDuringChangeIsNotKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, m := setup(t, nil)
		header, hash := m.add(nil)
		m.set(func(m *memory) { m.slow = time.Second })
		go func() { _, _ = a.Authenticate(t.Context(), header) }()
		synctest.Wait()
		m.change(hash, func(k *models.APIKey) { k.RevokedAt = new(time.Now()) })
		a.Invalidate()
		_, err := a.Authenticate(t.Context(), header)
		require.ErrorIs(t, err, auth.ErrBadCredentials)
		advance(2 * time.Second)
		_, err = a.Authenticate(t.Context(), header)
		require.ErrorIs(t, err, auth.ErrBadCredentials)
	})
}

func TestKeyExpiresWhileCached(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, m := setup(t, nil)
		header, _ := m.add(func(k *models.APIKey) { k.ExpiresAt = new(time.Now().Add(10 * time.Second)) })
		advance(10*time.Second - time.Millisecond)
		_, err := a.Authenticate(t.Context(), header)
		require.NoError(t, err)
		advance(time.Millisecond)
		_, err = a.Authenticate(t.Context(), header)
		require.ErrorIs(t, err, auth.ErrBadCredentials)
		require.ErrorContains(t, err, "expired")
	})
}

func TestOneReadForManyCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, m := setup(t, nil)
		header, _ := m.add(nil)
		m.set(func(m *memory) { m.slow = time.Second })
		impatient, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		errs := make([]error, 100)
		calls.Go(func() { _, errs[0] = a.Authenticate(impatient, header) })
		synctest.Wait()
		for i := 1; i < len(errs); i++ {
			calls.Go(func() { _, errs[i] = a.Authenticate(t.Context(), header) })
		}
		synctest.Wait()
		cancel()
		calls.Wait()
		require.ErrorIs(t, errs[0], context.Canceled)
		for _, err := range errs[1:] {
			require.NoError(t, err, "the first caller's leaving is not the others'")
		}
		require.Equal(t, 1, m.readCount())
	})
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	a, m := setup(t, func(o *auth.Options) { o.AdminKey = "administrator" })
	header, _ := m.add(nil)
	away := &models.UnavailableError{Err: errors.New("connection refused")}
	m.set(func(m *memory) { m.err = away })
	var unavailable *models.UnavailableError
	_, err := a.Authenticate(t.Context(), header)
	require.ErrorAs(t, err, &unavailable)
	_, err = a.Authenticate(t.Context(), "Bearer administrator")
	require.NoError(t, err, "the administrator needs no database")

	m.set(func(m *memory) { m.err = nil })
	_, err = a.Authenticate(t.Context(), header)
	require.NoError(t, err, "an error is not remembered")
	m.set(func(m *memory) { m.err = away })
	_, err = a.Authenticate(t.Context(), header)
	require.NoError(t, err, "what is cached needs no database")
}

func TestFailedLoginsAreRateLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, m := setup(t, func(o *auth.Options) {
			o.AdminKey = "administrator"
			o.FailureBurst, o.FailureInterval = 5, time.Second
		})
		known, _ := m.add(nil)
		fresh, _ := m.add(nil)
		here := auth.WithRemoteAddr(t.Context(), "192.0.2.1:1000")
		samePlace := auth.WithRemoteAddr(t.Context(), "[::ffff:192.0.2.1]:2000")
		elsewhere := auth.WithRemoteAddr(t.Context(), "192.0.2.2:1000")
		_, err := a.Authenticate(elsewhere, known)
		require.NoError(t, err)
		for range 20 {
			_, err := a.Authenticate(here, "")
			require.ErrorIs(t, err, auth.ErrNoCredentials, "asking without credentials is not a failed login")
		}
		for range 5 {
			_, err := a.Authenticate(here, "Bearer guess")
			require.ErrorIs(t, err, auth.ErrBadCredentials)
		}
		limited := func(ctx context.Context, header string) {
			t.Helper()
			var e *auth.RateLimitedError
			_, err := a.Authenticate(ctx, header)
			require.ErrorAs(t, err, &e)
			require.Positive(t, e.RetryAfter)
			require.LessOrEqual(t, e.RetryAfter, time.Second)
		}
		limited(here, "Bearer guess")
		limited(samePlace, "Bearer guess")
		reads := m.readCount()
		limited(here, fresh)
		require.Equal(t, reads, m.readCount(), "nothing is looked at")
		limited(here, "Bearer administrator")

		_, err = a.Authenticate(here, known)
		require.NoError(t, err, "a key that is known to be good goes through")
		_, err = a.Authenticate(elsewhere, "Bearer administrator")
		require.NoError(t, err)
		_, err = a.Authenticate(elsewhere, "Bearer guess")
		require.ErrorIs(t, err, auth.ErrBadCredentials, "addresses do not share failures")

		advance(time.Second)
		_, err = a.Authenticate(here, "Bearer administrator")
		require.NoError(t, err)
		_, err = a.Authenticate(here, "Bearer guess")
		require.ErrorIs(t, err, auth.ErrBadCredentials)
		limited(here, "Bearer guess")
		_, err = a.Authenticate(here, "Bearer administrator")
		require.NoError(t, err, "that key came from here before")
	})
}

func TestIPv6NetworkIsOneAddress(t *testing.T) {
	t.Parallel()
	a, _ := setup(t, func(o *auth.Options) { o.FailureBurst, o.FailureInterval = 1, time.Hour })
	_, err := a.Authenticate(auth.WithRemoteAddr(t.Context(), "[2001:db8::1]:1"), "Bearer guess")
	require.ErrorIs(t, err, auth.ErrBadCredentials)
	var limited *auth.RateLimitedError
	_, err = a.Authenticate(auth.WithRemoteAddr(t.Context(), "[2001:db8::ffff:2%eth0]:1"), "Bearer guess")
	require.ErrorAs(t, err, &limited)
	_, err = a.Authenticate(auth.WithRemoteAddr(t.Context(), "[2001:db8:0:1::1]:1"), "Bearer guess")
	require.ErrorIs(t, err, auth.ErrBadCredentials)
}

func TestLastUseIsWrittenInBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, m := setup(t, nil)
		one, oneHash := m.add(nil)
		two, twoHash := m.add(nil)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		for range 100 {
			_, err := a.Authenticate(ctx, one)
			require.NoError(t, err)
		}
		_, err := a.Authenticate(ctx, two)
		require.NoError(t, err)
		first := models.Instant(time.Now())
		require.Empty(t, m.touches)

		m.set(func(m *memory) { m.err = &models.UnavailableError{Err: errors.New("away")} })
		advance(6 * time.Second)
		synctest.Wait()
		require.Empty(t, m.touches)
		m.set(func(m *memory) { m.err = nil })
		_, err = a.Authenticate(ctx, one)
		require.NoError(t, err)
		second := models.Instant(time.Now())
		advance(5 * time.Second)
		synctest.Wait()
		require.Equal(t, []map[string]time.Time{{m.keys[oneHash].ID: second, m.keys[twoHash].ID: first}}, m.touches)
		advance(time.Minute)
		require.Len(t, m.touches, 1, "nothing used, nothing written")

		_, err = a.Authenticate(ctx, two)
		require.NoError(t, err)
		stop()
		require.NoError(t, <-ended)
		require.Len(t, m.touches, 2, "what is left is written at the end")
	})
}

func TestWatch(t *testing.T) {
	t.Parallel()
	watch := func(t *testing.T, a *auth.Authenticator, header string) (cancel func(), ended chan error) {
		t.Helper()
		p, err := a.Authenticate(t.Context(), header)
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended = make(chan error, 1)
		go func() { ended <- a.Watch(ctx, p) }()
		synctest.Wait()
		return stop, ended
	}
	t.Run("revoked", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			a, m := setup(t, nil)
			header, hash := m.add(nil)
			stop, ended := watch(t, a, header)
			defer stop()
			a.Invalidate()
			synctest.Wait()
			require.Empty(t, ended, "another key's change ends nothing")
			m.set(func(m *memory) { m.err = errors.New("away") })
			a.Invalidate()
			synctest.Wait()
			require.Empty(t, ended, "nor does a fault")
			m.set(func(m *memory) { m.err = nil })
			m.change(hash, func(k *models.APIKey) { k.RevokedAt = new(time.Now()) })
			a.Invalidate()
			require.ErrorIs(t, <-ended, auth.ErrBadCredentials)
		})
	})
	t.Run("revoked, unannounced", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			a, m := setup(t, nil)
			header, hash := m.add(nil)
			stop, ended := watch(t, a, header)
			defer stop()
			m.change(hash, func(k *models.APIKey) { k.RevokedAt = new(time.Now()) })
			start := time.Now()
			require.ErrorIs(t, <-ended, auth.ErrBadCredentials)
			require.LessOrEqual(t, time.Since(start), 30*time.Second)
		})
	})
	t.Run("expired", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			a, m := setup(t, nil)
			header, _ := m.add(func(k *models.APIKey) { k.ExpiresAt = new(time.Now().Add(time.Minute)) })
			stop, ended := watch(t, a, header)
			defer stop()
			start := time.Now()
			require.ErrorIs(t, <-ended, auth.ErrBadCredentials)
			require.Equal(t, time.Minute, time.Since(start))
		})
	})
	t.Run("caller leaves", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			a, _ := setup(t, func(o *auth.Options) { o.AdminKey = "administrator" })
			stop, ended := watch(t, a, "Bearer administrator")
			advance(time.Hour)
			require.Empty(t, ended)
			stop()
			require.ErrorIs(t, <-ended, context.Canceled)
		})
	})
}

func TestMiddleware(t *testing.T) {
	t.Parallel()
	a, m := setup(t, nil)
	good, _ := m.add(nil)
	var p *auth.Principal
	var err error
	handler := a.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		p, _ = auth.FromContext(r.Context())
		err = auth.ErrFromContext(r.Context())
	}))
	call := func(header string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/graphql", nil)
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		require.Equal(t, http.StatusOK, w.Code, "it answers nothing itself")
	}
	call("")
	require.Nil(t, p)
	require.ErrorIs(t, err, auth.ErrNoCredentials)
	call("Bearer nonsense")
	require.Nil(t, p)
	require.ErrorIs(t, err, auth.ErrBadCredentials)
	call(good)
	require.NotNil(t, p)
	require.NoError(t, err)
}

func TestNothingIsLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a, m := setup(t, func(o *auth.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		header, hash := m.add(nil)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		_, err := a.Authenticate(ctx, header)
		require.NoError(t, err)
		m.set(func(m *memory) { m.err = errors.New("away") })
		advance(10 * time.Second)
		stop()
		require.NoError(t, <-ended)
		require.Contains(t, log.String(), "last use of API keys not written")
		require.NotContains(t, log.String(), header[7:])
		require.NotContains(t, log.String(), hash)
	})
}

// advance lets time pass inside of a bubble of synctest, where it costs none.
func advance(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // see above
