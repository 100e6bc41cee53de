package signing_test

import (
	"encoding/base64"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/signing"
)

// The key and its thumbprint are those of RFC 8037, appendix A.
func TestJWKS(t *testing.T) {
	t.Parallel()
	x, err := base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	require.NoError(t, err)
	known := "whpk_" + base64.StdEncoding.EncodeToString(x)
	set, err := signing.JWKS(known)
	require.NoError(t, err)
	require.JSONEq(t, `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
		"kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k","use":"sig","alg":"EdDSA"}]}`, string(set))

	empty, err := signing.JWKS()
	require.NoError(t, err)
	require.JSONEq(t, `{"keys":[]}`, string(empty))

	for _, bad := range []string{"", whsec(32), "whpk_AAAA", known + "\n"} {
		_, err = signing.JWKS(known, bad)
		require.Error(t, err)
	}
}
