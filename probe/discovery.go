package probe

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"wssgate/xmpp"
)

// discovery reads the documents of XEP-0156 where clients do, at port 443 of the domain.
// With Options.Connect it asks there, if the URL's host is the domain. It never fails:
// clients that are told the URL need no document.
func (p *prober) discovery(ctx context.Context, s *Step) error {
	host := strings.TrimSuffix(p.Domain, ".")
	if net.ParseIP(host) == nil {
		ascii, err := idna.Lookup.ToASCII(host)
		if err != nil {
			return nil
		}
		host = ascii
	}
	if p.Connect != "" && !strings.EqualFold(host, p.url.Hostname()) {
		s.Notes = append(s.Notes, fmt.Sprintf("not looked for: -connect leads to %s only", p.url.Hostname()))
		return nil
	}
	client := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: p.RootCAs},
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				if p.Connect != "" {
					addr = p.addr
				}
				return dial(ctx, addr)
			},
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			switch to := req.URL; {
			case to.Scheme != "https":
				return errors.New("the redirect has no TLS")
			case p.Connect != "" && !strings.EqualFold(to.Hostname(), host):
				return errors.New("the redirect is not followed: -connect leads elsewhere")
			case len(via) > 5:
				return errors.New("too many redirects")
			}
			return nil
		},
	}
	const xrd, jrd = "/.well-known/host-meta", "/.well-known/host-meta.json"
	var urls []string
	var failures []string
	for _, path := range []string{xrd, jrd} {
		found, cors, err := p.document(ctx, client, "https://"+host+path)
		if err != nil {
			failures = append(failures, printable([]byte(err.Error())))
			if path == xrd && len(failures) == 1 && isTimeout(err) {
				break // the other one would be waited for as long
			}
			continue
		}
		if !cors {
			p.diagnose("discovery-no-cors", "https://%s%s comes without Access-Control-Allow-Origin: web clients on other origins can't read it (XEP-0156, section 3)", host, path)
		}
		for _, u := range found {
			if !slices.Contains(urls, u) {
				urls = append(urls, u)
			}
		}
	}
	p.report.Discovery = urls
	switch {
	case len(failures) == 2 || len(failures) == 1 && len(urls) == 0:
		p.diagnose("discovery-missing", "clients that know only %s find no WebSocket: %s", p.Domain, failures[0])
	case len(urls) == 0:
		p.diagnose("discovery-missing", "the documents of https://%s%s name no WebSocket", host, xrd)
	case !slices.ContainsFunc(urls, p.isOurs):
		p.diagnose("discovery-other-url", "the documents of https://%s%s name %s, and not %s", host, xrd, quoteAll(urls), p.url)
	}
	s.Facts = append(s.Facts, urls...)
	return nil
}

// document returns the WebSocket URLs of a document, and whether pages of other origins
// may read it.
func (p *prober) document(ctx context.Context, client *http.Client, from string) (urls []string, cors bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, false, err
	}
	const origin = "https://wssgate-probe.invalid"
	req.Header.Set("Origin", origin)
	req.Header.Set("User-Agent", "wssgate-probe")
	resp, err := client.Do(req)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", from, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, false, fmt.Errorf("%s answers %s", from, printable([]byte(resp.Status)))
	}
	allowed := resp.Header.Get("Access-Control-Allow-Origin")
	var links []xmpp.Link
	if strings.HasSuffix(from, ".json") {
		var doc struct{ Links []xmpp.Link }
		err, links = json.Unmarshal(body, &doc), doc.Links
	} else {
		var doc struct {
			Links []struct {
				Rel  string `xml:"rel,attr"`
				Href string `xml:"href,attr"`
			} `xml:"Link"`
		}
		err = xml.Unmarshal(body, &doc)
		for _, l := range doc.Links {
			links = append(links, xmpp.Link{Rel: l.Rel, Href: l.Href})
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("%s: %s", from, printable([]byte(err.Error())))
	}
	for _, l := range links {
		if l.Rel == xmpp.RelWebSocket {
			urls = append(urls, printable([]byte(l.Href)))
		}
	}
	return urls, allowed == "*" || allowed == origin, nil
}

// isOurs reports whether a URL leads where the probe went. Its path may differ: a gate
// takes any, and has its own for the server. With Options.Connect its port may be that
// one.
func (p *prober) isOurs(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "wss" || !strings.EqualFold(strings.TrimSuffix(u.Hostname(), "."), p.url.Hostname()) {
		return false
	}
	port := func(u *url.URL) string { return cmp.Or(u.Port(), "443") }
	_, connected, _ := net.SplitHostPort(p.addr)
	return port(u) == port(p.url) || p.Connect != "" && port(u) == connected
}
