package xmpp

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
)

// Relations of the links in host-meta (XEP-0156, section 3).
const (
	RelWebSocket = "urn:xmpp:alt-connections:websocket"
	RelBOSH      = "urn:xmpp:alt-connections:xbosh"
)

// Content types of what [Discovery] writes. Serve each of them with
// Access-Control-Allow-Origin: * (XEP-0156, section 3).
const (
	TypeXRD  = "application/xrd+xml; charset=utf-8" // /.well-known/host-meta (RFC 6415, section 2)
	TypeJSON = "application/json"                   // host-meta.json (RFC 6415, section 3), nodes.json
)

// Link is an additional link of a host-meta document.
type Link struct {
	Rel  string `json:"rel"`
	Href string `json:"href"`
}

// Discovery lists where clients may open a domain's streams. Its methods may be called
// concurrently while nothing changes the fields. Each call shuffles the nodes, so that
// clients that use the first one spread evenly.
type Discovery struct {
	WebSocket []string // public wss URLs: the gate's own, or one per node
	Links     []Link   // additional links, listed after WebSocket in this order
}

// XRD writes host-meta.
func (d Discovery) XRD() []byte {
	var b bytes.Buffer
	b.WriteString("<?xml version='1.0' encoding='utf-8'?>\n" +
		"<XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>\n")
	for _, l := range d.links() {
		b.WriteString("  <Link")
		attr(&b, "rel", l.Rel)
		attr(&b, "href", l.Href)
		b.WriteString("/>\n")
	}
	b.WriteString("</XRD>\n")
	return b.Bytes()
}

// JRD writes host-meta.json.
func (d Discovery) JRD() []byte {
	return toJSON(struct {
		Links []Link `json:"links"`
	}{d.links()})
}

// Nodes writes nodes.json: the URLs of WebSocket as a list of strings.
func (d Discovery) Nodes() []byte {
	return toJSON(d.shuffled())
}

func (d Discovery) links() []Link {
	links := make([]Link, 0, len(d.WebSocket)+len(d.Links))
	for _, url := range d.shuffled() {
		links = append(links, Link{RelWebSocket, url})
	}
	return append(links, d.Links...)
}

// shuffled never returns nil, which JSON would encode as null.
func (d Discovery) shuffled() []string {
	urls := append([]string{}, d.WebSocket...)
	rand.Shuffle(len(urls), func(i, j int) { urls[i], urls[j] = urls[j], urls[i] })
	return urls
}

// toJSON adds a newline and does not escape '&' in URLs.
func toJSON(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("xmpp: " + err.Error()) // strings and structs of strings only
	}
	return b.Bytes()
}
