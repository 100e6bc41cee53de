package queue

import (
	"context"
	"crypto/rand"
	"reflect"
	"sync"
	"time"
	"unsafe"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// embedded is a Redis inside this process, on a loopback port that only the password opens.
type embedded struct {
	server   *miniredis.Miniredis
	password string
}

func startEmbedded() (*embedded, error) {
	e := &embedded{server: miniredis.NewMiniRedis(), password: rand.Text()}
	// The password stands before the port is open to anybody.
	e.server.RequireAuth(e.password)
	if err := e.server.StartAddr("127.0.0.1:0"); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *embedded) options() *redis.Options {
	return &redis.Options{Addr: e.server.Addr(), Password: e.password}
}

// tick drives the server's clock until ctx ends; without it nothing in there would ever expire.
// It goes over all keys, so it takes its time where there are many: at most 1 % of a core.
func (e *embedded) tick(ctx context.Context) {
	const second = time.Second
	last := time.Now()
	timer := time.NewTimer(second)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Now()
		e.server.FastForward(now.Sub(last))
		e.forget()
		last = now
		timer.Reset(max(second, 100*time.Since(now)))
	}
}

// mostVersions is how many keys' changes the server may count before it forgets them, about 1 MB.
const mostVersions = 10_000

// forget lets go of the server's counts of changes. It keeps one for each key that there ever was, for
// WATCH, which nothing here uses: a tenth of a kilobyte for each task, for as long as the process lives.
func (e *embedded) forget() {
	versions := e.versions()
	e.server.Lock()
	defer e.server.Unlock()
	if len(*versions) > mostVersions {
		*versions = map[string]uint{}
	}
}

// versions is where the server counts; look at it under the server's lock. The library has no way to it: a
// version of it that counts elsewhere panics here at the first second, and so in every test.
func (e *embedded) versions() *map[string]uint {
	field := reflect.ValueOf(e.server.DB(0)).Elem().FieldByName("keyVersion")
	return reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Interface().(*map[string]uint) //nolint:forcetypeassert // see above
}

// steadyClock is a hook on the clients of an embedded server that tells it the time before each command:
// what it showed at its start, and what has passed since. Rates and circuits are counted by it, and
// whoever sets the machine's clock must not end the second that a rate is of.
type steadyClock struct {
	server *miniredis.Miniredis
	start  time.Time
	mu     sync.Mutex
}

// tell never sets the clock back: a caller that was slow between looking at the time and telling it would
// let the commands of others be of a time before they were sent.
func (c *steadyClock) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server.SetTime(c.start.Add(time.Since(c.start)).UTC())
}

// DialHook leaves dialling as it is.
func (*steadyClock) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook tells the time before a command.
func (c *steadyClock) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.tell()
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook tells the time before commands.
func (c *steadyClock) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.tell()
		return next(ctx, cmds)
	}
}

func (e *embedded) close() { e.server.Close() }
