package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"time"

	"wssgate/ports"
	"wssgate/sampling"
)

const (
	// boshWait bounds how long the XMPP server may hold a request. Clients ask for 60
	// s, and servers grant at most 2 minutes by default.
	boshWait = 5 * time.Minute

	boshBody      = 30 * time.Second // for a request's body, if no other request needs its slot
	boshMaxHeader = 64 << 10         // bytes of an answer's header

	boshDial  = 5 * time.Second
	boshWrite = 30 * time.Second // for the client to read the answer, after boshWait

	// boshIdle is the default of Options.IdleBOSH.
	boshIdle = 64
)

// bosh passes requests for one path unchanged to an XMPP server that supports BOSH
// (XEP-0124). The server decides which origins may use it (CORS).
//
// Each request takes one of the slots of its Site (boshslots.go). Its body is read
// completely and checked against the rules of the vhost (boshrules.go) before a
// connection to the server is made.
type bosh struct {
	path         string
	url          string // scheme and host, for the log
	allowsDomain func(domain string) error
	proxy        *httputil.ReverseProxy
	slots        *boshSlots

	refused, tooMany, noAnswer sampling.Line
}

// newTransport returns a transport that keeps at most idle connections to BOSH servers,
// and dials from sources. config is for https.
func newTransport(config *tls.Config, sources []netip.Addr, idle int) *http.Transport {
	var memory ports.Memory
	dial := ports.From(&net.Dialer{Timeout: boshDial})
	if config != nil {
		config = config.Clone()
	}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return memory.Dial(ctx, dial, sources, network, address)
		},
		TLSClientConfig:     config,
		TLSHandshakeTimeout: boshDial,
		DisableKeepAlives:   idle == 0,
		MaxIdleConns:        idle,
		MaxIdleConnsPerHost: idle,
		// Short, because a server may close an idle connection just as it is chosen.
		IdleConnTimeout:       15 * time.Second,
		ResponseHeaderTimeout: boshWait,
		// The default is 10 MiB per request.
		MaxResponseHeaderBytes: boshMaxHeader,
		DisableCompression:     true,
	}
}

func newBOSH(o Vhost, slots *boshSlots, transport *http.Transport, log *slog.Logger) *bosh {
	target := o.BOSH
	b := &bosh{slots: slots, path: target.Path, url: target.Scheme + "://" + target.Host, allowsDomain: o.AllowsDomain}
	b.proxy = &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = target.Scheme, target.Host
			// Keep the client's Host, as for WebSockets: servers find their own vhost
			// by it.
			pr.Out.Host = pr.In.Host
			pr.Out.Header = boshHeader(pr.Out.Header)
			pr.Out.Header.Set("Accept-Encoding", "identity") // because answers are inspected
			pr.Out.Header.Del("Accept-Charset")
			pr.Out.Trailer = nil
			pr.SetXForwarded()
		},
		ModifyResponse: b.answered,
		Transport:      transport,
		FlushInterval:  -1, // flush at once: the answer may come in pieces
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler:   func(w http.ResponseWriter, r *http.Request, err error) { b.failed(w, r, err, log) },
	}
	return b
}

// boshHeaders are the request headers that are passed on. All others are dropped, as
// for WebSockets: proxies name the client's address in a dozen of them (X-Real-IP,
// True-Client-IP, CF-Connecting-IP, …), and a client could forge each.
var boshHeaders = []string{
	"Accept", "Accept-Charset", "Accept-Language", "Access-Control-Request-Headers",
	"Access-Control-Request-Method", "Access-Control-Request-Private-Network", "Authorization", "Cache-Control",
	"Content-Encoding", "Content-Type", "Cookie", "If-Modified-Since", "If-None-Match", "Origin", "Pragma",
	"Referer", "User-Agent", "X-Requested-With",
}

func boshHeader(client http.Header) http.Header {
	h := http.Header{}
	for _, name := range boshHeaders {
		if values := client[name]; len(values) > 0 {
			h[name] = values
		}
	}
	return h
}

// answered inspects the answer before the client gets any of it.
func (b *bosh) answered(resp *http.Response) error {
	if err := hideRedirect(resp); err != nil {
		return err
	}
	return b.judgeLogins(resp)
}

