package models

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"gorm.io/gorm"
)

// FeedRead says what to read of the feed.
type FeedRead struct {
	From FeedPosition
	// Until is a place after From that what is read ends at; nil: all that there is. It must not be
	// within a page (see FeedPosition.Whole).
	Until *FeedPosition
	// Kind and Tenant narrow; "" and nil do not.
	Kind   FeedKind
	Tenant *string
	// Rows bounds the rows of the feed, each of at most 500 changes. Zero: 16.
	Rows int
	// MaxAge is how old From may be; zero: as old as what the feed still holds.
	MaxAge time.Duration
}

// FeedPage is a part of the feed.
type FeedPage struct {
	Items []FeedItem
	// Next is where the next read goes on.
	Next FeedPosition
	// More says that Rows cut the page.
	More bool
}

const defaultFeedRows = 16

// parseSnapshot reads Postgres's form of a snapshot.
func parseSnapshot(text string) (snapshot, error) {
	var s snapshot
	bad := fmt.Errorf("unexpected snapshot %q", text)
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return s, bad
	}
	var err error
	if s.max, err = strconv.ParseInt(parts[1], 10, 64); err != nil {
		return s, bad
	}
	if parts[2] == "" {
		return s, nil
	}
	for one := range strings.SplitSeq(parts[2], ",") {
		x, err := strconv.ParseInt(one, 10, 64)
		if err != nil {
			return s, bad
		}
		s.running = append(s.running, x)
	}
	slices.Sort(s.running)
	return s, nil
}

// storedFeedRow is a row as it was read.
type storedFeedRow struct {
	late                bool
	xid, seq            int64
	tenant, kind, items string
	createdAt           time.Time
}

// feedState is what every read of the feed learns, of one moment.
type feedState struct {
	id     string
	purged *time.Time
	last   int64 // the row with the highest number, though it may be purged
	snap   snapshot
	now    time.Time
}

// FeedHead is the position after everything that is committed by now.
func (s *Store) FeedHead(ctx context.Context) (FeedPosition, error) {
	var p FeedPosition
	err := s.retry(ctx, s.timeout, func(ctx context.Context) error {
		var state feedState
		var err error
		if s.dialect == DialectSQLite {
			state.now = Instant(time.Now())
			err = s.readers.QueryRowContext(ctx, "SELECT id, "+feedLast+" FROM feed_state").Scan(&state.id, &state.last)
			err = cmp.Or(err, s.onDisk())
		} else {
			var text string
			err = s.main.QueryRowContext(ctx, "SELECT id, "+feedLast+", pg_current_snapshot()::text, clock_timestamp() FROM feed_state").
				Scan(&state.id, &state.last, &text, &state.now)
			if err == nil {
				state.snap, err = parseSnapshot(text)
			}
		}
		p = state.end()
		return err
	})
	return p, err
}

// feedLast is the highest number of a row that was ever visible. Not that of the sequence, which a
// crash of the server may take back.
const feedLast = "CASE WHEN (SELECT max(seq) FROM feed) > purged_seq THEN (SELECT max(seq) FROM feed) ELSE purged_seq END"

// end is the position after all that is visible.
func (s *feedState) end() FeedPosition {
	return FeedPosition{feed: s.id, seq: s.last + 1, snap: s.snap, at: Instant(s.now)}
}

// ReadFeed reads what came after a position, each change once, in an order that keeps those of one
// delivery as they happened. ErrCursorExpired where the position is too old.
func (s *Store) ReadFeed(ctx context.Context, r FeedRead) (FeedPage, error) {
	if r.Rows <= 0 {
		r.Rows = defaultFeedRows
	}
	read := s.pgReadFeed
	if s.dialect == DialectSQLite {
		read = s.liteReadFeed
	}
	var state feedState
	var rows []storedFeedRow
	err := s.retry(ctx, s.timeout, func(ctx context.Context) (err error) {
		state, rows, err = read(ctx, &r)
		return err
	})
	switch {
	case err != nil:
		return FeedPage{}, err
	case r.From.feed != state.id,
		state.purged != nil && r.From.at.Before(state.purged.Add(feedSlack)),
		r.MaxAge > 0 && r.From.at.Before(state.now.Add(-r.MaxAge)):
		return FeedPage{}, ErrCursorExpired
	}
	return r.page(&state, rows)
}

// lateSpan bounds the transactions from a snapshot's max on that can have run already when it was
// taken: a name each connection that Postgres may have. Below max they are listed.
const lateSpan = 10_000

