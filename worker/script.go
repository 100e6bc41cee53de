package worker

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// errAnswer says that Redis answered something else than its script does.
var errAnswer = errors.New("redis answered something else than its script does")

// scriptCall is one run of a script.
type scriptCall struct {
	script *redis.Script
	keys   []string
	args   []any
}

// runScripts runs calls in one round trip, and again with their sources where Redis has forgotten
// the scripts. Each reply carries its own error.
func runScripts(ctx context.Context, client redis.UniversalClient, calls []scriptCall) []*redis.Cmd {
	replies := make([]*redis.Cmd, len(calls))
	run := func(which []int, eval func(pipe redis.Pipeliner, c scriptCall) *redis.Cmd) (forgotten []int) {
		pipe := client.Pipeline()
		for _, i := range which {
			replies[i] = eval(pipe, calls[i])
		}
		_, _ = pipe.Exec(ctx) // each reply carries its own error
		for _, i := range which {
			if redis.HasErrorPrefix(replies[i].Err(), "NOSCRIPT") {
				forgotten = append(forgotten, i)
			}
		}
		return forgotten
	}
	all := make([]int, len(calls))
	for i := range all {
		all[i] = i
	}
	forgotten := run(all, func(pipe redis.Pipeliner, c scriptCall) *redis.Cmd {
		return c.script.EvalSha(ctx, pipe, c.keys, c.args...)
	})
	if len(forgotten) > 0 {
		run(forgotten, func(pipe redis.Pipeliner, c scriptCall) *redis.Cmd {
			return c.script.Eval(ctx, pipe, c.keys, c.args...)
		})
	}
	return replies
}