// serve passes one request on. With keep, the connection may stay open for more
// requests.
func (b *bosh) serve(w http.ResponseWriter, r *http.Request, s *Site, keep bool) {
	if !allow(w, r, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodOptions) {
		return
	}
	if origin := r.Header.Get("Origin"); origin != "" && s.options.AllowsOrigin != nil {
		if err := s.options.AllowsOrigin(r.TLS.ServerName, origin); err != nil {
			b.refused.Info(s.log, "bosh: refused", "client", r.RemoteAddr, "server_name", r.TLS.ServerName, "code", http.StatusForbidden, "err", err)
			forbidden(w)
			return
		}
	}
	if s.options.TurnsAway != nil && s.options.TurnsAway(r.TLS.ServerName) {
		unavailable(w, "This gate is not accepting new clients at the moment. Try again later.")
		return
	}
	var of *loginsOf
	if s.options.Logins != nil {
		if banned := s.options.Logins.LoginsRefused(r); banned > 0 {
			loginsRefused(w, banned)
			return
		}
		of = &loginsOf{logins: s.options.Logins, request: r, asked: s.asked}
		r = r.WithContext(context.WithValue(r.Context(), loginsKey{}, of))
	}
	if r.ContentLength > s.options.MaxBody {
		tooLarge(w)
		return
	}
	control := http.NewResponseController(w)
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	slot := b.slots.take(r.RemoteAddr, func() { cancel(errGivenUp) })
	if slot == nil {
		b.tooMany.Warn(s.log, "bosh: too many requests at once", "upstream", b.url, "client", r.RemoteAddr, "server_name", r.TLS.ServerName)
		unavailable(w, tooManyText)
		return
	}
	defer slot.leave()
	control.SetReadDeadline(time.Now().Add(boshBody))
	r = r.WithContext(ctx)
	reading := context.AfterFunc(ctx, func() { control.SetReadDeadline(time.Unix(1, 0)) })
	body, err := slot.read(http.MaxBytesReader(w, r.Body, s.options.MaxBody))
	reading()
	if err != nil {
		b.failed(w, r, &bodyError{err}, s.log)
		return
	}
	// From now on net/http reads, to notice when the client disconnects, however long
	// the server takes.
	control.SetReadDeadline(time.Time{})
	control.SetWriteDeadline(time.Now().Add(boshWait + boshWrite))
	if err := b.check(r, body, of); err != nil {
		b.refused.Info(s.log, "bosh: refused", "client", r.RemoteAddr, "server_name", r.TLS.ServerName, "err", err)
		err.answer(w)
		return
	}
	r.Body, r.ContentLength, r.TransferEncoding, r.Trailer = http.NoBody, int64(len(body)), nil, nil
	if len(body) > 0 {
		r.Body = &placedBody{slot: slot, Reader: bytes.NewReader(body)}
	}
	if keep {
		w.Header().Del("Connection")
	}
	b.proxy.ServeHTTP(w, r)
}

// failed answers for an XMPP server that did not. Only the log gets details about the
// server.
func (b *bosh) failed(w http.ResponseWriter, r *http.Request, err error, log *slog.Logger) {
	w.Header().Set("Connection", "close")
	var tooLong *http.MaxBytesError
	var cut *bodyError
	var timeout net.Error
	var refused *refusedError
	var usedUp *ports.UsedUpError
	switch {
	case errors.Is(context.Cause(r.Context()), errGivenUp):
		unavailable(w, tooManyText)
	case errors.As(err, &refused):
		loginsRefused(w, refused.banned)
	case errors.As(err, &tooLong):
		tooLarge(w)
	case errors.As(err, &cut):
		// The client caused this, not the server.
		log.Debug("bosh: request cut short", "client", r.RemoteAddr, "server_name", r.TLS.ServerName, "err", cut.err)
		http.Error(w, "400 Bad Request\n\nThe request was incomplete or late.", http.StatusBadRequest)
	case errors.Is(err, context.Canceled):
		// The client has disconnected, a drain has begun, or memory is short. The
		// client repeats the request with the same rid at another gate, and the server
		// answers as if it were the first time (XEP-0124, section 14.3).
		unavailable(w, "This gate could not keep the request. Try again in a moment.")
	case errors.As(err, &usedUp):
		b.noAnswer.Warn(log, "bosh: no answer", "upstream", b.url, "client", r.RemoteAddr, "server_name", r.TLS.ServerName, "err", err, "hint", usedUp.Hint())
		unavailable(w, "This gate has no room for new clients at the moment. Try again in a while.")
	case errors.As(err, &timeout) && timeout.Timeout():
		b.noAnswer.Warn(log, "bosh: no answer", "upstream", b.url, "client", r.RemoteAddr, "server_name", r.TLS.ServerName, "err", err)
		http.Error(w, "504 Gateway Timeout\n\nThe XMPP server did not answer in time.", http.StatusGatewayTimeout)
	default:
		b.noAnswer.Warn(log, "bosh: no answer", "upstream", b.url, "client", r.RemoteAddr, "server_name", r.TLS.ServerName, "err", err)
		http.Error(w, "502 Bad Gateway\n\nThe XMPP server is unreachable at the moment.", http.StatusBadGateway)
	}
}

const tooManyText = "Too many clients are connected at the moment. Try again later."

// A bodyError is an error that the client caused.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// A placedBody is a body that has been read already. It releases its share of the
// Site's memory once the server has it.
type placedBody struct {
	*bytes.Reader
	slot *boshSlot
}

func (b *placedBody) Close() error {
	b.slot.dropBody()
	return nil
}

func tooLarge(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	http.Error(w, "413 Content Too Large\n\nThe request is longer than a message may be.", http.StatusRequestEntityTooLarge)
}

func forbidden(w http.ResponseWriter) {
	http.Error(w, "403 Forbidden\n\nThis is not allowed.", http.StatusForbidden)
}

func unavailable(w http.ResponseWriter, text string) {
	w.Header().Set("Retry-After", "5")
	http.Error(w, "503 Service Unavailable\n\n"+text, http.StatusServiceUnavailable)
}

// A way is how to reach a BOSH server. Vhosts with an equal way share connections.
type way struct {
	tls     *tls.Config
	sources string
}

func (v *Vhost) way() way { return way{v.TLS, fmt.Sprint(v.Sources)} }

// transports returns one for each way of the vhosts' BOSH. Together they keep at most
// idle connections.
func transports(vhosts []Vhost, idle int) map[way]*http.Transport {
	sources := map[way][]netip.Addr{}
	for _, v := range vhosts {
		if v.BOSH != nil {
			sources[v.way()] = v.Sources
		}
	}
	m := map[way]*http.Transport{}
	for w, from := range sources {
		m[w] = newTransport(w.tls, from, idle/len(sources))
	}
	return m
}
