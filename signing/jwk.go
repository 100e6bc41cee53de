package signing

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// jwk has its fields in the order that RFC 7638 hashes for a key id, and after
// them those that say how the key is used.
type jwk struct {
	Curve string `json:"crv"`
	Type  string `json:"kty"`
	X     string `json:"x"`
	ID    string `json:"kid"`
	Use   string `json:"use"`
	Alg   string `json:"alg"`
}

// JWKS returns the JWK set (RFC 7517, RFC 8037) of Ed25519 public keys in the
// form "whpk_…", in their order; without keys its list is empty. The id of a key
// is its RFC 7638 thumbprint, so it is the same wherever it is computed.
func JWKS(publicKeys ...string) ([]byte, error) {
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: make([]jwk, 0, len(publicKeys))}
	for _, text := range publicKeys {
		public, err := parsePublicKey(text)
		if err != nil {
			return nil, err
		}
		x := base64.RawURLEncoding.EncodeToString(public)
		sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + x + `"}`))
		set.Keys = append(set.Keys, jwk{
			Curve: "Ed25519", Type: "OKP", X: x,
			ID: base64.RawURLEncoding.EncodeToString(sum[:]), Use: "sig", Alg: "EdDSA",
		})
	}
	encoded, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encode JWK set: %w", err)
	}
	return encoded, nil
}
