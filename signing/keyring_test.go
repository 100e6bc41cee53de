package signing_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/signing"
)

func parseKeyring(t testing.TB, keys ...string) *signing.Keyring {
	t.Helper()
	ring, err := signing.ParseKeyring(strings.Join(keys, ","))
	require.NoError(t, err)
	return ring
}

func TestParseKeyringNamesThePositionNotTheValue(t *testing.T) {
	t.Parallel()
	good := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0x11}, 32))
	short := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0x22}, 16))
	tests := map[string]struct{ text, want string }{
		"empty":        {"", "none is given"},
		"blank":        {" ", "none is given"},
		"not base64":   {good + ",hunter2!", "key 2 is not standard base64"},
		"base64url":    {strings.Repeat("-_", 22), "key 1 is not standard base64"},
		"short":        {short, "key 1 holds 16 bytes, must be 32"},
		"no padding":   {strings.TrimRight(good, "="), "key 1 is not standard base64"},
		"trailing":     {good + ",", "key 2 holds 0 bytes"},
		"twice":        {good + ", " + good, "key 2 is there twice"},
		"hexadecimal":  {strings.Repeat("11", 32), "key 1 holds 48 bytes"},
		"inner spaces": {good[:10] + " " + good[10:], "key 1 is not standard base64"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := signing.ParseKeyring(test.text)
			require.ErrorContains(t, err, test.want)
			for part := range strings.SplitSeq(test.text, ",") {
				if part = strings.TrimSpace(part); part != "" {
					require.NotContains(t, err.Error(), part)
				}
			}
		})
	}
}

func TestKeyringRotation(t *testing.T) {
	t.Parallel()
	oldKey, newKey := signing.GenerateMasterKey(), signing.GenerateMasterKey()
	before, during, after := parseKeyring(t, oldKey), parseKeyring(t, newKey, " "+oldKey+" "), parseKeyring(t, newKey)
	require.Len(t, before.PrimaryID(), 8)
	require.Equal(t, after.PrimaryID(), during.PrimaryID())
	require.NotEqual(t, before.PrimaryID(), during.PrimaryID())

	require.Equal(t, []string{after.PrimaryID(), before.PrimaryID()}, during.IDs())
	require.Equal(t, []string{"v1." + after.PrimaryID() + ".", "v1." + before.PrimaryID() + "."}, during.SealedPrefixes())

	sealed, err := before.Seal([]byte("plain"), "webhook:1")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(sealed, before.SealedPrefixes()[0]))
	require.Equal(t, before.PrimaryID(), signing.SealedID(sealed))
	require.Empty(t, signing.SealedID("plain"))
	require.False(t, before.NeedsReseal(sealed))
	require.True(t, during.NeedsReseal(sealed))

	opened, err := during.Open(sealed, "webhook:1")
	require.NoError(t, err)
	require.Equal(t, "plain", string(opened))

	_, err = after.Open(sealed, "webhook:1")
	require.ErrorIs(t, err, signing.ErrUnknownKey)
	require.ErrorContains(t, err, before.PrimaryID())

	resealed, err := during.Seal(opened, "webhook:1")
	require.NoError(t, err)
	require.False(t, after.NeedsReseal(resealed))
	_, err = after.Open(resealed, "webhook:1")
	require.NoError(t, err)
}

func TestKeyringOpenRefusesWhatWasTamperedWith(t *testing.T) {
	t.Parallel()
	ring := parseKeyring(t, signing.GenerateMasterKey())
	sealed, err := ring.Seal([]byte("plain"), "webhook:1")
	require.NoError(t, err)
	parts := strings.Split(sealed, ".")
	tests := map[string]struct {
		sealed, aad string
		want        error
	}{
		"another place":     {sealed, "webhook:2", signing.ErrCorrupt},
		"empty":             {"", "webhook:1", signing.ErrCorrupt},
		"plain text":        {whsec(32), "webhook:1", signing.ErrCorrupt},
		"version":           {"v2." + parts[1] + "." + parts[2], "webhook:1", signing.ErrCorrupt},
		"key id":            {"v1.00000000." + parts[2], "webhook:1", signing.ErrUnknownKey},
		"key id not hex":    {"v1.zzzzzzzz." + parts[2], "webhook:1", signing.ErrCorrupt},
		"no ciphertext":     {"v1." + parts[1] + ".", "webhook:1", signing.ErrCorrupt},
		"short ciphertext":  {sealed[:len(sealed)-4], "webhook:1", signing.ErrCorrupt},
		"standard alphabet": {"v1." + parts[1] + ".++++" + parts[2][4:], "webhook:1", signing.ErrCorrupt},
		"line break":        {sealed + "\n", "webhook:1", signing.ErrCorrupt},
		"fourth part":       {sealed + ".x", "webhook:1", signing.ErrCorrupt},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opened, err := ring.Open(test.sealed, test.aad)
			require.ErrorIs(t, err, test.want)
			require.Nil(t, opened)
			require.NotContains(t, err.Error(), parts[2])
		})
	}
	require.True(t, ring.NeedsReseal("garbage"))
}

func TestKeyringRoundTrip(t *testing.T) {
	t.Parallel()
	ring := parseKeyring(t, signing.GenerateMasterKey(), signing.GenerateMasterKey())
	rapid.Check(t, func(t *rapid.T) {
		plaintext := rapid.SliceOf(rapid.Byte()).Draw(t, "plaintext")
		aad := rapid.String().Draw(t, "aad")
		sealed, err := ring.Seal(plaintext, aad)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ring.Seal(plaintext, aad)
		if err != nil || again == sealed {
			t.Fatal("a nonce was used twice")
		}
		opened, err := ring.Open(sealed, aad)
		if err != nil || !bytes.Equal(opened, plaintext) {
			t.Fatalf("opened %x of %x: %v", opened, plaintext, err)
		}
		i := rapid.IntRange(0, len(sealed)-1).Draw(t, "position")
		changed := []byte(sealed)
		changed[i] = rapid.SampledFrom([]byte("ABab019-_.v")).Draw(t, "character")
		if opened, err := ring.Open(string(changed), aad); string(changed) != sealed && err == nil {
			t.Fatalf("opened a changed text: %x", opened)
		}
	})
}

func TestKeyringSealsSecretKeysOfEachScheme(t *testing.T) {
	t.Parallel()
	ring := parseKeyring(t, signing.GenerateMasterKey())
	for _, scheme := range []signing.Scheme{signing.HMACSHA256, signing.Ed25519} {
		key := newKey(t, scheme)
		sealed, err := ring.SealSecret(key, "webhook:1")
		require.NoError(t, err)
		if scheme == signing.HMACSHA256 {
			require.NotContains(t, sealed, strings.TrimPrefix(key.Reveal(), "whsec_"))
		}
		opened, err := ring.OpenSecret(sealed, "webhook:1")
		require.NoError(t, err)
		require.True(t, key.Equal(opened))
		require.Equal(t, key.PublicKey(), opened.PublicKey())
		_, err = ring.OpenSecret(sealed, "webhook:2")
		require.ErrorIs(t, err, signing.ErrCorrupt)
	}
	_, err := ring.SealSecret(signing.SecretKey{}, "webhook:1")
	require.Error(t, err)
	for _, text := range []string{"hunter2", "whsk_hunter2", ""} {
		sealed, err := ring.Seal([]byte(text), "webhook:1")
		require.NoError(t, err)
		_, err = ring.OpenSecret(sealed, "webhook:1")
		require.ErrorIs(t, err, signing.ErrCorrupt)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
