package signing_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/signing"
)

func whsec(size int) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0x5a}, size))
}

func TestNewSecretKeyMakesKeysOfEachScheme(t *testing.T) {
	t.Parallel()

	shared, err := signing.NewSecretKey(signing.HMACSHA256)
	require.NoError(t, err)
	require.Equal(t, signing.HMACSHA256, shared.Scheme())
	require.Len(t, shared.Reveal(), len("whsec_")+44)
	require.Empty(t, shared.PublicKey())
	require.Equal(t, shared.Reveal()[len(shared.Reveal())-5:], shared.Hint()+"=")

	pair, err := signing.NewSecretKey(signing.Ed25519)
	require.NoError(t, err)
	require.Equal(t, signing.Ed25519, pair.Scheme())
	require.Empty(t, pair.Reveal(), "the private half is never shown")
	require.Empty(t, pair.Hint())
	require.True(t, strings.HasPrefix(pair.PublicKey(), "whpk_"))
	require.Len(t, pair.PublicKey(), len("whpk_")+44)

	_, err = signing.NewSecretKey("RSA")
	require.ErrorContains(t, err, `unknown signing scheme "RSA"`)

	var zero signing.SecretKey
	require.True(t, zero.IsZero())
	require.Empty(t, zero.Reveal()+zero.Hint()+zero.PublicKey()+string(zero.Scheme()))
}

func TestParseSecretKey(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text string
		want string // "" means accepted
	}{
		"24 bytes":          {whsec(24), ""},
		"32 bytes":          {whsec(32), ""},
		"64 bytes":          {whsec(64), ""},
		"23 bytes":          {whsec(23), "it holds 23 bytes, must be 24 to 64"},
		"65 bytes":          {whsec(65), "it holds 65 bytes, must be 24 to 64"},
		"empty":             {"", `must start with "whsec_"`},
		"prefix alone":      {"whsec_", "it holds 0 bytes"},
		"no prefix":         {strings.TrimPrefix(whsec(32), "whsec_"), `must start with "whsec_"`},
		"upper-case prefix": {"WHSEC_" + strings.TrimPrefix(whsec(32), "whsec_"), `must start with "whsec_"`},
		"public key":        {"whpk_" + strings.TrimPrefix(whsec(32), "whsec_"), `must start with "whsec_"`},
		"no padding":        {strings.TrimRight(whsec(32), "="), "not standard base64"},
		"base64url":         {"whsec_" + strings.Repeat("-_", 22), "not standard base64"},
		"line break":        {whsec(24) + "\n", "not standard base64"},
		"space":             {whsec(24) + " ", "not standard base64"},
		"loose bits":        {"whsec_" + strings.Repeat("A", 42) + "B=", "not standard base64"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := signing.ParseSecretKey(test.text)
			if test.want == "" {
				require.NoError(t, err)
				require.Equal(t, test.text, key.Reveal())
				return
			}
			require.ErrorContains(t, err, test.want)
			if encoded := strings.TrimPrefix(test.text, "whsec_"); len(encoded) > 8 {
				require.NotContains(t, err.Error(), encoded[:8])
			}
			require.True(t, key.IsZero())
		})
	}
}

func TestSecretsNeverPrint(t *testing.T) {
	t.Parallel()
	for _, scheme := range []signing.Scheme{signing.HMACSHA256, signing.Ed25519} {
		t.Run(string(scheme), func(t *testing.T) {
			t.Parallel()
			key, err := signing.NewSecretKey(scheme)
			require.NoError(t, err)
			ring, err := signing.ParseKeyring(signing.GenerateMasterKey())
			require.NoError(t, err)
			for name, value := range map[string]any{"key": key, "signer": signing.NewSigner(key), "keyring": ring} {
				for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%T%[1]v"} {
					require.Contains(t, fmt.Sprintf(verb, value), "[secret]", name+verb)
				}
				var logged bytes.Buffer
				for _, handler := range []slog.Handler{slog.NewTextHandler(&logged, nil), slog.NewJSONHandler(&logged, nil)} {
					slog.New(handler).Info("made", "value", value)
				}
				require.Equal(t, 2, strings.Count(logged.String(), "[secret]"), name)
				_, err = json.Marshal(map[string]any{"value": value})
				require.ErrorIs(t, err, signing.ErrSecret, name)
			}
			_, err = key.MarshalText()
			require.ErrorIs(t, err, signing.ErrSecret)

			// Through an unexported field fmt calls no method at all: what it can
			// reach must be pointers, not bytes.
			inside := struct{ key signing.SecretKey }{key}
			for _, verb := range []string{"%v", "%+v", "%#v", "%d", "%x"} {
				require.Less(t, len(fmt.Sprintf(verb, inside)), 110, verb)
			}
		})
	}
}

func TestSecretKeyEqual(t *testing.T) {
	t.Parallel()
	a, err := signing.ParseSecretKey(whsec(32))
	require.NoError(t, err)
	same, err := signing.ParseSecretKey(whsec(32))
	require.NoError(t, err)
	other, err := signing.ParseSecretKey(whsec(33))
	require.NoError(t, err)
	pair, err := signing.NewSecretKey(signing.Ed25519)
	require.NoError(t, err)
	require.True(t, a.Equal(same))
	require.False(t, a.Equal(other))
	require.False(t, a.Equal(pair))
	require.False(t, a.Equal(signing.SecretKey{}))
	var none signing.SecretKey
	require.True(t, none.Equal(signing.SecretKey{}))
}

func TestParseSecretKeyRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 24, 64).Draw(t, "raw")
		text := "whsec_" + base64.StdEncoding.EncodeToString(raw)
		key, err := signing.ParseSecretKey(text)
		if err != nil || key.Reveal() != text {
			t.Fatalf("%q: %v", text, err)
		}
		bare := strings.TrimRight(text, "=")
		if key.Hint() != bare[len(bare)-4:] {
			t.Fatalf("hint %q of %q", key.Hint(), text)
		}
	})
}

func FuzzParseSecretKey(f *testing.F) {
	for _, seed := range []string{"", "whsec_", whsec(24), whsec(64), whsec(65), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whpk_AAAA", whsec(24) + "\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		key, err := signing.ParseSecretKey(text)
		if err != nil {
			require.True(t, key.IsZero())
			return
		}
		require.Equal(t, text, key.Reveal(), "one spelling for each key")
	})
}
