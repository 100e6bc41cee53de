//go:build audit

// This test needs node and, once, `npm ci` in testdata/audit:
//
//	go test -tags audit -run TestA4_GraphQLOverHTTPAudit ./graph

package graph_test

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestA4_GraphQLOverHTTPAudit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	out, err := exec.CommandContext(t.Context(), "node", "testdata/audit/audit.mjs", f.url, f.admin).CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
}
