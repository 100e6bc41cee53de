package signing_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/signing"
)

func headers(id string, timestamp time.Time, signature string) http.Header {
	header := http.Header{}
	header.Set("webhook-id", id)
	header.Set("webhook-timestamp", strconv.FormatInt(timestamp.Unix(), 10))
	header.Set("webhook-signature", signature)
	return header
}

func newKey(t testing.TB, scheme signing.Scheme) signing.SecretKey {
	t.Helper()
	key, err := signing.NewSecretKey(scheme)
	require.NoError(t, err)
	return key
}

// The vector that the reference libraries publish, and one over UTF-8.
func TestSignKnownAnswers(t *testing.T) {
	t.Parallel()
	key, err := signing.ParseSecretKey("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	require.NoError(t, err)
	at := time.Unix(1614265330, 999_999_999)
	require.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		signing.Sign([]signing.SecretKey{key}, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, []byte(`{"test": 2432232314}`)))
	require.Empty(t, signing.Sign(nil, "msg_1", at, nil), "no key, no signature")
	require.Empty(t, signing.Sign([]signing.SecretKey{{}}, "msg_1", at, nil))
}

func TestSignKeepsTheOrderOfKeys(t *testing.T) {
	t.Parallel()
	first, second, pair := newKey(t, signing.HMACSHA256), newKey(t, signing.HMACSHA256), newKey(t, signing.Ed25519)
	at, body := time.Unix(1_700_000_000, 0), []byte(`{"type":"message.sent"}`)
	one := func(key signing.SecretKey) string { return signing.Sign([]signing.SecretKey{key}, "evt_1", at, body) }
	require.Equal(t, one(first)+" "+one(pair)+" "+one(second), signing.Sign([]signing.SecretKey{first, pair, {}, second}, "evt_1", at, body))
	require.True(t, strings.HasPrefix(one(first), "v1,"))
	require.True(t, strings.HasPrefix(one(pair), "v1a,"))
}

// Every signature is recomputed here straight from the specification.
func TestSignAgreesWithTheSpecification(t *testing.T) {
	t.Parallel()
	pair := newKey(t, signing.Ed25519)
	public, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(pair.PublicKey(), "whpk_"))
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 24, 64).Draw(t, "raw")
		id := rapid.StringMatching(`evt_[0-9a-z]{1,40}`).Draw(t, "id")
		at := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "at"), 0)
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		key, err := signing.ParseSecretKey("whsec_" + base64.StdEncoding.EncodeToString(raw))
		if err != nil {
			t.Fatal(err)
		}
		signer := signing.NewSigner(key, pair)
		message := fmt.Appendf(nil, "%s.%d.%s", id, at.Unix(), body)
		mac := hmac.New(sha256.New, raw)
		mac.Write(message)
		for range 2 { // the second one meets a used state from the pool
			entries := strings.Split(signer.Sign(id, at, body), " ")
			if entries[0] != "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
				t.Fatalf("HMAC entry %q", entries[0])
			}
			signature, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(entries[1], "v1a,"))
			if err != nil || !ed25519.Verify(public, message, signature) {
				t.Fatalf("Ed25519 entry %q", entries[1])
			}
		}
	})
}

// The reference library and svix's accept ours, during a rotation too; we accept theirs.
func TestReferenceLibrariesAgree(t *testing.T) {
	t.Parallel()
	current, previous, pair := newKey(t, signing.HMACSHA256), newKey(t, signing.HMACSHA256), newKey(t, signing.Ed25519)
	now, id, body := time.Now(), "evt_0198", []byte(`{"type":"participant.created","data":{"name":"Zoë <&> 🙂","big":9223372036854775808}}`)
	ours := headers(id, now, signing.Sign([]signing.SecretKey{current, pair, previous}, id, now, body))
	for _, key := range []signing.SecretKey{current, previous} {
		reference, err := standardwebhooks.NewWebhook(key.Reveal())
		require.NoError(t, err)
		require.NoError(t, reference.Verify(body, ours))
		svixWebhook, err := svix.NewWebhook(key.Reveal())
		require.NoError(t, err)
		require.NoError(t, svixWebhook.Verify(body, ours))
		require.Error(t, reference.Verify(append([]byte(" "), body...), ours))

		theirs, err := reference.Sign(id, now, body)
		require.NoError(t, err)
		require.NoError(t, signing.Verify(key.Reveal(), headers(id, now, theirs), body, now, 0))
		theirs, err = svixWebhook.Sign(id, now, body)
		require.NoError(t, err)
		require.NoError(t, signing.Verify(key.Reveal(), headers(id, now, theirs), body, now, 0))
	}
}

func TestSignerIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	key, pair := newKey(t, signing.HMACSHA256), newKey(t, signing.Ed25519)
	signer := signing.NewSigner(key, pair)
	at := time.Unix(1_700_000_000, 0)
	done := make(chan string)
	for i := range 16 {
		go func() {
			body := bytes.Repeat([]byte{byte(i)}, 1000*(i+1)*8)
			for range 20 {
				if signer.Sign("evt", at, body) != signing.Sign([]signing.SecretKey{key, pair}, "evt", at, body) {
					done <- "signatures of concurrent calls are mixed up"
					return
				}
			}
			done <- ""
		}()
	}
	for range 16 {
		require.Empty(t, <-done)
	}
}

func BenchmarkSign(b *testing.B) {
	at := time.Unix(1_700_000_000, 0)
	body := bytes.Repeat([]byte("x"), 1024)
	shared, pair := newKey(b, signing.HMACSHA256), newKey(b, signing.Ed25519)
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(shared.Reveal(), "whsec_"))
	require.NoError(b, err)
	b.Run("hmac/signer", func(b *testing.B) {
		b.ReportAllocs()
		signer := signing.NewSigner(shared)
		for b.Loop() {
			signer.Sign("evt_0198c0ffee", at, body)
		}
	})
	b.Run("hmac/state_made_each_time", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			mac := hmac.New(sha256.New, raw)
			mac.Write([]byte("evt_0198c0ffee." + strconv.FormatInt(at.Unix(), 10) + "."))
			mac.Write(body)
			_ = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
		}
	})
	b.Run("ed25519/signer", func(b *testing.B) {
		b.ReportAllocs()
		signer := signing.NewSigner(pair)
		for b.Loop() {
			signer.Sign("evt_0198c0ffee", at, body)
		}
	})
}
