package worker

import (
	"container/list"
	"context"
	"sync"
)

// room is the places of the attempts that a process makes at once.
//
// A task that wants many gets what is free: waiting for all of them at once would leave them empty
// while the last one is awaited. Who has a claim already, and left its place only to stand in line for
// a slot of its webhook, goes before all tasks: it holds a slot, and its time to start runs out. A
// task waits for such no longer than their patience, because they cannot become more without room.
type room struct {
	mu        sync.Mutex
	free      int
	returning *list.List // of *visitor with a claim
	tasks     *list.List // of *visitor without
}

// visitor waits for places.
type visitor struct {
	want int
	got  chan int // cap 1
}

func newRoom(places int) *room {
	return &room{free: places, returning: list.New(), tasks: list.New()}
}

// enter waits until a place is free, and takes as many as are, up to n.
func (r *room) enter(ctx context.Context, n int) (int, error) { return r.wait(ctx, r.tasks, n) }

// comeBack waits for one place, before all who enter.
func (r *room) comeBack(ctx context.Context) error {
	_, err := r.wait(ctx, r.returning, 1)
	return err
}

// try takes up to n places without waiting; none where others wait.
func (r *room) try(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.returning.Len()+r.tasks.Len() > 0 {
		return 0
	}
	n = min(n, r.free)
	r.free -= n
	return n
}

// empty takes n places, which are all of them: it waits until everybody has left.
func (r *room) empty(ctx context.Context, n int) error {
	for n > 0 {
		got, err := r.enter(ctx, n)
		if err != nil {
			return err
		}
		n -= got
	}
	return nil
}

// leave gives n places back.
func (r *room) leave(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free += n
	r.admit()
}

func (r *room) wait(ctx context.Context, line *list.List, n int) (int, error) {
	v := &visitor{want: n, got: make(chan int, 1)}
	r.mu.Lock()
	at := line.PushBack(v)
	r.admit()
	r.mu.Unlock()
	select {
	case got := <-v.got:
		return got, nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case got := <-v.got: // at the same moment
		return got, nil
	default:
		line.Remove(at)
		return 0, ctx.Err()
	}
}

// admit hands out what is free.
func (r *room) admit() {
	for r.free > 0 {
		line := r.returning
		if line.Len() == 0 {
			line = r.tasks
		}
		first := line.Front()
		if first == nil {
			return
		}
		v, _ := line.Remove(first).(*visitor)
		n := min(v.want, r.free)
		r.free -= n
		v.got <- n
	}
}
