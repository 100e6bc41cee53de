package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A document that names a test says what is true today: the test is in the tree. In SECURITY.md each
// row of the threat model has one, and so has each row of "What happens when X dies".
func TestDocumentsNameTestsThatExist(t *testing.T) {
	t.Parallel()
	declared := map[string]bool{}
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git"):
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range declaration.FindAllSubmatch(text, -1) {
			declared[string(m[1])] = true
		}
		return nil
	})
	require.NoError(t, err)
	name := regexp.MustCompile("`(?:\\w+: )?((?:Test|Fuzz|Benchmark)[A-Z]\\w*)`")
	for document, table := range map[string]string{
		"SECURITY.md": "## Threat model", "ARCHITECTURE.md": "## What happens when X dies",
	} {
		text, err := os.ReadFile(filepath.Join("..", document))
		require.NoError(t, err)
		for _, m := range name.FindAllSubmatch(text, -1) {
			assert.True(t, declared[string(m[1])], "%s names %s, which no file has", document, m[1])
		}
		_, after, found := strings.Cut(string(text), table)
		require.True(t, found, document)
		section, _, _ := strings.Cut(after, "\n## ")
		rows := 0
		for line := range strings.Lines(section) {
			if !strings.HasPrefix(line, "| ") || strings.HasSuffix(line, "| test |\n") {
				continue
			}
			rows++
			cells := strings.Split(strings.Trim(line, "| \n"), " | ")
			assert.Regexp(t, name, cells[len(cells)-1], "%s: a row without a test", document)
		}
		assert.Greater(t, rows, 20, document)
	}
}
