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
//
// Where some come without a task, a part of the places is kept for them: a backlog of tasks, which is
// served in its order, must not send what has just been committed to its end.
type room struct {
	mu        sync.Mutex
	places    int
	kept      int // of the free ones, for those without a task; 0: none have come
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
	return &room{places: places, free: places, returning: list.New(), tasks: list.New()}
}

// enter waits until a place is free, and takes as many as are, up to n.
func (r *room) enter(ctx context.Context, n int) (int, error) { return r.wait(ctx, r.tasks, n) }

// comeBack waits for one place, before all who enter.
func (r *room) comeBack(ctx context.Context) error {
	_, err := r.wait(ctx, r.returning, 1)
	return err
}

// keptPart is which part of the places is kept for those that come without a task.
const keptPart = 8

// try takes up to n places without waiting, for those that come without a task.
func (r *room) try(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = r.places / keptPart
	n = min(n, r.free)
	r.free -= n
	return n
}

// empty takes all places: it waits until everybody has left. Nobody may try any more.
func (r *room) empty(ctx context.Context) error {
	r.mu.Lock()
	n := r.places
	r.kept = 0
	r.admit()
	r.mu.Unlock()
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
	for {
		line, free := r.returning, r.free
		if line.Len() == 0 {
			line, free = r.tasks, r.free-r.kept
		}
		first := line.Front()
		if first == nil || free <= 0 {
			return
		}
		v, _ := line.Remove(first).(*visitor)
		n := min(v.want, free)
		r.free -= n
		v.got <- n
	}
}
