package intake

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/intervengine/webhooks/catalogue"
	"github.com/intervengine/webhooks/models"
)

// maxTenants bounds the tenants whose webhooks are kept compiled in memory.
const maxTenants = 4096

// snapshot is what events are validated and matched against. It is immutable. Every tenant in it
// is at least as new as epoch: what changed later is found in the change log and loaded again.
type snapshot struct {
	epoch     int64
	catalogue *catalogue.Catalogue
	tenants   map[string]*catalogue.Index
}

// reader is where a snapshot is loaded from: the store, or a transaction of it.
type reader interface {
	changes(ctx context.Context, since int64) (changed []models.Change, head int64, err error)
	webhooks(ctx context.Context, tenant string) ([]models.Webhook, error)
	eventTypes(ctx context.Context) ([]models.EventType, error)
}

type snapshots struct {
	store   *models.Store
	current atomic.Pointer[snapshot]
	mu      sync.Mutex // serialises loads, not reads
}

// get gives the current snapshot, loading the first one.
func (s *snapshots) get(ctx context.Context) (*snapshot, error) {
	if snap := s.current.Load(); snap != nil {
		return snap, nil
	}
	return s.fresh(ctx)
}

// fresh gives a snapshot that knows every change answered before the call.
func (s *snapshots) fresh(ctx context.Context) (*snapshot, error) {
	return s.update(ctx, storeReader{s.store})
}

// update brings the snapshot up to the head of the change log that r sees.
func (s *snapshots) update(ctx context.Context, r reader) (*snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current.Load()
	if old == nil {
		old = &snapshot{epoch: -1}
	}
	changed, head, err := r.changes(ctx, old.epoch)
	if err != nil {
		return nil, fmt.Errorf("read config changes: %w", err)
	}
	if old.catalogue != nil && head == old.epoch {
		return old, nil
	}
	next := &snapshot{epoch: head, catalogue: old.catalogue, tenants: maps.Clone(old.tenants)}
	if next.tenants == nil {
		next.tenants = map[string]*catalogue.Index{}
	}
	// Where the log no longer holds all that changed, everything is loaded anew.
	types := next.catalogue == nil || int64(len(changed)) < head-old.epoch
	for _, c := range changed {
		switch c.Kind {
		case models.ChangedEventType:
			types = true
		case models.ChangedWebhook:
			// Forgotten, not loaded: the next event of that tenant loads it.
			delete(next.tenants, c.Tenant)
		}
	}
	if types {
		rows, err := r.eventTypes(ctx)
		if err != nil {
			return nil, fmt.Errorf("read event types: %w", err)
		}
		if next.catalogue, err = compile(old.catalogue, rows); err != nil {
			return nil, fmt.Errorf("compile catalogue: %w", err)
		}
		// Filters and payload queries are compiled against the catalogue.
		clear(next.tenants)
	}
	s.current.Store(next)
	return next, nil
}

// compile makes the catalogue of rows, keeping what the one before has compiled already.
func compile(before *catalogue.Catalogue, rows []models.EventType) (*catalogue.Catalogue, error) {
	if before == nil {
		return catalogue.New(rows)
	}
	return before.With(rows)
}

// index gives the tenant's compiled webhooks within snap, loading them where they are missing.
// The answer may come from a newer snapshot than snap, never from an older one.
func (s *snapshots) index(ctx context.Context, r reader, snap *snapshot, tenant string) (*catalogue.Index, error) {
	if ix := snap.tenants[tenant]; ix != nil {
		return ix, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	base := s.current.Load()
	if ix := base.tenants[tenant]; ix != nil && base.epoch >= snap.epoch {
		return ix, nil
	}
	rows, err := r.webhooks(ctx, tenant)
	if err != nil {
		return nil, fmt.Errorf("read webhooks: %w", err)
	}
	ix := base.catalogue.Index(rows)
	next := &snapshot{epoch: base.epoch, catalogue: base.catalogue, tenants: maps.Clone(base.tenants)}
	for name := range next.tenants {
		if len(next.tenants) < maxTenants {
			break
		}
		delete(next.tenants, name)
	}
	next.tenants[tenant] = ix
	s.current.Store(next)
	return ix, nil
}

// storeReader reads outside of a transaction. The head is read before anything else, so that
// what is loaded is never older than the epoch that it is kept under.
type storeReader struct{ store *models.Store }

func (r storeReader) changes(ctx context.Context, since int64) ([]models.Change, int64, error) {
	head, err := r.store.ConfigEpoch(ctx)
	if err != nil || since < 0 || head == since {
		return nil, head, err
	}
	changed, err := r.store.ChangesSince(ctx, since)
	return changed, head, err
}

func (r storeReader) webhooks(ctx context.Context, tenant string) ([]models.Webhook, error) {
	return r.store.TenantWebhooks(ctx, tenant)
}

func (r storeReader) eventTypes(ctx context.Context) ([]models.EventType, error) {
	return r.store.AllEventTypes(ctx)
}

// txReader reads inside the commit's transaction, under the lock that keeps changes out.
type txReader struct{ tx *models.EventTx }

func (r txReader) changes(_ context.Context, since int64) ([]models.Change, int64, error) {
	head := r.tx.Epoch()
	if since < 0 || head == since {
		return nil, head, nil
	}
	changed, err := r.tx.ChangesSince(since)
	return changed, head, err
}

func (r txReader) webhooks(_ context.Context, tenant string) ([]models.Webhook, error) {
	return r.tx.Webhooks(tenant)
}

func (r txReader) eventTypes(context.Context) ([]models.EventType, error) { return r.tx.EventTypes() }
