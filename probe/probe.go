// Package probe connects as an XMPP client does, one step at a time, and explains the
// result of each step: TCP, TLS, the certificate, the opening handshake, the stream and
// its features.
//
// It continues after a certificate that it does not trust, because a later step may show
// the cause. It logs in only on request, and never after such a certificate.
//
// In addition to the steps it reports diagnoses: causes of trouble, each with a code and the setting
// to change. Only `wssgate probe` uses it.
package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"wssgate/human"

	"golang.org/x/net/idna"
)

// Options say what to probe. URL is required.
type Options struct {
	URL     string         // wss://HOST[:PORT]/PATH, or ws:// for an upstream itself; without a scheme: wss
	Domain  string         // XMPP domain for `to`; empty: the URL's host
	Connect string         // HOST:PORT to connect to instead of the URL's; empty: the URL's
	RootCAs *x509.CertPool // nil: the system's
	Timeout time.Duration  // of each step; 0: 10 s
	Message int64          // the gate's limits.message, in bytes; 0: its default, 1 MiB
	Server  string         // the XMPP server and its version, as "ejabberd/24.12"; empty: detected if possible
	Login   *Login         // nil: none
}

// A Report is the result of a probe. Fields of steps that were not reached
// are empty.
type Report struct {
	URL         string       `json:"url"`
	Domain      string       `json:"domain"`
	OK          bool         `json:"ok"`
	Address     string       `json:"address,omitempty"`
	ServerName  string       `json:"server_name,omitempty"`
	TLS         *TLS         `json:"tls,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Status      string       `json:"status,omitempty"` // of the opening handshake, as "101 Switching Protocols"
	Subprotocol string       `json:"subprotocol,omitempty"`
	StreamFrom  string       `json:"stream_from,omitempty"`
	Mechanisms  []string     `json:"mechanisms,omitempty"` // of SASL
	Features    []string     `json:"features,omitempty"`   // names of the others
	MaxBytes    int64        `json:"max_bytes,omitempty"`  // of a stanza (XEP-0478)
	SeenAs      string       `json:"seen_as,omitempty"`    // the address that the server sees (XEP-0279)
	Discovery   []string     `json:"discovery,omitempty"`  // WebSocket URLs in the documents of XEP-0156
	Server      *Server      `json:"server,omitempty"`
	Steps       []Step       `json:"steps"`
	Diagnoses   []Diagnosis  `json:"diagnoses"` // do not change OK
}

// A Step is one thing that was tried.
type Step struct {
	Name     string        `json:"step"`
	Took     time.Duration `json:"-"`
	Millis   float64       `json:"ms"`
	Facts    []string      `json:"-"`               // useful facts, one per line
	Problems []Problem     `json:"problems"`        // none: the step went well
	Notes    []string      `json:"notes,omitempty"` // not wrong, but worth a look
}

// OK reports whether the step went well.
func (s Step) OK() bool { return len(s.Problems) == 0 }

// A Problem describes a fault and, if possible, its remedy.
type Problem struct {
	Text string `json:"problem"`
	Hint string `json:"hint,omitempty"`
}

func (p *Problem) Error() string { return p.Text }

// ErrUsage is wrapped by errors about Options that make no sense.
var ErrUsage = errors.New("usage")

const defaultTimeout = 10 * time.Second

// A prober is one run.
type prober struct {
	Options
	report *Report
	each   func(Step)
	url    *url.URL
	addr   string // host:port to connect to
	from   string // of <open/>; empty: none

	conn net.Conn
	br   *bufio.Reader
	more []byte // of the last message: elements that were not looked at

	sasl  []string // mechanisms of SASL 1
	offer *offer   // before a login; nil: not seen
}

// Run probes, calls each (where not nil) as soon as a step is done, and
// returns the whole. The error is about the Options only and wraps ErrUsage;
// everything else is in the Report.
func Run(ctx context.Context, opts Options, each func(Step)) (*Report, error) {
	p := &prober{Options: opts, each: each, report: &Report{Diagnoses: []Diagnosis{}}}
	if err := p.prepare(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	defer func() {
		if p.conn != nil {
			p.conn.Close()
		}
	}()
	p.report.OK = p.walk(ctx)
	for _, s := range p.report.Steps {
		p.report.OK = p.report.OK && s.OK()
	}
	p.prescribe()
	return p.report, nil
}

// prepare reads the Options and fills in defaults.
func (p *prober) prepare() error {
	raw := p.URL
	if !strings.Contains(raw, "://") {
		raw = "wss://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Errorf("%q is not a URL: %w", p.URL, errors.Unwrap(err))
	}
	port, known := map[string]string{"wss": "443", "ws": "80"}[u.Scheme]
	switch {
	case !known:
		return fmt.Errorf("%q: scheme %q is not wss or ws", p.URL, u.Scheme)
	case u.Hostname() == "":
		return fmt.Errorf("%q: no host", p.URL)
	case u.User != nil || u.Fragment != "":
		return fmt.Errorf("%q: a WebSocket URL has neither user nor fragment", p.URL)
	}
	host := strings.TrimSuffix(u.Hostname(), ".")
	if net.ParseIP(host) == nil {
		if host, err = idna.Lookup.ToASCII(host); err != nil {
			return fmt.Errorf("%q: %w", u.Hostname(), err)
		}
	}
	if p.Domain == "" {
		p.Domain = strings.TrimSuffix(u.Hostname(), ".")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	p.addr = net.JoinHostPort(host, port)
	if p.Connect != "" {
		p.addr = p.Connect
		if _, _, err := net.SplitHostPort(p.Connect); err != nil {
			p.addr = net.JoinHostPort(strings.Trim(p.Connect, "[]"), port)
		}
	}
	if u.Port() == "" {
		u.Host = host
		if strings.Contains(host, ":") {
			u.Host = "[" + host + "]"
		}
	} else {
		u.Host = net.JoinHostPort(host, port)
	}
	if u.Path == "" {
		u.Path = "/"
	}
	if p.Timeout <= 0 {
		p.Timeout = defaultTimeout
	}
	if p.Message <= 0 {
		p.Message = 1 << 20
	}
	if p.Server != "" {
		name, version, _ := strings.Cut(p.Server, "/")
		if p.report.Server = recognize(name, version, "-server"); !slices.Contains(Servers, p.report.Server.Name) {
			return fmt.Errorf("server %q is none of %s", name, strings.Join(Servers, ", "))
		}
	}
	if p.Login != nil {
		if node, domain, ok := strings.Cut(p.Login.JID, "@"); !ok || node == "" || !strings.EqualFold(domain, p.Domain) {
			return fmt.Errorf("login: %q is not NAME@%s", p.Login.JID, p.Domain)
		}
	}
	p.url = u
	p.report.URL, p.report.Domain = u.String(), p.Domain
	return nil
}

// walk takes the steps until one fails that the next ones need.
func (p *prober) walk(ctx context.Context) bool {
	steps := []struct {
		name string
		do   func(context.Context, *Step) error
	}{
		{"connect", p.connect},
		{"tls", p.handshake},
		{"certificate", p.certificate},
		{"websocket", p.open},
		{"stream", p.stream},
		{"features", p.features},
		{"login", p.login},
	}
	for _, step := range steps {
		switch {
		case p.url.Scheme == "ws" && (step.name == "tls" || step.name == "certificate"):
			continue
		case step.name == "login" && p.Login == nil:
			continue
		}
		if !p.step(ctx, step.name, step.do) && step.name != "certificate" && step.name != "login" {
			return false
		}
	}
	p.bye()
	if p.offer != nil {
		p.judge(ctx, *p.offer)
	}
	if p.url.Scheme == "wss" && !slices.ContainsFunc(p.report.Steps, func(s Step) bool { return s.Name == "certificate" && !s.OK() }) {
		p.step(ctx, "discovery", p.discovery)
	}
	return true
}

// step runs one step under its deadline and reports whether it went well.
func (p *prober) step(ctx context.Context, name string, do func(context.Context, *Step) error) bool {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	if p.conn != nil {
		conn := p.conn
		conn.SetDeadline(time.Time{})
		stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
		defer stop()
	}
	s := Step{Name: name, Problems: []Problem{}}
	start := time.Now()
	err := do(ctx, &s)
	s.Took = time.Since(start)
	s.Millis = float64(s.Took.Microseconds()) / 1000
	if err != nil {
		problem := p.explain(ctx, err)
		s.Problems = append(s.Problems, problem)
	}
	p.report.Steps = append(p.report.Steps, s)
	if p.each != nil {
		p.each(s)
	}
	return s.OK()
}

// connect opens the TCP connection.
func (p *prober) connect(ctx context.Context, s *Step) error {
	conn, err := dial(ctx, p.addr)
	if err != nil {
		return err
	}
	p.conn = conn
	p.report.Address = conn.RemoteAddr().String()
	s.Facts = append(s.Facts, p.report.Address)
	return nil
}

// dial connects to an address, or to the loopback if DNS does not know the name and it
// means that.
func dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if local, ok := loopback(addr); err != nil && ok {
		return (&net.Dialer{}).DialContext(ctx, "tcp", local)
	}
	return conn, err
}

func isLoopbackConn(conn net.Conn) bool {
	addr, ok := conn.RemoteAddr().(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}

// loopback returns the loopback address of a name below .localhost, which DNS
// does not know and browsers and curl do not ask it for (RFC 6761, section 6.3).
func loopback(addr string) (local string, ok bool) {
	host, port, err := net.SplitHostPort(addr)
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if err != nil || name != "localhost" && !strings.HasSuffix(name, ".localhost") {
		return "", false
	}
	return net.JoinHostPort("127.0.0.1", port), true
}

// serverName returns what goes into TLS server name: no IP address does
// (RFC 6066, section 3).
func (p *prober) serverName() string {
	if host := p.url.Hostname(); net.ParseIP(host) == nil {
		return host
	}
	return ""
}

// handshake does TLS, whatever the certificate: that is the next step's.
func (p *prober) handshake(ctx context.Context, s *Step) error {
	p.report.ServerName = p.serverName()
	conn := tls.Client(p.conn, &tls.Config{
		ServerName:         p.serverName(),
		InsecureSkipVerify: true, // verified in the next step, where each fault gets its own words
		NextProtos:         []string{"http/1.1"},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	p.conn = conn
	state := conn.ConnectionState()
	p.report.TLS = &TLS{
		Protocol: tls.VersionName(state.Version),
		Cipher:   tls.CipherSuiteName(state.CipherSuite),
		Group:    state.CurveID.String(),
		ALPN:     state.NegotiatedProtocol,
	}
	if p.report.ServerName == "" {
		s.Facts = append(s.Facts, "no server name: an IP address has none")
	} else {
		s.Facts = append(s.Facts, "server name "+p.report.ServerName)
	}
	s.Facts = append(s.Facts, strings.Join([]string{p.report.TLS.Protocol, p.report.TLS.Cipher, p.report.TLS.Group}, ", "))
	return nil
}

// certificate verifies what the handshake brought.
func (p *prober) certificate(_ context.Context, s *Step) error {
	chain := p.conn.(*tls.Conn).ConnectionState().PeerCertificates
	p.report.Certificate = describe(chain, time.Now())
	s.Facts = p.report.Certificate.facts()
	s.Problems = append(s.Problems, verify(chain, p.url.Hostname(), p.RootCAs, time.Now())...)
	if left := time.Until(chain[0].NotAfter); left > 0 && left < soon {
		s.Notes = append(s.Notes, fmt.Sprintf("expires in %s: renew it now", human.Duration(left)))
	}
	return nil
}
