package models

import (
	"context"
	"time"

	"gorm.io/gorm"
)

// In: the oldest that is kept, the bound. The walk is along the feed and ends at the bound, so that
// it costs the same whether there is much to purge or nothing. Out: how many rows went, and the
// newest of them.
const (
	pgPurgeFeed = `
WITH gone AS (
  DELETE FROM feed f USING (SELECT seq, created_at FROM feed ORDER BY seq LIMIT ?) head
  WHERE f.seq = head.seq AND head.created_at < ? RETURNING f.created_at, f.seq
) SELECT count(*), max(created_at), coalesce(max(seq), 0) FROM gone`
	litePurgeFeed = `
DELETE FROM feed WHERE seq IN (SELECT seq FROM (SELECT seq, created_at FROM feed ORDER BY seq LIMIT ?) WHERE created_at < ?)
RETURNING created_at, seq`
)

// PurgeFeed forgets changes that are older than retention, the oldest first, about limit rows of
// them, and says how many rows went. Positions from before are expired then. Call it again while
// it finds as many as limit.
func (s *Store) PurgeFeed(ctx context.Context, retention time.Duration, limit int) (int, error) {
	gone := 0
	err := s.working(ctx, func(tx *gorm.DB) error {
		gone = 0
		now, err := s.clock(tx)
		if err != nil {
			return err
		}
		before := Instant(now.Add(-retention - feedSlack))
		var newest *time.Time
		var last int64
		if s.dialect == DialectPostgres {
			err = tx.Raw(pgPurgeFeed, limit, before).Row().Scan(&gone, &newest, &last)
		} else {
			var rows []struct {
				CreatedAt time.Time
				Seq       int64
			}
			err = tx.Raw(litePurgeFeed, limit, before).Scan(&rows).Error
			gone = len(rows)
			for i := range rows {
				if newest == nil || rows[i].CreatedAt.After(*newest) {
					newest = &rows[i].CreatedAt
				}
				last = max(last, rows[i].Seq)
			}
		}
		if err != nil || newest == nil {
			return err
		}
		if err := tx.Exec("UPDATE feed_state SET purged_seq = ? WHERE purged_seq < ?", last, last).Error; err != nil {
			return err
		}
		return tx.Exec("UPDATE feed_state SET purged_until = ? WHERE purged_until IS NULL OR purged_until < ?", *newest, *newest).Error
	})
	return gone, err
}
