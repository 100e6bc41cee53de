package models

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// The feed is the log of what changed: events that were emitted, and every state that a delivery
// went through. It is written in the transactions that make the changes, a row for each kind and
// tenant, so that it costs the hot path one statement a flush.
//
// Rows are numbered as they are written, under the locks of what they tell about, so the numbers of
// the changes of one delivery rise as they happened. But rows are not committed in that order, and
// a reader must not pass one by that comes late. Usually writers take a lock for that, or readers
// wait until no older transaction runs, which lets any long one on the server stop them. Here a
// FeedPosition is a number and the snapshot that it was read in: what has a lower number and was
// not in the snapshot is read when it comes, exactly once, and nobody waits.

// FeedKind says what a row of the feed is about.
type FeedKind string

// The kinds of changes in the feed.
const (
	FeedDelivery FeedKind = "d" // a delivery was made or changed its state
	FeedEvent    FeedKind = "e" // an event was emitted; test events are not
)

// ErrCursorExpired says that a cursor is older than what the feed still holds, or of another
// database's feed: nobody can tell what it misses.
var ErrCursorExpired = errors.New("cursor is too old")

// FeedPosition is a place in the feed: which changes came before it. It is a value, made by
// FeedHead, ReadFeed and ParseFeedCursor, and never changed.
type FeedPosition struct {
	feed string
	// Rows before seq were read, and of row seq the first done items, as far as snap has them.
	seq  int64
	done int
	snap snapshot
	late *latePart // nil: of what snap has not, nothing was read
	// What comes after this position was written at this time or later, but for feedSlack.
	at time.Time
}

// snapshot is the transactions that were seen: those below max but for the running ones, which are
// sorted. Where max is 0, all: SQLite commits in order.
type snapshot struct {
	max     int64
	running []int64
}

func (s *snapshot) has(xid int64) bool {
	return s.max == 0 || xid < s.max && !slices.Contains(s.running, xid)
}

// latePart is how much was read of what the position's snapshot has not: the rows before seq, and
// of row seq the first done items, as far as a later snapshot has them.
type latePart struct {
	seq  int64
	done int
	snap snapshot
}

// feedSlack is more than any transaction takes that writes to the feed: what was not yet visible
// at a time was written after that time less feedSlack.
const feedSlack = time.Minute

// Has reports whether a change came at or before p.
func (p *FeedPosition) Has(i *FeedItem) bool {
	switch {
	case i.seq > p.seq || i.seq == p.seq && i.index >= p.done:
		return false
	case p.snap.has(i.xid):
		return true
	case p.late == nil || !p.late.snap.has(i.xid):
		return false
	default:
		return i.seq < p.late.seq || i.seq == p.late.seq && i.index < p.late.done
	}
}

// Whole reports whether p is at the end of what was to be read when it was made.
func (p *FeedPosition) Whole() bool { return p.late == nil && p.done == 0 }

// Covers reports whether all that came before q came before p too. Both are whole.
func (p *FeedPosition) Covers(q *FeedPosition) bool {
	if p.feed != q.feed || p.seq < q.seq || p.snap.max < q.snap.max {
		return false
	}
	return !slices.ContainsFunc(p.snap.running, q.snap.has)
}

// FeedItem is one change.
type FeedItem struct {
	Kind    FeedKind
	Tenant  string
	EventID string        // FeedEvent
	State   DeliveryState // FeedDelivery
	// At is when it was written, by the database's clock.
	At time.Time

	xid, seq int64
	index    int
	// page is the position before what was read with it, as far as it holds for all of that.
	page *FeedPosition
}

// Position is the place right after the change.
func (i *FeedItem) Position() FeedPosition {
	p := *i.page
	p.at = i.At
	if p.late != nil {
		p.late = &latePart{seq: i.seq, done: i.index + 1, snap: p.late.snap}
	} else {
		p.seq, p.done = i.seq, i.index+1
	}
	return p
}

// Cursor is Position as a text for callers.
func (i *FeedItem) Cursor() string { p := i.Position(); return p.Cursor(i.Kind) }

// feedCursorVersion is raised when the form of cursors changes, so that old ones are refused.
const feedCursorVersion = 1

// maxFeedCursor bounds what is read as a cursor: one open transaction for each connection that
// Postgres may have takes a few bytes.
const maxFeedCursor = 16 << 10

