package models

import "time"

// Due is an open delivery that nobody attempts, and when it is or was due. AttemptCount is part
// of what names its task in the queue.
type Due struct {
	DeliveryID    string
	AttemptCount  int
	NextAttemptAt time.Time
}

// DueCursor is a place in the walk over due deliveries, which goes by the time that they are due,
// then by id.
type DueCursor struct {
	NextAttemptAt time.Time
	DeliveryID    string
}

// Cursor is the place just after d.
func (d Due) Cursor() DueCursor {
	return DueCursor{NextAttemptAt: d.NextAttemptAt, DeliveryID: d.DeliveryID}
}
