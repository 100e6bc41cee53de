package cli

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/intervengine/webhooks/app"
)

// config prints the effective settings, secrets masked, with where each came from.
func (p *program) config() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "config", Short: "Print the effective settings, secrets masked, and where each came from", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := p.load(app.RoleAll)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(p.stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(config.Settings())
			}
			w := tabwriter.NewWriter(p.stdout, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "VARIABLE\tVALUE\tFROM\tMEANING")
			for _, s := range config.Settings() {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Name, s.Value, s.Source, s.Doc)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
