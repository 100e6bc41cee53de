package cli_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/app"
)

var update = flag.Bool("update", false, "write the README's table of settings anew")

// The README's table of settings is made from the configuration itself.
func TestReadmeListsEverySetting(t *testing.T) {
	t.Parallel()
	const file, begin, end = "../README.md", "<!-- settings:begin -->\n", "<!-- settings:end -->"
	config, err := app.LoadConfig(func(string) (string, bool) { return "", false })
	require.NoError(t, err)
	var table strings.Builder
	table.WriteString("| variable | default | meaning |\n|---|---|---|\n")
	for _, s := range config.Settings() {
		def := "empty"
		if s.Default != "" {
			def = "`" + s.Default + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", s.Name, def, s.Doc)
	}
	readme, err := os.ReadFile(file)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(readme), begin)
	require.True(t, ok)
	listed, tail, ok := strings.Cut(rest, end)
	require.True(t, ok)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(head+begin+table.String()+end+tail), 0o600))
		return
	}
	require.Equal(t, table.String(), listed, "run: go test ./cli -run Readme -update")
}
