package worker

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// room is the places of the attempts that a process makes at once.
//
// A task that wants many gets what is free: waiting for all of them at once would leave them empty
// while the last one is awaited. It keeps its place in the line until it has got all of them, so that
// tasks that came later do not overtake the rest of its deliveries, which are older. Who has a claim
// already, and left its place only to stand in line for a slot of its webhook, goes before all tasks: it
// holds a slot, and its time to start runs out. A task waits for such no longer than their patience,
// because they cannot become more without room.
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

// visitor stands in a line, and waits for places when want is not 0.
type visitor struct {
	room *room
	line *list.List
	at   *list.Element
	want int
	got  chan int // cap 1

	// A task's.
	oldest string
	came   time.Time
}

func newRoom(places int) *room {
	return &room{places: places, free: places, returning: list.New(), tasks: list.New()}
}

// taskOrder is how much later than another task one may come and still go before it, if its deliveries are older:
// each task has a goroutine of its own, and those that were fetched one after the other may come in any order.
const taskOrder = 20 * time.Millisecond

// task stands in the tasks' line. oldest is the id of its oldest delivery. leave must follow.
func (r *room) task(oldest string) *visitor {
	v := &visitor{room: r, line: r.tasks, oldest: oldest, came: time.Now(), got: make(chan int, 1)}
	r.mu.Lock()
	defer r.mu.Unlock()
	after := r.tasks.Back()
	for ; after != nil; after = after.Prev() {
		other, _ := after.Value.(*visitor)
		if other.oldest <= oldest || v.came.Sub(other.came) > taskOrder {
			break
		}
	}
	if after == nil {
		v.at = r.tasks.PushFront(v)
	} else {
		v.at = r.tasks.InsertAfter(v, after)
	}
	return v
}

// comeBack waits for one place, before all tasks.
func (r *room) comeBack(ctx context.Context) error {
	v := &visitor{room: r, line: r.returning, got: make(chan int, 1)}
	r.mu.Lock()
	v.at = r.returning.PushBack(v)
	r.mu.Unlock()
	defer v.leave()
	_, err := v.enter(ctx, 1)
	return err
}

// enter waits until it is its turn and a place is free, and takes as many as are, up to n.
func (v *visitor) enter(ctx context.Context, n int) (int, error) {
	r := v.room
	r.mu.Lock()
	v.want = n
	r.admit()
	r.mu.Unlock()
	select {
	case got := <-v.got:
		return got, nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	v.want = 0
	select {
	case got := <-v.got: // at the same moment
		return got, nil
	default:
		return 0, ctx.Err()
	}
}

// leave gives the place in the line up. It may be called again.
func (v *visitor) leave() {
	r := v.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if v.at != nil {
		v.line.Remove(v.at)
		v.at = nil
		r.admit()
	}
}

// keptPart is which part of the places is kept for those that come without a task.
const keptPart = 8

// try takes up to n places without waiting, for those that come without a task.
func (r *room) try(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = r.places / keptPart
	n = min(n, r.free)
	if r.tasks.Len() > 0 {
		n = min(n, r.kept) // the rest is about to be the first task's
	}
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
	v := r.task("~") // behind all
	defer v.leave()
	for n > 0 {
		got, err := v.enter(ctx, n)
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

// admit hands out what is free, to the first in line. One that is about to want more lets nobody pass.
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
		v, _ := first.Value.(*visitor)
		if v.want == 0 {
			return
		}
		n := min(v.want, free)
		r.free -= n
		if n == v.want {
			line.Remove(first)
			v.at = nil
		}
		v.want = 0
		v.got <- n
	}
}
