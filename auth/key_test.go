package auth_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/auth"
)

func TestNewKey(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^iwk_[0-9A-Za-z]{49}$`)
	seen := map[string]bool{}
	for range 200 {
		key, prefix, hash := auth.NewKey()
		require.Regexp(t, form, key)
		require.False(t, seen[key])
		seen[key] = true
		require.True(t, strings.HasPrefix(key, prefix))
		require.Len(t, prefix, 10)
		again, ok := auth.HashKey(key)
		require.True(t, ok)
		require.Equal(t, hash, again)
		require.Len(t, hash, 64)
		require.NotContains(t, hash, key[10:])
	}
}

func TestHashKeyRefusesWhatIsNoKey(t *testing.T) {
	t.Parallel()
	key, _, _ := auth.NewKey()
	tests := map[string]string{
		"empty":          "",
		"prefix alone":   "iwk_",
		"other prefix":   "iwx_" + key[4:],
		"upper prefix":   "IWK_" + key[4:],
		"cut":            key[:len(key)-1],
		"longer":         key + "0",
		"space":          " " + key,
		"sign":           "iwk_-" + key[5:],
		"not a letter":   key[:20] + "é" + key[22:],
		"checksum zeros": key[:47] + "zzzzzz",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hash, ok := auth.HashKey(text)
			require.False(t, ok)
			require.Empty(t, hash)
		})
	}
}

// A CRC-32 finds every single changed character, so a typing mistake never asks the database.
func TestChecksumFindsTypingMistakes(t *testing.T) {
	t.Parallel()
	const digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	rapid.Check(t, func(t *rapid.T) {
		key, _, _ := auth.NewKey()
		i := rapid.IntRange(4, len(key)-1).Draw(t, "position")
		c := digits[rapid.IntRange(0, len(digits)-1).Draw(t, "digit")]
		changed := key[:i] + string(c) + key[i+1:]
		_, ok := auth.HashKey(changed)
		require.Equal(t, changed == key, ok)
	})
}

func FuzzHashKey(f *testing.F) {
	key, _, _ := auth.NewKey()
	f.Add(key)
	f.Add("iwk_" + strings.Repeat("0", 49))
	f.Fuzz(func(t *testing.T, text string) {
		hash, ok := auth.HashKey(text)
		require.Equal(t, ok, len(hash) == 64)
	})
}
