package models

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"time"
)

// StringList is a list of strings, stored as a JSON array.
type StringList []string

// Value writes the list as JSON.
func (l StringList) Value() (driver.Value, error) { return jsonValue([]string(l)) }

// Scan reads what Value wrote.
func (l *StringList) Scan(src any) error { return jsonScan(src, (*[]string)(l)) }

// Millis is a length of time stored as whole milliseconds.
type Millis time.Duration

// Value writes the length as milliseconds.
func (m Millis) Value() (driver.Value, error) { return time.Duration(m).Milliseconds(), nil }

// Scan reads what Value wrote.
func (m *Millis) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("scan milliseconds: unexpected %T", src)
	}
	*m = Millis(time.Duration(n) * time.Millisecond)
	return nil
}

// Schedule is the waits before the second and each later attempt, stored as a JSON array of
// milliseconds. An empty schedule means one attempt and no retry.
type Schedule []time.Duration

// Value writes the schedule as JSON.
func (s Schedule) Value() (driver.Value, error) {
	ms := make([]int64, len(s))
	for i, d := range s {
		ms[i] = d.Milliseconds()
	}
	return jsonValue(ms)
}

// Scan reads what Value wrote.
func (s *Schedule) Scan(src any) error {
	var ms []int64
	if err := jsonScan(src, &ms); err != nil {
		return err
	}
	*s = make(Schedule, len(ms))
	for i, n := range ms {
		(*s)[i] = time.Duration(n) * time.Millisecond
	}
	return nil
}

func jsonValue(v any) (driver.Value, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return string(b), nil
}

func jsonScan(src, dst any) error {
	switch v := src.(type) {
	case string:
		return json.Unmarshal([]byte(v), dst)
	case []byte:
		return json.Unmarshal(v, dst)
	default:
		return fmt.Errorf("scan JSON: unexpected %T", src)
	}
}