// bounds are what the statements are asked for: the rows of what the snapshot has not, from a number
// on and before another, and the rows from that on up to a last one. What began with late rows
// first finishes those that it knew of.
func (r *FeedRead) bounds() (lateFrom, from, last int64) {
	from, last = r.From.seq, 1<<62
	if r.Until != nil {
		last = r.Until.seq - 1
	}
	if p := r.From.late; p != nil {
		lateFrom, last = p.seq, 0
	}
	return lateFrom, from, last
}

// In: the snapshot's running ones, its max and the end of the span, what bounds gives, the kind and the tenant or null, how many rows. Out: the state of the feed
// with each row; without rows once. It is one statement, so that the snapshot is that of the rows.
const pgReadFeed = `
WITH s AS (SELECT id, purged_until, ` + feedLast + ` AS last, pg_current_snapshot() AS snap, clock_timestamp() AS now FROM feed_state)
SELECT s.id, s.purged_until, s.last, s.snap::text, s.now, f.late, f.xid, f.seq, f.tenant, f.kind, f.items, f.created_at
FROM s LEFT JOIN LATERAL (
  (SELECT true AS late, xid, seq, tenant, kind, items, created_at FROM feed
   WHERE (xid = ANY($1::bigint[]) OR xid >= $2 AND xid < $3) AND seq >= $4 AND seq < $5
     AND ($7::text IS NULL OR kind = $7) AND ($8::text IS NULL OR tenant = $8) ORDER BY seq LIMIT $9)
  UNION ALL
  (SELECT false, xid, seq, tenant, kind, items, created_at FROM feed
   WHERE seq >= $5 AND seq <= $6
     AND ($7::text IS NULL OR kind = $7) AND ($8::text IS NULL OR tenant = $8) ORDER BY seq LIMIT $9)
  ORDER BY late DESC, seq LIMIT $9
) f ON true ORDER BY f.late DESC, f.seq`

func (s *Store) pgReadFeed(ctx context.Context, r *FeedRead) (state feedState, found []storedFeedRow, err error) {
	lateFrom, from, last := r.bounds()
	open := r.From.snap.running
	if open == nil {
		open = []int64{}
	}
	err = s.pgDo(ctx, s.main, func(p *pgSession) error {
		batch := &pgx.Batch{}
		batch.Queue(pgReadFeed, open, r.From.snap.max, r.From.snap.max+lateSpan, lateFrom, from, last, r.kind(), r.Tenant, r.Rows).Query(func(rows pgx.Rows) error {
			var text string
			for rows.Next() {
				var row struct {
					late                *bool
					xid, seq            *int64
					tenant, kind, items *string
					createdAt           *time.Time
				}
				err := rows.Scan(&state.id, &state.purged, &state.last, &text, &state.now,
					&row.late, &row.xid, &row.seq, &row.tenant, &row.kind, &row.items, &row.createdAt)
				if err != nil {
					return err
				}
				if row.seq != nil {
					found = append(found, storedFeedRow{*row.late, *row.xid, *row.seq, *row.tenant, *row.kind, *row.items, *row.createdAt})
				}
			}
			if err := rows.Err(); err != nil {
				return err
			}
			var err error
			state.snap, err = parseSnapshot(text)
			return err
		})
		return p.send(ctx, batch)
	})
	return state, found, err
}

func (r *FeedRead) kind() *string {
	if r.Kind == "" {
		return nil
	}
	return (*string)(&r.Kind)
}

func (s *Store) liteReadFeed(ctx context.Context, r *FeedRead) (feedState, []storedFeedRow, error) {
	state := feedState{now: Instant(time.Now())}
	var found []storedFeedRow
	tx, err := s.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return state, nil, err
	}
	defer func() { _ = tx.Rollback() }() // it only reads
	err = tx.QueryRowContext(ctx, "SELECT id, purged_until, "+feedLast+" FROM feed_state").Scan(&state.id, &state.purged, &state.last)
	if err != nil {
		return state, nil, err
	}
	_, from, last := r.bounds()
	where, args := "seq >= ? AND seq <= ?", []any{from, last}
	if r.Kind != "" {
		where, args = where+" AND kind = ?", append(args, string(r.Kind))
	}
	if r.Tenant != nil {
		where, args = where+" AND tenant = ?", append(args, *r.Tenant)
	}
	rows, err := tx.QueryContext(ctx, "SELECT seq, tenant, kind, items, created_at FROM feed WHERE "+where+" ORDER BY seq LIMIT ?",
		append(args, r.Rows)...)
	if err != nil {
		return state, nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var row storedFeedRow
		if err := rows.Scan(&row.seq, &row.tenant, &row.kind, &row.items, &row.createdAt); err != nil {
			return state, nil, err
		}
		found = append(found, row)
	}
	// What a reader has seen must not be forgotten by a power cut: its number would be used again.
	return state, found, cmp.Or(rows.Err(), s.onDisk())
}

