package queue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

const (
	// maxRetry and timeout are about our own faults; a receiver's failures never come here. What
	// runs out of retries is dropped, and comes back through the Reconciler.
	maxRetry = 25
	// timeout is how long asynq lets a bundle run. The attempts' own timeouts end it long before.
	timeout = 30 * time.Minute

	maxPipeline = 512
)

// captureHook keeps asynq's client from talking to Redis and takes down what it would have said,
// so that any number of tasks go out in one round trip. asynq has no call for that; and because
// it encodes each task itself, its tasks stay its own in whatever form a release gives them.
type captureHook struct {
	mu       sync.Mutex
	sources  map[string]string // script by its hash
	preamble map[string][]any  // what asynq says once per process, and a flush makes Redis forget
}

type captureKey struct{}

// captured is the script call that stores one task.
type captured struct {
	sha  string
	args []any // EVALSHA and its arguments
}

func newCaptureHook() *captureHook {
	return &captureHook{sources: make(map[string]string), preamble: make(map[string][]any)}
}

// DialHook leaves dialling as it is.
func (h *captureHook) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook leaves pipelines as they are.
func (h *captureHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook takes down the commands of a context that carries a captured.
func (h *captureHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		into, ok := ctx.Value(captureKey{}).(*captured)
		if !ok {
			return next(ctx, cmd)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		args := cmd.Args()
		switch cmd.Name() {
		case "evalsha":
			into.sha, _ = args[1].(string)
			if _, known := h.sources[into.sha]; !known {
				// Makes the caller say the source.
				cmd.SetErr(redis.ErrNoScript)
				return redis.ErrNoScript
			}
			into.args = args
		case "eval":
			source, _ := args[1].(string)
			h.sources[into.sha] = source
			into.args = append([]any{"evalsha", into.sha}, args[2:]...)
		default:
			h.preamble[fmt.Sprint(args...)] = args
		}
		switch reply := cmd.(type) {
		case *redis.Cmd:
			reply.SetVal(int64(1))
		case *redis.IntCmd:
			reply.SetVal(1)
		}
		return nil
	}
}

func (h *captureHook) source(sha string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sources[sha]
}

func (h *captureHook) preambles() [][]any {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([][]any, 0, len(h.preamble))
	for _, args := range h.preamble {
		all = append(all, args)
	}
	return all
}

// encode makes the script call that stores t under the given id.
func (c *Conn) encode(ctx context.Context, t task, id string) (*captured, error) {
	body, err := encodePayload(t.ids())
	if err != nil {
		return nil, fmt.Errorf("encode task: %w", err)
	}
	opts := []asynq.Option{
		asynq.Queue(queueName), asynq.TaskID(id), asynq.MaxRetry(maxRetry), asynq.Timeout(timeout),
	}
	if !t.at.IsZero() {
		// asynq goes by this process's own clock, which may be another than the one of at.
		opts = append(opts, asynq.ProcessIn(t.at.Sub(c.now())))
	}
	into := &captured{}
	if _, err := c.sender.EnqueueContext(context.WithValue(ctx, captureKey{}, into), asynq.NewTask(taskType, body), opts...); err != nil {
		return nil, fmt.Errorf("encode task: %w", err)
	}
	switch s := parseScript(into.args); s.kind {
	case scriptSchedule:
		// asynq cuts the time to whole seconds, which would be early.
		into.args[s.firstArg+1] = score(t.at)
	case scriptEnqueue:
		into.args[s.firstArg+2] = c.now().UnixNano()
	case scriptOther, scriptDequeue, scriptExpired, scriptForward:
	}
	return into, nil
}

// score is a time as the sorted set of scheduled tasks holds it: seconds, rounded up to
// milliseconds, so that nothing is forwarded before its time.
func score(at time.Time) string {
	ms := at.Add(time.Millisecond - 1).UnixMilli()
	return strconv.FormatFloat(float64(ms)/1000, 'f', 3, 64)
}

// store writes tasks to Redis in as few round trips as possible, and wakes whoever waits for one
// that is due. A task whose id is taken by one that will be worked is no error; one whose id is
// taken by anything else is stored under another id.
func (c *Conn) store(ctx context.Context, tasks []task) error {
	for len(tasks) > 0 {
		n := min(len(tasks), maxPipeline)
		if err := c.storeSome(ctx, tasks[:n]); err != nil {
			return err
		}
		tasks = tasks[n:]
	}
	return nil
}

func (c *Conn) storeSome(ctx context.Context, tasks []task) error {
	calls := make([]*captured, len(tasks))
	for i, t := range tasks {
		call, err := c.encode(ctx, t, t.id)
		if err != nil {
			return err
		}
		calls[i] = call
	}
	taken, err := c.exec(ctx, tasks, calls)
	if err != nil {
		return err
	}
	if len(taken) > 0 {
		c.counters.conflicts.Add(int64(len(taken)))
		if err := c.replace(ctx, taken); err != nil {
			return err
		}
	}
	c.announce(tasks)
	return nil
}

// announce tells this process's Servers of what was stored; others are told by exec.
func (c *Conn) announce(tasks []task) {
	var soonest time.Time
	due := false
	for _, t := range tasks {
		switch {
		case t.at.IsZero():
			due = true
		case soonest.IsZero() || t.at.Before(soonest):
			soonest = t.at
		}
	}
	if due {
		c.wakes.notify()
	}
	if !soonest.IsZero() {
		at := soonest.UnixNano()
		for seen := c.soonest.Load(); seen == 0 || at < seen; seen = c.soonest.Load() {
			if c.soonest.CompareAndSwap(seen, at) {
				break
			}
		}
		c.sooner.notify()
	}
}

// exec runs the calls in one pipeline and returns the tasks whose ids were taken.
func (c *Conn) exec(ctx context.Context, tasks []task, calls []*captured) ([]task, error) {
	replies := c.pipeline(ctx, tasks, calls)
	var forgotten []int
	for i, r := range replies {
		if redis.HasErrorPrefix(r.Err(), "NOSCRIPT") {
			forgotten = append(forgotten, i)
		}
	}
	if len(forgotten) > 0 {
		// Redis was restarted: say the sources.
		again, full := make([]task, len(forgotten)), make([]*captured, len(forgotten))
		for k, i := range forgotten {
			again[k] = tasks[i]
			full[k] = &captured{args: append([]any{"eval", c.capture.source(calls[i].sha)}, calls[i].args[2:]...)}
		}
		for k, r := range c.pipeline(ctx, again, full) {
			replies[forgotten[k]] = r
		}
	}
	var taken []task
	for i, r := range replies {
		stored, err := r.Int64()
		if err != nil {
			return nil, fmt.Errorf("store task: %w", err)
		}
		if stored == 0 {
			taken = append(taken, tasks[i])
		}
	}
	return taken, nil
}

func (c *Conn) pipeline(ctx context.Context, tasks []task, calls []*captured) []*redis.Cmd {
	pipe := c.client.Pipeline()
	for _, args := range c.capture.preambles() {
		pipe.Do(ctx, args...)
	}
	replies := make([]*redis.Cmd, len(calls))
	due := false
	for i, call := range calls {
		replies[i] = pipe.Do(ctx, call.args...)
		due = due || tasks[i].at.IsZero()
	}
	if due && c.embedded == nil {
		pipe.Publish(ctx, noticeChannel, noticeWake)
	}
	_, _ = pipe.Exec(ctx) // each reply carries its own error
	return replies
}

// replace looks at what holds the ids of tasks. Where that will not be worked in time (archived,
// in hand, waiting for a retry, scheduled for later) the task is stored under an id of its own.
func (c *Conn) replace(ctx context.Context, tasks []task) error {
	pipe := c.client.Pipeline()
	states, scores := make([]*redis.StringCmd, len(tasks)), make([]*redis.FloatCmd, len(tasks))
	for i, t := range tasks {
		states[i] = pipe.HGet(ctx, keyTask+t.id, "state")
		scores[i] = pipe.ZScore(ctx, keyScheduled, t.id)
	}
	_, _ = pipe.Exec(ctx) // each reply carries its own error; a missing one is not a fault
	var again []task
	var calls []*captured
	for i, t := range tasks {
		switch states[i].Val() {
		case "pending":
			continue
		case "scheduled":
			if scores[i].Err() == nil && !t.at.IsZero() && scores[i].Val() <= float64(t.at.UnixMilli()+100)/1000 {
				continue
			}
		}
		t.id += ":" + strconv.FormatInt(time.Now().UnixNano(), 36)
		call, err := c.encode(ctx, t, t.id)
		if err != nil {
			return err
		}
		again, calls = append(again, t), append(calls, call)
	}
	if len(again) == 0 {
		return nil
	}
	_, err := c.exec(ctx, again, calls)
	return err
}

// script is what a script call of asynq is, told by its keys.
type script struct {
	kind     scriptKind
	firstArg int // index of ARGV[1] among the command's arguments
}

type scriptKind int

const (
	scriptOther    scriptKind = iota
	scriptEnqueue             // KEYS: task, pending; ARGV: message, id, now
	scriptSchedule            // KEYS: task, scheduled; ARGV: message, score, id
	scriptDequeue             // KEYS: pending, paused, active, lease; ARGV: lease expiry, …
	scriptExpired             // KEYS: lease; ARGV: up to when, task prefix
	scriptForward             // KEYS: scheduled or retry, pending; ARGV: now, task prefix, now in ns, …
)

// parseScript recognises the calls that this package treats specially. What it does not know is
// scriptOther and passes as it is; a test fails when a release of asynq changes the known ones.
func parseScript(args []any) script {
	const numKeysAt = 2
	if len(args) <= numKeysAt {
		return script{}
	}
	if name, _ := args[0].(string); name != "evalsha" && name != "eval" {
		return script{}
	}
	n, ok := args[numKeysAt].(int)
	if !ok || n < 0 || len(args) < numKeysAt+1+n {
		return script{}
	}
	first := numKeysAt + 1 + n
	keys := make([]string, n)
	for i := range keys {
		keys[i], _ = args[numKeysAt+1+i].(string)
	}
	kind := scriptOther
	switch {
	case n == 4 && keys[0] == keyPending && keys[1] == keyPaused && keys[2] == keyActive && keys[3] == keyLease && len(args) == first+2:
		kind = scriptDequeue
	case n == 1 && keys[0] == keyLease && len(args) == first+2:
		kind = scriptExpired
	case n == 2 && (keys[0] == keyScheduled || keys[0] == keyRetry) && keys[1] == keyPending && len(args) == first+4:
		kind = scriptForward
	case n == 2 && strings.HasPrefix(keys[0], keyTask) && keys[1] == keyScheduled && len(args) == first+3:
		kind = scriptSchedule
	case n == 2 && strings.HasPrefix(keys[0], keyTask) && keys[1] == keyPending && len(args) == first+3:
		kind = scriptEnqueue
	}
	return script{kind: kind, firstArg: first}
}

// The keys of the queue, as asynq names them.
const (
	keyPrefix    = "asynq:{" + queueName + "}:"
	keyTask      = keyPrefix + "t:"
	keyPending   = keyPrefix + "pending"
	keyActive    = keyPrefix + "active"
	keyScheduled = keyPrefix + "scheduled"
	keyRetry     = keyPrefix + "retry"
	keyArchived  = keyPrefix + "archived"
	keyCompleted = keyPrefix + "completed"
	keyLease     = keyPrefix + "lease"
	keyPaused    = keyPrefix + "paused"
)
