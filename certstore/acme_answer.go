package certstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// ChallengeCertificate answers a CA that validates a name by tls-alpn-01 (RFC
// 8737), which sends a ClientHello with acme-tls/1 as its only protocol. For
// any other ClientHello, for a name that is not configured, and without a
// current order, it returns nil, nil; crypto/tls then sends unrecognized_name.
//
// It never waits for the network or for an order. Answers for this gate's
// orders come from memory. Those for other gates are read from the cache
// folder: that is the only disk access in a handshake, and it happens only in
// the CA's handshakes. acmeAnswers bounds their number and duration.
func (a *ACME) ChallengeCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != acme.ALPNProto {
		return nil, nil
	}
	k, name := a.keeper(hello.ServerName)
	if k == nil {
		return nil, nil
	}
	h := *hello
	h.ServerName = name
	// For this ClientHello, the Manager only looks up NAME+token in its cache.
	cert, err := a.manager.GetCertificate(&h)
	if err != nil {
		a.opts.Log.Debug("acme: no answer to tls-alpn-01", "server_name", name, "err", err)
		return nil, nil
	}
	return cert, nil
}

// HTTPHandler answers a CA that validates a configured name by http-01 (RFC
// 8555, section 8.3), for orders of this gate and of other gates. Requests
// outside /.well-known/acme-challenge/ go to fallback; if that is nil, they are
// redirected to https.
func (a *ACME) HTTPHandler(fallback http.Handler) http.Handler {
	return a.manager.HTTPHandler(fallback)
}

// allow is the Manager's HostPolicy. The Manager calls it only for http-01, with the
// unchanged Host header.
func (a *ACME) allow(_ context.Context, host string) error {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if k, _ := a.keeper(host); k == nil {
		return fmt.Errorf("acme: host %q is not configured", host)
	}
	return nil
}

const (
	acmeAnswerReads   = 4               // concurrent reads of answers from the folder
	acmeAnswerTimeout = 2 * time.Second // for one of them, including the wait for a slot
)

// acmeAnswers is the Manager's cache. It has only answers to challenges, so a
// request cannot reach any other file. Answers for this gate's orders are in
// memory; others are read from the folder.
type acmeAnswers struct {
	cache acmeCache
	reads chan struct{}

	mu  sync.Mutex
	own map[string][]byte // by file name; mu is not held while reading the folder
}

func newACMEAnswers(cache acmeCache) *acmeAnswers {
	return &acmeAnswers{cache: cache, reads: make(chan struct{}, acmeAnswerReads), own: map[string][]byte{}}
}

// Get implements autocert.Cache. It returns no error but ErrCacheMiss, because
// the Manager shows errors to clients and others would contain file names.
func (n *acmeAnswers) Get(ctx context.Context, key string) ([]byte, error) {
	if !acmeIsAnswer(key) {
		return nil, autocert.ErrCacheMiss
	}
	n.mu.Lock()
	data, ok := n.own[key]
	n.mu.Unlock()
	if ok {
		return data, nil
	}
	ctx, cancel := context.WithTimeout(ctx, acmeAnswerTimeout)
	defer cancel()
	select {
	case n.reads <- struct{}{}:
		defer func() { <-n.reads }()
	case <-ctx.Done():
		return nil, autocert.ErrCacheMiss
	}
	data, err := n.cache.read(ctx, key) // returns when ctx ends, even if the disk hangs
	if err != nil {
		return nil, autocert.ErrCacheMiss
	}
	return data, nil
}

// errACMEReadOnly occurs only if the Manager does more than answer challenges.
var errACMEReadOnly = errors.New("acme: the Manager only reads")

// Put implements autocert.Cache.
func (n *acmeAnswers) Put(context.Context, string, []byte) error { return errACMEReadOnly }

// Delete implements autocert.Cache.
func (n *acmeAnswers) Delete(context.Context, string) error { return errACMEReadOnly }

// present publishes an answer here and for all gates on the folder. If it
// fails, only this gate has the answer.
func (n *acmeAnswers) present(ctx context.Context, key string, data []byte) error {
	n.mu.Lock()
	n.own[key] = data
	n.mu.Unlock()
	return n.cache.note(ctx, key, data)
}

// withdraw undoes present.
func (n *acmeAnswers) withdraw(key string) {
	n.mu.Lock()
	delete(n.own, key)
	n.mu.Unlock()
	// The order may have ended, and then its context is done.
	ctx, cancel := context.WithTimeout(context.Background(), acmeGoodbye)
	defer cancel()
	n.cache.remove(ctx, key)
}

// acmeIsAnswer reports whether key is the file name of an answer.
func acmeIsAnswer(key string) bool {
	if token, ok := strings.CutSuffix(key, acmeHTTPSuffix); ok {
		return acmeTokenOK(token)
	}
	name, ok := strings.CutSuffix(key, acmeTokenSuffix)
	if !ok {
		return false
	}
	normal, err := acmeName(name)
	return err == nil && normal == name
}

// acmeTokenOK reports whether token is base64url (RFC 8555, section 8.1), and
// short enough to be a file name.
func acmeTokenOK(token string) bool {
	if token == "" || len(token) > 200 {
		return false
	}
	for _, c := range []byte(token) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
