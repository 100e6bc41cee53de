package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// quantile gives the value that the share q of the sorted values is at or below, by nearest rank;
// zero where there are none.
func quantile[T cmp.Ordered](sorted []T, q float64) T {
	var zero T
	if len(sorted) == 0 {
		return zero
	}
	rank := int(q*float64(len(sorted)) + 0.999999)
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// median gives the middle value, the lower of two.
func median[T cmp.Ordered](values []T) T {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return quantile(sorted, 0.5)
}

// A table is what a scenario found.
type table struct {
	Title   string
	Columns []string
	Rows    [][]any // of string, int, float64 (a ratio or a rate), time.Duration, share or size
	Notes   []string
}

// share is a part of one core.
type share float64

// size is a number of bytes.
type size int64

// ratio compares a figure with the baseline's.
type ratio float64

// text is how a person reads a cell.
func text(cell any) string {
	switch v := cell.(type) {
	case nil:
		return "–"
	case string:
		return v
	case time.Duration:
		return fmt.Sprintf("%.2f ms", float64(v)/float64(time.Millisecond))
	case float64:
		return fmt.Sprintf("%.0f", v)
	case share:
		return fmt.Sprintf("%.2f %%", float64(v)*100)
	case size:
		return fmt.Sprintf("%.0f MB", float64(v)/1e6)
	case ratio:
		return fmt.Sprintf("%.2f×", float64(v))
	default:
		return fmt.Sprint(v)
	}
}

func (t *table) print(out io.Writer) {
	fmt.Fprintf(out, "%s\n", t.Title)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "  %s\t\n", strings.Join(t.Columns, "\t"))
	for _, row := range t.Rows {
		cells := make([]string, len(row))
		for n, cell := range row {
			cells[n] = text(cell)
		}
		fmt.Fprintf(w, "  %s\t\n", strings.Join(cells, "\t"))
	}
	_ = w.Flush() // standard output that is gone has no reader either
	for _, note := range t.Notes {
		fmt.Fprintf(out, "  %s\n", note)
	}
	fmt.Fprintln(out)
}

// writeJSON keeps the tables for programs: durations in seconds, sizes in bytes, shares of one core.
func writeJSON(path, machine string, tables []*table) error {
	type entry struct {
		Title string           `json:"title"`
		Rows  []map[string]any `json:"rows"`
		Notes []string         `json:"notes,omitempty"`
	}
	all := struct {
		Machine string  `json:"machine"`
		Tables  []entry `json:"tables"`
	}{Machine: machine}
	for _, t := range tables {
		e := entry{Title: t.Title, Notes: t.Notes}
		for _, row := range t.Rows {
			object := map[string]any{}
			for n, cell := range row {
				if d, ok := cell.(time.Duration); ok {
					cell = d.Seconds()
				}
				object[t.Columns[n]] = cell
			}
			e.Rows = append(e.Rows, object)
		}
		all.Tables = append(all.Tables, e)
	}
	content, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("encode tables: %w", err)
	}
	if err := os.WriteFile(path, append(content, '\n'), 0o600); err != nil {
		return fmt.Errorf("write tables: %w", err)
	}
	return nil
}
