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
// 8737): a ClientHello that offers acme-tls/1 and nothing else. For any other,
// for a name that is not configured, and where no order is under way, it returns
// nil, nil; crypto/tls then sends unrecognized_name.
//
// It never waits for the network or for an order. What this gate ordered is
// answered from memory; what another gate ordered is read from the cache folder,
// the one place where a handshake reads a disk: it is the CA's handshake, not a
// client's. acmeAnswers bounds how many do so at once and for how long.
func (a *ACME) ChallengeCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != acme.ALPNProto {
		return nil, nil
	}
	k := a.keeper(hello.ServerName)
	if k == nil {
		return nil, nil
	}
	h := *hello
	h.ServerName = k.name
	// With such a hello the Manager looks for NAME+token in its cache, and does
	// nothing else.
	cert, err := a.manager.GetCertificate(&h)
	if err != nil {
		a.opts.Log.Debug("acme: no answer to tls-alpn-01", "server_name", k.name, "err", err)
		return nil, nil
	}
	return cert, nil
}

// HTTPHandler answers a CA that validates a configured name by http-01 (RFC
// 8555, section 8.3), for orders of this and of other gates. All that is not
// below /.well-known/acme-challenge/ goes to fallback; where that is nil, it is
// redirected to https.
func (a *ACME) HTTPHandler(fallback http.Handler) http.Handler {
	return a.manager.HTTPHandler(fallback)
}

// allow is the Manager's HostPolicy. The Manager asks it for http-01 alone, with
// the Host header as it came.
func (a *ACME) allow(_ context.Context, host string) error {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if a.keeper(host) == nil {
		return fmt.Errorf("acme: host %q is not configured", host)
	}
	return nil
}

const (
	acmeAnswerReads   = 4               // answers read from the folder at once
	acmeAnswerTimeout = 2 * time.Second // for one of them, waiting for its turn included
)

// acmeAnswers is the Manager's cache: answers to challenges and nothing else, so
// that a request can't reach any other file. It keeps those of this gate's own
// orders in memory, and reads others from the folder.
type acmeAnswers struct {
	cache acmeCache
	reads chan struct{}

	mu  sync.Mutex
	own map[string][]byte // by file name; mu is not held while the folder is read
}

func newACMEAnswers(cache acmeCache) *acmeAnswers {
	return &acmeAnswers{cache: cache, reads: make(chan struct{}, acmeAnswerReads), own: map[string][]byte{}}
}

// Get implements autocert.Cache. Its only error is ErrCacheMiss: the Manager
// shows errors to whoever asks, and theirs would contain file names.
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
	data, err := n.cache.read(ctx, key) // gives up with ctx, whatever the disk does
	if err != nil {
		return nil, autocert.ErrCacheMiss
	}
	return data, nil
}

// errACMEReadOnly would mean that the Manager does what we keep it from.
var errACMEReadOnly = errors.New("acme: the Manager only reads")

// Put implements autocert.Cache.
func (n *acmeAnswers) Put(context.Context, string, []byte) error { return errACMEReadOnly }

// Delete implements autocert.Cache.
func (n *acmeAnswers) Delete(context.Context, string) error { return errACMEReadOnly }

// present makes an answer known here and to all gates on the folder. The answer
// stands in any case; the error says that other gates do not have it.
func (n *acmeAnswers) present(ctx context.Context, key string, data []byte) error {
	n.mu.Lock()
	n.own[key] = data
	n.mu.Unlock()
	return n.cache.note(ctx, key, data)
}

// withdraw is the reverse of present.
func (n *acmeAnswers) withdraw(key string) {
	n.mu.Lock()
	delete(n.own, key)
	n.mu.Unlock()
	// The order may be over by now, with its context.
	ctx, cancel := context.WithTimeout(context.Background(), acmeGoodbye)
	defer cancel()
	n.cache.remove(ctx, key)
}

// acmeIsAnswer tells whether key is a file name of an answer.
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

// acmeTokenOK tells whether token is one: base64url (RFC 8555, section 8.1), and
// of a length that a file system takes. A CA's tokens become file names.
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
