package web

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

const (
	// boshRequests is how many requests one vhost's BOSH has under way at once:
	// two for each of a thousand clients. Each costs about 60 KiB here.
	boshRequests = 2048

	// boshWait bounds how long the XMPP server may hold a request. Clients ask
	// for 60 s, and servers grant no more than 2 minutes by default.
	boshWait = 5 * time.Minute

	boshDial  = 5 * time.Second
	boshWrite = 30 * time.Second // for a client to take the answer, beside boshWait
)

// bosh passes requests for one path to an XMPP server that does BOSH
// (XEP-0124), as they are: who may ask from where (CORS) is its business.
type bosh struct {
	path      string
	url       string // scheme and host, for the log
	proxy     *httputil.ReverseProxy
	transport *http.Transport
	places    chan struct{}
}

func newBOSH(target *url.URL, config *tls.Config, log *slog.Logger) *bosh {
	b := &bosh{path: target.Path, url: target.Scheme + "://" + target.Host, places: make(chan struct{}, boshRequests)}
	if config != nil {
		config = config.Clone()
	}
	b.transport = &http.Transport{
		DialContext:         (&net.Dialer{Timeout: boshDial}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: boshDial,
		MaxIdleConnsPerHost: 64,
		// Short, for a server may close at that moment a connection that is
		// chosen for a request.
		IdleConnTimeout:       15 * time.Second,
		ResponseHeaderTimeout: boshWait,
		DisableCompression:    true,
	}
	b.proxy = &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = target.Scheme, target.Host
			// The client's Host stays, as with WebSockets: servers find their
			// own vhost by it.
			pr.Out.Host = pr.In.Host
			pr.SetXForwarded()
			pr.Out.Header.Del("Upgrade")
			pr.Out.Header.Del("Connection")
		},
		ModifyResponse: b.judgeLogins,
		Transport:      b.transport,
		FlushInterval:  -1, // what a server says early is for the client now
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler:   func(w http.ResponseWriter, r *http.Request, err error) { b.failed(w, r, err, log) },
	}
	return b
}

func (b *bosh) close() { b.transport.CloseIdleConnections() }

// serve passes one request on. The connection may be kept for others.
func (b *bosh) serve(w http.ResponseWriter, r *http.Request, s *Site, keep bool) {
	if !allow(w, r, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodOptions) {
		return
	}
	if origin := r.Header.Get("Origin"); origin != "" && s.options.AllowsOrigin != nil {
		if err := s.options.AllowsOrigin(r.TLS.ServerName, origin); err != nil {
			s.log.Info("bosh: refused", "client", r.RemoteAddr, "server_name", r.TLS.ServerName, "code", http.StatusForbidden, "err", err)
			http.Error(w, "403 Forbidden\n\nThis is not allowed.", http.StatusForbidden)
			return
		}
	}
	if s.options.TurnsAway != nil && s.options.TurnsAway(r.TLS.ServerName) {
		unavailable(w, "This gate takes no new clients at the moment. Try again in a while.")
		return
	}
	if s.options.Logins != nil {
		if banned := s.options.Logins.LoginsRefused(r); banned > 0 {
			loginsRefused(w, banned)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), loginsKey{}, loginsOf{s.options.Logins, r}))
	}
	if r.ContentLength > s.options.MaxBody {
		tooLarge(w)
		return
	}
	select {
	case b.places <- struct{}{}:
		defer func() { <-b.places }()
	default:
		s.log.Warn("bosh: too many requests at once", "upstream", b.url, "client", r.RemoteAddr, "server_name", r.TLS.ServerName)
		unavailable(w, "Too many clients are here at the moment. Try again in a while.")
		return
	}
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(boshWait + boshWrite))
	r.Body = clientBody{http.MaxBytesReader(w, r.Body, s.options.MaxBody)}
	if keep {
		w.Header().Del("Connection")
	}
	b.proxy.ServeHTTP(w, r)
}

// failed answers where the XMPP server did not. What is behind the gate is for
// the log alone.
func (b *bosh) failed(w http.ResponseWriter, r *http.Request, err error, log *slog.Logger) {
	w.Header().Set("Connection", "close")
	var tooLong *http.MaxBytesError
	var cut *bodyError
	var timeout net.Error
	var refused *refusedError
	switch {
	case errors.As(err, &refused):
		loginsRefused(w, refused.banned)
	case errors.As(err, &tooLong):
		tooLarge(w)
	case errors.As(err, &cut):
		// The client's doing, and no word about the server.
		log.Debug("bosh: request cut short", "client", r.RemoteAddr, "server_name", r.TLS.ServerName, "err", cut.err)
		http.Error(w, "400 Bad Request\n\nThe request did not come whole, or not in time.", http.StatusBadRequest)
	case errors.Is(err, context.Canceled):
		// The client has gone, or a drain has begun. That client sends the
		// request again, with the same rid, and finds another gate: XEP-0124,
		// section 14.3, has the server answer it as if it were the first time.
		unavailable(w, "This gate is being shut down. Try again in a moment.")
	case errors.As(err, &timeout) && timeout.Timeout():
		log.Warn("bosh: no answer", "upstream", b.url, "client", r.RemoteAddr, "server_name", r.TLS.ServerName, "err", err)
		http.Error(w, "504 Gateway Timeout\n\nThe XMPP server did not answer in time.", http.StatusGatewayTimeout)
	default:
		log.Warn("bosh: no answer", "upstream", b.url, "client", r.RemoteAddr, "server_name", r.TLS.ServerName, "err", err)
		http.Error(w, "502 Bad Gateway\n\nThe XMPP server is not reachable at the moment.", http.StatusBadGateway)
	}
}

// clientBody marks errors of a request's body, which come back out of the
// transport as if they were the server's.
type clientBody struct{ io.ReadCloser }

func (b clientBody) Read(p []byte) (n int, err error) {
	n, err = b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = &bodyError{err}
	}
	return n, err
}

type bodyError struct{ err error }

func (e *bodyError) Error() string { return e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

func tooLarge(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	http.Error(w, "413 Content Too Large\n\nThe request is longer than a message may be.", http.StatusRequestEntityTooLarge)
}

func unavailable(w http.ResponseWriter, text string) {
	w.Header().Set("Retry-After", "5")
	http.Error(w, "503 Service Unavailable\n\n"+text, http.StatusServiceUnavailable)
}
