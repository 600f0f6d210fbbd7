package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"strings"
	"testing"
	"time"

	"wssgate/demo/chat"
	"wssgate/demo/minica"
)

// Only a CA gets a challenge certificate, and it gets no other.
func TestChallenge(t *testing.T) {
	challenge := minica.NewCA("challenge").Issue(testName).TLS()
	g := newGate(t, newUpstream(t, chat.Config{}).URL(), func(o *Options) {
		o.ChallengeCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName != testName {
				return nil, nil
			}
			return challenge, nil
		}
	})
	dial := func(name string, protocols ...string) (*tls.Conn, error) {
		return tls.Dial("tcp", g.addr, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: protocols})
	}
	conn, err := dial(testName, "acme-tls/1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cs := conn.ConnectionState()
	if cs.NegotiatedProtocol != "acme-tls/1" || !bytes.Equal(cs.PeerCertificates[0].Raw, challenge.Certificate[0]) {
		t.Errorf("protocol %q, certificate for %q; want acme-tls/1 and the challenge's", cs.NegotiatedProtocol, cs.PeerCertificates[0].DNSNames)
	}
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("behind the handshake: %v; want the end", err)
	}
	for name, protocols := range map[string][]string{"both": {"acme-tls/1", "http/1.1"}, "http/1.1": {"http/1.1"}, "none": nil} {
		conn, err := dial(testName, protocols...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if cs := conn.ConnectionState(); bytes.Equal(cs.PeerCertificates[0].Raw, challenge.Certificate[0]) || cs.NegotiatedProtocol == "acme-tls/1" {
			t.Errorf("a client that offers %s: protocol %q, certificate for %q", name, cs.NegotiatedProtocol, cs.PeerCertificates[0].DNSNames)
		}
		conn.Close()
	}
	if _, err := dial("other.example", "acme-tls/1"); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a name without challenge: %v; want unrecognized_name", err)
	}
	for _, h := range g.Counts().Handshakes {
		if h.Result == "challenge" && h.N != 1 {
			t.Errorf("%d challenges are counted; want 1", h.N)
		}
	}
}

// Without challenges, the CA's protocol is refused.
func TestNoChallenge(t *testing.T) {
	g := newGate(t, newUpstream(t, chat.Config{}).URL())
	conn, err := tls.Dial("tcp", g.addr, &tls.Config{ServerName: testName, RootCAs: g.ca.Pool(), NextProtos: []string{"acme-tls/1"}})
	if err == nil {
		conn.Close()
		t.Error("the handshake was done")
	}
}

// A CA whose answer comes from a slow disk delays no client, even with one handshake
// slot.
func TestChallengeSlow(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	g := newGate(t, newUpstream(t, chat.Config{}).URL(), func(o *Options) {
		o.Settings.Handshakes = 1
		o.ChallengeCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			close(asked)
			<-answer
			return nil, nil
		}
	})
	ended := make(chan error, 1)
	go func() {
		_, err := tls.Dial("tcp", g.addr, &tls.Config{ServerName: testName, InsecureSkipVerify: true, NextProtos: []string{"acme-tls/1"}})
		ended <- err
	}()
	<-asked
	g.dial().Abort()
	close(answer)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("the CA got %v; want unrecognized_name", err)
	}
	// The alert is sent before it is counted.
	if err := g.Shutdown(context.Background(), Pacing{Timeout: patience}); err != nil {
		t.Error(err)
	}
	for _, h := range g.Counts().Handshakes {
		if h.Result == "unknown_name" && h.N != 1 {
			t.Errorf("%d handshakes without a name are counted; want 1", h.N)
		}
	}
}
