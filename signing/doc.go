// Package signing holds every secret of the service in one place: it makes
// webhook keys, signs requests as Standard Webhooks says, verifies them, and
// seals what must be stored.
//
// Its invariants:
//
//   - Plaintext keys live here. SecretKey, Signer, Verifier and Keyring never
//     print, log or marshal what they hold; the one way out for a key is
//     SecretKey.Reveal, once, at creation.
//   - Errors say which part of the input is wrong and never repeat it.
//   - Signatures are compared in constant time.
//
// The package imports nothing else of this module, so that a receiver written
// in Go can use Verify on its own.
package signing
