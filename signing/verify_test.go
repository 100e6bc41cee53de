package signing_test

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/signing"
)

func TestVerifySaysWhy(t *testing.T) {
	t.Parallel()
	shared, other, pair := newKey(t, signing.HMACSHA256), newKey(t, signing.HMACSHA256), newKey(t, signing.Ed25519)
	now := time.Unix(1_700_000_000, 0)
	body := []byte(`{"type":"message.sent","data":{}}`)
	good := signing.Sign([]signing.SecretKey{shared, pair}, "evt_1", now, body)
	set := func(name, value string) func(http.Header) {
		return func(h http.Header) { h.Set(name, value) }
	}
	add := func(name, value string) func(http.Header) {
		return func(h http.Header) { h.Add(name, value) }
	}
	unset := func(name string) func(http.Header) {
		return func(h http.Header) { h.Del(name) }
	}
	same := func(http.Header) {}
	tests := map[string]struct {
		change func(http.Header)
		key    string
		body   string
		now    time.Time
		want   signing.VerifyError // Reason "" means accepted
	}{
		"shared secret":             {same, shared.Reveal(), string(body), now, signing.VerifyError{}},
		"public key":                {same, pair.PublicKey(), string(body), now, signing.VerifyError{}},
		"rotated, two entries":      {set("webhook-signature", signing.Sign([]signing.SecretKey{other}, "evt_1", now, body)+" "+good), shared.Reveal(), string(body), now, signing.VerifyError{}},
		"two header lines":          {add("webhook-signature", "v1,AAAA"), shared.Reveal(), string(body), now, signing.VerifyError{}},
		"unknown version ignored":   {set("webhook-signature", "v9,AAAA v1x,!! "+good), shared.Reveal(), string(body), now, signing.VerifyError{}},
		"at the tolerance":          {same, shared.Reveal(), string(body), now.Add(5 * time.Minute), signing.VerifyError{}},
		"at the tolerance, ahead":   {same, shared.Reveal(), string(body), now.Add(-5 * time.Minute), signing.VerifyError{}},
		"id missing":                {unset("webhook-id"), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MissingHeader, Header: "webhook-id"}},
		"id empty":                  {set("webhook-id", ""), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MissingHeader, Header: "webhook-id"}},
		"id twice":                  {add("webhook-id", "evt_2"), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MalformedHeader, Header: "webhook-id"}},
		"timestamp missing":         {unset("webhook-timestamp"), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MissingHeader, Header: "webhook-timestamp"}},
		"timestamp a date":          {set("webhook-timestamp", "2023-11-14T22:13:20Z"), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MalformedHeader, Header: "webhook-timestamp"}},
		"timestamp with sign":       {set("webhook-timestamp", "+1700000000"), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MalformedHeader, Header: "webhook-timestamp"}},
		"timestamp with zeros":      {set("webhook-timestamp", "01700000000"), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MalformedHeader, Header: "webhook-timestamp"}},
		"timestamp with fraction":   {set("webhook-timestamp", "1700000000.5"), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MalformedHeader, Header: "webhook-timestamp"}},
		"timestamp past int64":      {set("webhook-timestamp", "9223372036854775807"), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MalformedHeader, Header: "webhook-timestamp"}},
		"signature missing":         {unset("webhook-signature"), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MissingHeader, Header: "webhook-signature"}},
		"signature blank":           {set("webhook-signature", "  "), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MissingHeader, Header: "webhook-signature"}},
		"signature without version": {set("webhook-signature", "abcdef"), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MalformedHeader, Header: "webhook-signature"}},
		"signature flood":           {set("webhook-signature", strings.Repeat("v1a,AAAA ", 33)+good), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.MalformedHeader, Header: "webhook-signature"}},
		"too old":                   {same, shared.Reveal(), string(body), now.Add(5*time.Minute + time.Second), signing.VerifyError{Reason: signing.TooOld, Header: "webhook-timestamp", Skew: 5*time.Minute + time.Second}},
		"too new":                   {same, shared.Reveal(), string(body), now.Add(-5*time.Minute - time.Second), signing.VerifyError{Reason: signing.TooNew, Header: "webhook-timestamp", Skew: 5*time.Minute + time.Second}},
		"wrong key":                 {same, other.Reveal(), string(body), now, signing.VerifyError{Reason: signing.NoMatch}},
		"body changed":              {same, shared.Reveal(), string(body) + "\n", now, signing.VerifyError{Reason: signing.NoMatch}},
		"body changed, public key":  {same, pair.PublicKey(), string(body) + "\n", now, signing.VerifyError{Reason: signing.NoMatch}},
		"id changed":                {set("webhook-id", "evt_2"), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.NoMatch}},
		"timestamp changed":         {set("webhook-timestamp", "1700000001"), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.NoMatch}},
		"short Ed25519 signature":   {set("webhook-signature", "v1a,AAAA"), pair.PublicKey(), string(body), now, signing.VerifyError{Reason: signing.NoMatch}},
		"HMAC as v1a":               {set("webhook-signature", strings.Replace(good, "v1,", "v1a,", 1)), shared.Reveal(), string(body), now, signing.VerifyError{Reason: signing.NoMatch}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			header := headers("evt_1", now, good)
			test.change(header)
			err := signing.Verify(test.key, header, []byte(test.body), test.now, 0)
			if test.want.Reason == "" {
				require.NoError(t, err)
				return
			}
			var verifyError *signing.VerifyError
			require.ErrorAs(t, err, &verifyError)
			require.Equal(t, test.want, *verifyError)
			require.NotContains(t, err.Error(), string(test.want.Reason), "a sentence, not a code")
		})
	}
}