// page turns rows into items, and says where the next page begins.
func (r *FeedRead) page(state *feedState, rows []storedFeedRow) (FeedPage, error) {
	from := &r.From
	end := state.end()
	if r.Until != nil {
		end = *r.Until
	}
	page := FeedPage{More: len(rows) == r.Rows}
	// Late rows leave the place among the others as it is, and the others leave nothing late.
	late := &FeedPosition{feed: state.id, seq: from.seq, done: from.done, snap: from.snap, late: from.late}
	if late.late == nil {
		late.late = &latePart{snap: end.snap}
	}
	fresh := &FeedPosition{feed: state.id, snap: end.snap}
	for n := range rows {
		row := &rows[n]
		base, seen := fresh, &end.snap
		if row.late {
			base, seen = late, &late.late.snap
		}
		if !seen.has(row.xid) {
			continue // from after the end, or later than the late ones that are to be finished first
		}
		items, err := row.decode(base)
		if err != nil {
			return FeedPage{}, err
		}
		for i := range items {
			if !from.Has(&items[i]) {
				page.Items = append(page.Items, items[i])
			}
		}
	}
	switch last := len(rows) - 1; {
	case page.More:
		after := FeedItem{seq: rows[last].seq + 1, index: -1, At: rows[last].createdAt, page: fresh}
		if rows[last].late {
			after.page = late
		}
		page.Next = after.Position()
	case from.late != nil:
		page.Next = FeedPosition{feed: state.id, seq: from.seq, done: from.done, snap: from.late.snap, at: from.at}
		page.More = true
	default:
		page.Next = end
	}
	return page, nil
}

func (row *storedFeedRow) decode(page *FeedPosition) ([]FeedItem, error) {
	base := FeedItem{Kind: FeedKind(row.kind), Tenant: row.tenant, At: row.createdAt, xid: row.xid, seq: row.seq, page: page}
	var items []FeedItem
	switch base.Kind {
	case FeedDelivery:
		var states []DeliveryState
		if err := json.Unmarshal([]byte(row.items), &states); err != nil {
			return nil, fmt.Errorf("read feed: %w", err)
		}
		items = make([]FeedItem, len(states))
		for i := range states {
			items[i] = base
			items[i].State, items[i].index = states[i], i
		}
	case FeedEvent:
		var ids []string
		if err := json.Unmarshal([]byte(row.items), &ids); err != nil {
			return nil, fmt.Errorf("read feed: %w", err)
		}
		items = make([]FeedItem, len(ids))
		for i := range ids {
			items[i] = base
			items[i].EventID, items[i].index = ids[i], i
		}
	default: // a later version's
	}
	return items, nil
}

// FeedDeliveries reads the deliveries of any tenant that the feed named, without their bodies, by
// id. Those that retention took meanwhile are absent.
func (s *Store) FeedDeliveries(ctx context.Context, ids []string) (map[string]Delivery, error) {
	found := make(map[string]Delivery, len(ids))
	for part := range slices.Chunk(ids, maxFeedItems) {
		rows, err := find[Delivery](ctx, s, func(db *gorm.DB) *gorm.DB { return db.Omit("body").Where("id IN ?", part) })
		if err != nil {
			return nil, err
		}
		for _, d := range rows {
			found[d.ID] = d
		}
	}
	return found, nil
}

// FeedEvents reads the events of any tenant that the feed named, by id. Those that retention took
// meanwhile are absent.
func (s *Store) FeedEvents(ctx context.Context, ids []string) (map[string]Event, error) {
	found := make(map[string]Event, len(ids))
	for part := range slices.Chunk(ids, maxFeedItems) {
		rows, err := find[Event](ctx, s, func(db *gorm.DB) *gorm.DB { return db.Where("id IN ?", part) })
		if err != nil {
			return nil, err
		}
		for _, e := range rows {
			found[e.ID] = e
		}
	}
	return found, nil
}
