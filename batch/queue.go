package batch

// item is one caller's work. Its fields but in and answer are guarded by the
// committer's lock.
type item[In, Out any] struct {
	in     In
	answer func(Out, error)

	previous, next *item[In, Out]
	queued         bool
}

// queue is a linked list, so that a caller whose context ends leaves from the
// middle at once: while a flush hangs, callers that give up and try again must
// not let the queue grow past its bound.
type queue[In, Out any] struct {
	first, last *item[In, Out]
	length      int
}

func (q *queue[In, Out]) push(it *item[In, Out]) {
	it.previous, it.next, it.queued = q.last, nil, true
	if q.last == nil {
		q.first = it
	} else {
		q.last.next = it
	}
	q.last = it
	q.length++
}

func (q *queue[In, Out]) remove(it *item[In, Out]) {
	if it.previous == nil {
		q.first = it.next
	} else {
		it.previous.next = it.next
	}
	if it.next == nil {
		q.last = it.previous
	} else {
		it.next.previous = it.previous
	}
	it.previous, it.next, it.queued = nil, nil, false
	q.length--
}

// take moves up to limit items, oldest first, to the end of into.
func (q *queue[In, Out]) take(into []*item[In, Out], limit int) []*item[In, Out] {
	for ; limit > 0 && q.first != nil; limit-- {
		it := q.first
		q.remove(it)
		into = append(into, it)
	}
	return into
}