func TestVerifyTolerance(t *testing.T) {
	t.Parallel()
	key := newKey(t, signing.HMACSHA256)
	sent := time.Unix(1_700_000_000, 0)
	header := headers("evt_1", sent, signing.Sign([]signing.SecretKey{key}, "evt_1", sent, nil))
	require.NoError(t, signing.Verify(key.Reveal(), header, nil, sent.Add(time.Hour), time.Hour))
	require.Error(t, signing.Verify(key.Reveal(), header, nil, sent.Add(time.Second), time.Millisecond))
	require.NoError(t, signing.Verify(key.Reveal(), header, nil, sent.AddDate(50, 0, 0), -1), "negative: unchecked")
}

func TestNewVerifierRefusesBadKeysWithoutRepeatingThem(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]string{
		"none": {}, "empty": {""}, "short public": {"whpk_AAAA"}, "plain": {"hunter2hunter2hunter2"}, "one of two": {whsec(32), "whpk_hunter2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := signing.NewVerifier(keys...)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "hunter2")
			var verifyError *signing.VerifyError
			require.NotErrorAs(t, err, &verifyError)
		})
	}
	verifier, err := signing.NewVerifier(whsec(32))
	require.NoError(t, err)
	require.Equal(t, "[secret]", verifier.String())
}

// Whatever is signed verifies, and a change of any byte of any part does not.
func TestVerifyRefusesEveryChange(t *testing.T) {
	t.Parallel()
	shared, pair := newKey(t, signing.HMACSHA256), newKey(t, signing.Ed25519)
	rapid.Check(t, func(t *rapid.T) {
		key, verifyWith := shared, shared.Reveal()
		if rapid.Bool().Draw(t, "ed25519") {
			key, verifyWith = pair, pair.PublicKey()
		}
		at := time.Unix(rapid.Int64Range(1, 1<<33).Draw(t, "at"), 0)
		id := rapid.StringMatching(`[a-z_0-9]{1,30}`).Draw(t, "id")
		body := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "body")
		signature := signing.Sign([]signing.SecretKey{key}, id, at, body)
		if err := signing.Verify(verifyWith, headers(id, at, signature), body, at, 0); err != nil {
			t.Fatalf("what was signed is refused: %v", err)
		}
		header, changed := headers(id, at, signature), body
		switch rapid.IntRange(0, 3).Draw(t, "part") {
		case 0:
			changed = append([]byte(nil), body...)
			changed[rapid.IntRange(0, len(body)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		case 1:
			header.Set("webhook-id", id+"x")
		case 2:
			header.Set("webhook-timestamp", strconv.FormatInt(at.Unix()+1, 10))
		case 3:
			raw := []byte(signature)
			i := rapid.IntRange(strings.IndexByte(signature, ',')+1, len(raw)-4).Draw(t, "position")
			raw[i] = map[bool]byte{true: 'B', false: 'A'}[raw[i] == 'A']
			header.Set("webhook-signature", string(raw))
		}
		var verifyError *signing.VerifyError
		if err := signing.Verify(verifyWith, header, changed, at, 0); !errors.As(err, &verifyError) || verifyError.Reason != signing.NoMatch {
			t.Fatalf("a change was accepted or misnamed: %v", err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	key, err := signing.ParseSecretKey(whsec(32))
	require.NoError(f, err)
	at := time.Unix(1_700_000_000, 0)
	f.Add("evt_1", "1700000000", signing.Sign([]signing.SecretKey{key}, "evt_1", at, []byte("{}")), []byte("{}"))
	f.Add("", "", "", []byte(nil))
	f.Add("evt_1", "1700000000", "v1,DfnkennrhV5e6bFfQv21BgAmq/orNFNfxXVddjbhhO9=", []byte("{}")) // another spelling of the right one
	f.Add("a.b", "-1", "v1, v1a, ,", []byte("x"))
	f.Add("a", "99999999999999999999", "v1,=", []byte("x"))
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte) {
		header := http.Header{}
		header.Set("webhook-id", id)
		header.Set("webhook-timestamp", timestamp)
		header.Set("webhook-signature", signature)
		err := signing.Verify(key.Reveal(), header, body, at, 0)
		var verifyError *signing.VerifyError
		if err != nil {
			require.ErrorAs(t, err, &verifyError)
			return
		}
		seconds, err := strconv.ParseInt(timestamp, 10, 64)
		require.NoError(t, err)
		require.Contains(t, strings.Fields(signature), signing.Sign([]signing.SecretKey{key}, id, time.Unix(seconds, 0), body), "accepted what the key did not sign")
	})
}
