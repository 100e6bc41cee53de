package signing

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"log/slog"
	"strconv"
	"sync"
	"time"
)

// The headers that every signed request carries.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
)

const (
	versionHMAC    = "v1"
	versionEd25519 = "v1a"
)

// Sign returns the value of the webhook-signature header: one "v1," or "v1a,"
// entry a key, in the order of keys, separated by spaces. The signed content is
// id.timestamp.body, the timestamp in whole seconds. Keys that are zero are left
// out. Whoever signs many requests with the same keys uses a Signer.
func Sign(keys []SecretKey, id string, timestamp time.Time, body []byte) string {
	return NewSigner(keys...).Sign(id, timestamp, body)
}

// Signer signs with a fixed list of keys, prepared once. It prints as
// "[secret]". Safe for concurrent use.
type Signer struct {
	keys []signerKey
	pool *sync.Pool // of *signerState: hashing states that remember the keyed block
}

type signerKey struct {
	private ed25519.PrivateKey // nil for HMAC
	secret  []byte
}

type signerState struct {
	macs    []hash.Hash // nil where the key is Ed25519
	message []byte
	sum     []byte
	out     []byte
}

// maxPooledMessage keeps one large Ed25519 body from staying in the pool for ever.
const maxPooledMessage = 64 << 10

// NewSigner prepares keys, in the order in which their signatures appear. Zero
// keys are left out; without any key the signature is empty.
func NewSigner(keys ...SecretKey) *Signer {
	s := &Signer{}
	for _, key := range keys {
		if key.m == nil {
			continue
		}
		s.keys = append(s.keys, signerKey{private: key.m.private, secret: key.m.hmac})
	}
	s.pool = &sync.Pool{New: func() any {
		state := &signerState{macs: make([]hash.Hash, len(s.keys))}
		for i, key := range s.keys {
			if key.private == nil {
				state.macs[i] = hmac.New(sha256.New, key.secret)
			}
		}
		return state
	}}
	return s
}

// Sign returns the value of the webhook-signature header for one request.
func (s *Signer) Sign(id string, timestamp time.Time, body []byte) string {
	state, ok := s.pool.Get().(*signerState)
	if !ok {
		panic("signing: foreign value in the pool")
	}
	state.message = appendPrefix(state.message[:0], id, timestamp)
	prefix := len(state.message)
	state.out = state.out[:0]
	for i, key := range s.keys {
		if i > 0 {
			state.out = append(state.out, ' ')
		}
		if key.private != nil {
			if len(state.message) == prefix {
				state.message = append(state.message, body...)
			}
			state.out = append(state.out, versionEd25519+","...)
			state.out = base64.StdEncoding.AppendEncode(state.out, ed25519.Sign(key.private, state.message))
			continue
		}
		mac := state.macs[i]
		mac.Reset()
		mac.Write(state.message[:prefix])
		mac.Write(body)
		state.sum = mac.Sum(state.sum[:0])
		state.out = append(state.out, versionHMAC+","...)
		state.out = base64.StdEncoding.AppendEncode(state.out, state.sum)
	}
	signature := string(state.out)
	if cap(state.message) <= maxPooledMessage {
		s.pool.Put(state)
	}
	return signature
}

// String returns "[secret]".
func (*Signer) String() string { return secretText }

// GoString returns "[secret]".
func (*Signer) GoString() string { return secretText }

// Format writes "[secret]" under every verb.
func (*Signer) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(secretText)) }

// LogValue returns "[secret]".
func (*Signer) LogValue() slog.Value { return slog.StringValue(secretText) }

// MarshalJSON always fails with ErrSecret.
func (*Signer) MarshalJSON() ([]byte, error) { return nil, ErrSecret }

// appendPrefix appends what stands before the body in the signed content.
func appendPrefix(dst []byte, id string, timestamp time.Time) []byte {
	dst = append(dst, id...)
	dst = append(dst, '.')
	dst = strconv.AppendInt(dst, timestamp.Unix(), 10)
	return append(dst, '.')
}
