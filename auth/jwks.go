package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/singleflight"

	"github.com/intervengine/webhooks/models"
)

const (
	fetchTimeout = 5 * time.Second
	maxSetBytes  = 1 << 20
)

// keySet is a JSON Web Key Set at a URL. The last good one is kept, however long the URL is away.
type keySet struct {
	url        string
	client     *http.Client
	now        func() time.Time
	minRefresh time.Duration
	every      time.Duration
	fetches    singleflight.Group

	mu      sync.Mutex
	keys    keyfunc.Keyfunc // nil: none fetched yet
	fetched int             // how many good sets were fetched
	tried   time.Time       // when the last fetch began
	lastErr error           // of the last fetch
}

func newKeySet(o JWTOptions, now func() time.Time) *keySet {
	s := &keySet{url: o.JWKSURL, client: o.Client, now: now, minRefresh: o.MinRefresh, every: o.Refresh}
	if s.client == nil {
		s.client = &http.Client{Timeout: fetchTimeout, Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		}}
	}
	if s.minRefresh <= 0 {
		s.minRefresh = 5 * time.Second
	}
	if s.every <= 0 {
		s.every = 15 * time.Minute
	}
	return s
}

// run fetches the set at once and then at each interval, until ctx ends.
func (s *keySet) run(ctx context.Context, logger *slog.Logger) {
	ticker := time.NewTicker(s.every)
	defer ticker.Stop()
	for {
		// Through the same door as refresh, so that a token that comes meanwhile waits for this one.
		_, err, _ := s.fetches.Do("", func() (any, error) { return nil, s.fetch(ctx) })
		if err != nil && ctx.Err() == nil {
			logger.WarnContext(ctx, "JSON Web Key Set not fetched, the last one stays in use", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// find gives the key that tok names, or all keys where it names none. An unknown name is looked
// for in a newer set. *models.UnavailableError says that the set could not be fetched.
func (s *keySet) find(ctx context.Context, tok *jwt.Token) (any, error) {
	key, err := s.known(ctx, tok)
	if !errors.Is(err, jwkset.ErrKeyNotFound) {
		return key, err
	}
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	return s.known(ctx, tok)
}

func (s *keySet) known(ctx context.Context, tok *jwt.Token) (any, error) {
	s.mu.Lock()
	keys := s.keys
	s.mu.Unlock()
	if keys == nil {
		return nil, jwkset.ErrKeyNotFound
	}
	return keys.KeyfuncCtx(ctx)(tok)
}

// generation changes with each set that was fetched.
func (s *keySet) generation() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetched
}

// refresh fetches the set unless that was tried a moment ago. Who comes during a fetch waits for
// it, whoever began it.
func (s *keySet) refresh(ctx context.Context) error {
	done := s.fetches.DoChan("", func() (any, error) {
		s.mu.Lock()
		recent, lastErr := !s.tried.IsZero() && s.now().Sub(s.tried) < s.minRefresh, s.lastErr
		s.mu.Unlock()
		if recent {
			return nil, lastErr
		}
		return nil, s.fetch(context.WithoutCancel(ctx))
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r := <-done:
		if r.Err != nil {
			return &models.UnavailableError{Err: fmt.Errorf("fetch JSON Web Key Set: %w", r.Err)}
		}
		return nil
	}
}

func (s *keySet) fetch(ctx context.Context) error {
	s.mu.Lock()
	s.tried = s.now()
	s.mu.Unlock()
	keys, err := s.download(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
	if err == nil {
		s.keys = keys
		s.fetched++
	}
	return err
}

func (s *keySet) download(ctx context.Context) (keyfunc.Keyfunc, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxSetBytes+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxSetBytes {
		return nil, fmt.Errorf("longer than %d bytes", maxSetBytes)
	}
	return parseSet(ctx, body)
}

// parseSet takes the public signing keys of a set. Keys for encryption, shared secrets and kinds
// that are not supported are left out, as RFC 7517 (section 5) wants.
func parseSet(ctx context.Context, body []byte) (keyfunc.Keyfunc, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("not a JSON Web Key Set")
	}
	storage := jwkset.NewMemoryStorage()
	count := 0
	for _, raw := range set.Keys {
		var m jwkset.JWKMarshal
		if json.Unmarshal(raw, &m) != nil || m.KTY == jwkset.KtyOct || (m.USE != "" && m.USE != jwkset.UseSig) {
			continue
		}
		key, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil {
			continue
		}
		if err := storage.KeyWrite(ctx, key); err != nil {
			return nil, err
		}
		count++
	}
	if count == 0 {
		return nil, errors.New("no usable key in the JSON Web Key Set")
	}
	return keyfunc.New(keyfunc.Options{Storage: storage})
}
