package auth

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// limiter counts failed logins per address, each with a bucket that fills again. It knows a
// bounded number of addresses and forgets the one that failed longest ago.
type limiter struct {
	now   func() time.Time
	every time.Duration
	burst int
	admin *lru.Cache[string, struct{}] // addresses that the administrator's key came from

	mu      sync.Mutex
	buckets *lru.Cache[string, *rate.Limiter]
}

func newLimiter(burst int, every time.Duration, now func() time.Time) *limiter {
	return &limiter{
		now: now, every: every, burst: burst,
		admin:   newLRU[string, struct{}](maxAdminAddrs),
		buckets: newLRU[string, *rate.Limiter](maxLimitedAddrs),
	}
}

// blocked reports whether addr has used up its failures, and for how long.
func (l *limiter) blocked(addr string) (wait time.Duration, blocked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket, ok := l.buckets.Peek(addr)
	if !ok {
		return 0, false
	}
	tokens := bucket.TokensAt(l.now())
	if tokens >= 1 {
		return 0, false
	}
	return max(time.Duration((1-tokens)*float64(l.every)), time.Millisecond), true
}

// fail counts a failed login.
func (l *limiter) fail(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket, ok := l.buckets.Get(addr)
	if !ok {
		bucket = rate.NewLimiter(rate.Every(l.every), l.burst)
		l.buckets.Add(addr, bucket)
	}
	bucket.AllowN(l.now(), 1)
}

func (l *limiter) rememberAdmin(addr string) { l.admin.Add(addr, struct{}{}) }

func (l *limiter) knowsAdmin(addr string) bool { return l.admin.Contains(addr) }
