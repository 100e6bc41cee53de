package receivertest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"
)

// Mode says how the receiver does TLS. All but Valid must be refused by a client
// that trusts Receiver.RootCAs.
type Mode string

// The modes: plain HTTP, a good certificate, certificates that must be refused,
// and handshakes that must fail.
const (
	Plain             Mode = ""
	Valid             Mode = "valid"
	Expired           Mode = "expired"
	NotYetValid       Mode = "not yet valid"
	SelfSigned        Mode = "self-signed"
	UnknownCA         Mode = "unknown authority"
	WrongHost         Mode = "wrong host"
	NoNames           Mode = "no names"
	ClientAuthOnly    Mode = "for clients only"
	SignedByLeaf      Mode = "signed by a certificate that is no authority"
	OutsideConstraint Mode = "outside its authority's name constraint"
	OldVersion        Mode = "TLS 1.1 at most"
	NeedsClientCert   Mode = "wants a client certificate"
	NotTLS            Mode = "plain HTTP on the TLS port"
	ClosedHandshake   Mode = "closes in the handshake"
	SilentHandshake   Mode = "never finishes the handshake"
)

// BadModes lists every mode that a client must answer with a TLS error.
// SilentHandshake is not among them: it runs out of time.
func BadModes() []Mode {
	return []Mode{
		Expired, NotYetValid, SelfSigned, UnknownCA, WrongHost, NoNames, ClientAuthOnly, SignedByLeaf,
		OutsideConstraint, OldVersion, NeedsClientCert, NotTLS, ClosedHandshake,
	}
}

// beneathTLS reports whether the mode acts before a handshake can succeed.
func (m Mode) beneathTLS() bool {
	return m == NotTLS || m == ClosedHandshake || m == SilentHandshake
}

// connection serves one connection of a mode beneath TLS.
func (m Mode) connection(_ context.Context, conn net.Conn) {
	buffer := make([]byte, 1024)
	if _, err := conn.Read(buffer); err != nil { // the beginning of the ClientHello
		return
	}
	if m == NotTLS {
		_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))
	}
	if m != SilentHandshake {
		finish(conn)
		return
	}
	drain(conn)
}

// authority is a certificate authority of one receiver.
type authority struct {
	t           testing.TB
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key := newKey(t)
	template := certificateTemplate("receivertest authority")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatalf("receivertest: make authority: %v", err)
	}
	a := &authority{t: t, certificate: parse(t, der), key: key, pool: x509.NewCertPool()}
	a.pool.AddCert(a.certificate)
	return a
}

// issue signs a certificate for a new key.
func (a *authority) issue(template *x509.Certificate) (der []byte, key *ecdsa.PrivateKey) {
	a.t.Helper()
	key = newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatalf("receivertest: issue certificate: %v", err)
	}
	return der, key
}

// tlsConfig makes the certificate and settings of the receiver's mode.
func (r *Receiver) tlsConfig(protocols ...string) *tls.Config {
	config := &tls.Config{NextProtos: protocols, MinVersion: tls.VersionTLS10}
	leaf := certificateTemplate(Host)
	leaf.DNSNames, leaf.IPAddresses = []string{Host}, []net.IP{net.IPv4(127, 0, 0, 1)}
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	issuer := r.ca
	var chain [][]byte
	switch r.mode {
	case Expired:
		leaf.NotBefore, leaf.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	case NotYetValid:
		leaf.NotBefore, leaf.NotAfter = time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour)
	case WrongHost:
		leaf.DNSNames, leaf.IPAddresses = []string{"elsewhere.test"}, []net.IP{net.IPv4(192, 0, 2, 1)}
	case NoNames:
		leaf.DNSNames, leaf.IPAddresses = nil, nil
	case ClientAuthOnly:
		leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case UnknownCA:
		issuer = newAuthority(r.t)
	case SignedByLeaf, OutsideConstraint:
		middle := certificateTemplate("receivertest middle")
		if r.mode == OutsideConstraint {
			middle.IsCA, middle.BasicConstraintsValid, middle.KeyUsage = true, true, x509.KeyUsageCertSign
			middle.PermittedDNSDomains, middle.PermittedDNSDomainsCritical = []string{"inside.test"}, true
		}
		der, key := r.ca.issue(middle)
		issuer = &authority{t: r.t, certificate: parse(r.t, der), key: key}
		chain = append(chain, der)
	case OldVersion:
		config.MaxVersion = tls.VersionTLS11
	case NeedsClientCert:
		// Below 1.3 the refusal comes before the client may send its request.
		config.ClientAuth, config.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12
	case Plain, Valid, SelfSigned, NotTLS, ClosedHandshake, SilentHandshake:
	}
	der, key := issuer.issue(leaf)
	if r.mode == SelfSigned {
		key = newKey(r.t)
		var err error
		if der, err = x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key); err != nil {
			r.t.Fatalf("receivertest: make certificate: %v", err)
		}
	}
	config.Certificates = []tls.Certificate{{Certificate: append([][]byte{der}, chain...), PrivateKey: key}}
	return config
}

func certificateTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("receivertest: make key: %v", err)
	}
	return key
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("receivertest: parse certificate: %v", err)
	}
	return certificate
}
