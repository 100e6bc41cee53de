package models

import (
	"context"

	"gorm.io/gorm"
	"gorm.io/gorm/schema"
)

// SelectColumns reads every column that GORM knows of table by its name.
func (s *Store) SelectColumns(ctx context.Context, table any) error {
	stmt := &gorm.Statement{DB: s.reads}
	if err := stmt.Parse(table); err != nil {
		return err
	}
	var columns []string
	for _, field := range stmt.Schema.Fields {
		if field.DataType != schema.DataType("") && field.DBName != "" {
			columns = append(columns, field.DBName)
		}
	}
	return s.reads.WithContext(ctx).Select(columns).Limit(1).Find(table).Error
}

// Exec runs a statement as a test's own hand on the database.
func (s *Store) Exec(ctx context.Context, text string, args ...any) error {
	return s.db.WithContext(ctx).Exec(text, args...).Error
}

// Count reads one number.
func (s *Store) Count(ctx context.Context, text string, args ...any) (int, error) {
	var n int
	err := s.reads.WithContext(ctx).Raw(text, args...).Row().Scan(&n)
	return n, err
}
