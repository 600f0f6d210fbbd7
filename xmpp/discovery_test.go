package xmpp

import (
	"encoding/json"
	"encoding/xml"
	"reflect"
	"slices"
	"testing"
)

var discovery = Discovery{
	WebSocket: []string{"wss://t1.example1.com:5291/?a=1&b='", "wss://t2.example1.com:5291/", "wss://t3.example1.com:5291/"},
	Links:     []Link{{RelBOSH, "https://example1.com/http-bind"}, {"lrdd", "https://example1.com/<x>"}},
}

// check expects the nodes first, in any order, then the additional links in their
// order.
func check(t *testing.T, what string, links []Link) {
	t.Helper()
	n := len(discovery.WebSocket)
	if len(links) != n+len(discovery.Links) {
		t.Fatalf("%s has %d links: %v", what, len(links), links)
	}
	var urls []string
	for _, l := range links[:n] {
		if l.Rel != RelWebSocket {
			t.Errorf("%s: link %v; want a WebSocket", what, l)
		}
		urls = append(urls, l.Href)
	}
	if slices.Sort(urls); !slices.Equal(urls, discovery.WebSocket) {
		t.Errorf("%s: nodes %q; want %q", what, urls, discovery.WebSocket)
	}
	if !reflect.DeepEqual(links[n:], discovery.Links) {
		t.Errorf("%s: further links %v; want %v", what, links[n:], discovery.Links)
	}
}

func TestDiscoveryXRD(t *testing.T) {
	var doc struct {
		XMLName xml.Name `xml:"http://docs.oasis-open.org/ns/xri/xrd-1.0 XRD"`
		Links   []struct {
			Rel  string `xml:"rel,attr"`
			Href string `xml:"href,attr"`
		} `xml:"Link"`
	}
	if err := xml.Unmarshal(discovery.XRD(), &doc); err != nil {
		t.Fatal(err)
	}
	var links []Link
	for _, l := range doc.Links {
		links = append(links, Link(l))
	}
	check(t, "host-meta", links)
}

func TestDiscoveryJRD(t *testing.T) {
	var doc struct{ Links []Link }
	if err := json.Unmarshal(discovery.JRD(), &doc); err != nil {
		t.Fatal(err)
	}
	check(t, "host-meta.json", doc.Links)
}

func TestDiscoveryNodes(t *testing.T) {
	var urls []string
	if err := json.Unmarshal(discovery.Nodes(), &urls); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(urls); !slices.Equal(urls, discovery.WebSocket) {
		t.Errorf("nodes.json = %q; want %q", urls, discovery.WebSocket)
	}
}

// An empty list is encoded as a list.
func TestDiscoveryEmpty(t *testing.T) {
	var d Discovery
	if got := string(d.Nodes()); got != "[]\n" {
		t.Errorf("Nodes() = %q; want []", got)
	}
	if got := string(d.JRD()); got != `{"links":[]}`+"\n" {
		t.Errorf("JRD() = %q; want an empty list", got)
	}
}

// Clients that use the first node spread over all of them, and the fields keep their
// order.
func TestDiscoveryShuffles(t *testing.T) {
	before := slices.Clone(discovery.WebSocket)
	first := map[string]bool{}
	for range 200 { // probability that one never comes first: (2/3)^200, less than 10^-35
		var urls []string
		if err := json.Unmarshal(discovery.Nodes(), &urls); err != nil {
			t.Fatal(err)
		}
		first[urls[0]] = true
	}
	if len(first) != len(before) {
		t.Errorf("%v come first; want each of %d nodes", first, len(before))
	}
	if !slices.Equal(before, discovery.WebSocket) {
		t.Errorf("the field is now %q; want %q", discovery.WebSocket, before)
	}
}