// Cursor writes the position for callers who follow changes of a kind.
func (p *FeedPosition) Cursor(kind FeedKind) string {
	b := make([]byte, 0, 64)
	b = append(b, feedCursorVersion)
	b = append(b, kind...)
	b = append(b, byte(len(p.feed)))
	b = append(b, p.feed...)
	b = binary.AppendVarint(b, p.at.UnixMicro())
	b = binary.AppendUvarint(b, uint64(p.seq))
	b = binary.AppendUvarint(b, uint64(p.done))
	b = p.snap.append(b)
	if p.late != nil {
		b = binary.AppendUvarint(b, uint64(p.late.seq))
		b = binary.AppendUvarint(b, uint64(p.late.done))
		b = p.late.snap.append(b)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseFeedCursor reads what Cursor wrote for the same kind: ErrInvalidCursor where it did not.
func ParseFeedCursor(cursor string, kind FeedKind) (FeedPosition, error) {
	var p FeedPosition
	if len(cursor) > maxFeedCursor {
		return p, ErrInvalidCursor
	}
	b, err := decodeCursor(cursor)
	head := string([]byte{feedCursorVersion}) + string(kind)
	if err != nil || len(b) <= len(head) || string(b[:len(head)]) != head {
		return p, ErrInvalidCursor
	}
	b = b[len(head):]
	size := int(b[0])
	if len(b) < 1+size {
		return p, ErrInvalidCursor
	}
	p.feed, b = string(b[1:1+size]), b[1+size:]
	r := varints{rest: b}
	p.at = time.UnixMicro(r.signed()).UTC()
	p.seq, p.done = r.unsigned(), int(r.unsigned())
	p.snap = r.snapshot()
	if len(r.rest) > 0 {
		p.late = &latePart{seq: r.unsigned(), done: int(r.unsigned())}
		p.late.snap = r.snapshot()
	}
	if r.bad || len(r.rest) > 0 {
		return FeedPosition{}, ErrInvalidCursor
	}
	return p, nil
}

// append writes a snapshot: its bound, how many ran, and these by the steps from one to the next.
func (s *snapshot) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(s.max))
	b = binary.AppendUvarint(b, uint64(len(s.running)))
	last := int64(0)
	for _, x := range s.running {
		b, last = binary.AppendUvarint(b, uint64(x-last)), x
	}
	return b
}

func (r *varints) snapshot() snapshot {
	s := snapshot{max: r.unsigned()}
	last := int64(0)
	for n := r.unsigned(); n > 0 && !r.bad; n-- {
		x := last + r.unsigned()
		if x <= last || x >= s.max {
			r.bad, r.rest = true, nil
			break
		}
		s.running = append(s.running, x)
		last = x
	}
	return s
}

// varints reads numbers until one is malformed.
type varints struct {
	rest []byte
	bad  bool
}

func (r *varints) signed() int64 {
	v, n := binary.Varint(r.rest)
	return r.took(v, n)
}

func (r *varints) unsigned() int64 {
	v, n := binary.Uvarint(r.rest)
	if v > 1<<60 {
		n = 0
	}
	return r.took(int64(v), n)
}

func (r *varints) took(v int64, n int) int64 {
	if n <= 0 || v < -1<<60 || v > 1<<60 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// DeliveryState is what changes about a delivery, as the feed keeps it.
type DeliveryState struct {
	DeliveryID    string
	Status        DeliveryStatus
	StatusReason  *DeliveryStatusReason
	StatusDetail  *string
	AttemptCount  int
	NextAttemptAt *time.Time
	LastOutcome   *Outcome
	LastStatus    *int
	CompletedAt   *time.Time
}

// On gives d as it was in this state. What a filter that failed had to say is taken from d: it may
// quote the event's data, so the feed does not keep it, and it goes when the event is erased.
func (s *DeliveryState) On(d Delivery) Delivery {
	if s.StatusReason == nil || *s.StatusReason != ReasonFilterError {
		d.StatusDetail = s.StatusDetail
	}
	d.Status, d.StatusReason = s.Status, s.StatusReason
	d.AttemptCount, d.NextAttemptAt, d.CompletedAt = s.AttemptCount, s.NextAttemptAt, s.CompletedAt
	d.LastOutcome, d.LastStatus = s.LastOutcome, s.LastStatus
	return d
}

// UnmarshalJSON reads a state as appendState and the SQL of feedStates write it: a list in the
// order of the fields, times as microseconds, with nulls at the end left out or not.
func (s *DeliveryState) UnmarshalJSON(text []byte) error {
	var next, completed *int64
	list := []any{
		&s.DeliveryID, &s.Status, &s.StatusReason, &s.StatusDetail, &s.AttemptCount, &next, &s.LastOutcome, &s.LastStatus, &completed,
	}
	// Elements beyond those would be a later version's: json drops none, so they are cut here.
	var raw []json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		return fmt.Errorf("read delivery state: %w", err)
	}
	for i := range min(len(raw), len(list)) {
		if err := json.Unmarshal(raw[i], list[i]); err != nil {
			return fmt.Errorf("read delivery state: %w", err)
		}
	}
	s.NextAttemptAt, s.CompletedAt = instantOfMicros(next), instantOfMicros(completed)
	return nil
}

func instantOfMicros(n *int64) *time.Time {
	if n == nil {
		return nil
	}
	t := time.UnixMicro(*n).UTC()
	return &t
}
