package xmpp

import (
	"regexp"
	"strings"
	"testing"
)

func shapeOf(s string) string {
	var shape Shape
	return string(shape.Feed(nil, []byte(s)))
}

// Names and words of the protocol stay; content does not.
func TestShape(t *testing.T) {
	for in, want := range map[string]string{
		"": "",
		"<message xmlns='jabber:client' to='romeo@example.net' type=\"chat\"><body>meet me\nat 8</body></message>": "<message xmlns='jabber:client' to='…' type='chat'><body>…</body></message>",
		"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldABzM2NyM3Q=</auth>":             "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>…</auth>",
		"<presence/>":                  "<presence/>",
		"<a  b = 'c'   />":             "<a b='…'/>",
		"<iq type='julia'/>":           "<iq type='…'/>",
		"<x xmlns='jabber:s3cr3t w'/>": "<x xmlns='…'/>",
		"<x xmlns='http://evil/'/>":    "<x xmlns='…'/>",
		"<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>": "<?…?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>",
		"{\"password\": \"a\"}":                          "…",
		"<body>a < password b</body>":                    "<body>……",
		"<body>a <password b</body>":                     "<body>……",
		"<body>I <3 you</body>":                          "<body>……",
		"<body><![CDATA[<secret/>]]></body>":             "<body>…",
		"<!-- <secret/> -->":                             "…",
		"<a b=secret/>":                                  "…",
		"<a b='<secret/>'/>":                             "…",
		"</a secret>":                                    "…",
		"hello <secret/>":                                "…",
		"<a/> hello <secret/>":                           "<a/>…",
		"</secret>":                                      "…",
		"<a></secret><secret/>":                          "<a>…",
		"<a><b></a><secret/>":                            "<a><b>…",
		"<ab></b><secret/>":                              "<ab>…",
		"<a><b/></a><c>t</c>":                            "<a><b/></a><c>…</c>",
		"<a>" + strings.Repeat("x y ", 999) + "</a><b>t": "<a>…</a><b>…",
		"</stream:stream>":                               "</stream:stream>",
		"<stream:stream>hello<a/>":                       "<stream:stream>…<a/>",
		"<x xmlns='urn:xmpp:secret'/>":                   "<x xmlns='…'/>",
		"<x xmlns='jabber:client:secret'/>":              "<x xmlns='…'/>",
		"<x xmlns='urn:xmpp:sm:3'/>":                     "<x xmlns='urn:xmpp:sm:3'/>",
		strings.Repeat("<a>", 3000) + "<secret>":         strings.Repeat("<a>", 2048) + "…",
		"<a/secret>":                                     "…",
		"<secret":                                        "",
		"<sécret/>":                                      "…",
		"<" + strings.Repeat("s", 65) + ">":              "…",
		"<a b='" + strings.Repeat("x", 5000) + "'>t</a>": "<a b='…'>…</a>",
	} {
		if got := shapeOf(in); got != want {
			t.Errorf("the shape of %q is %q; want %q", in, got, want)
		}
	}
}

// The shape consists of names and known words, regardless of the boundaries between
// pieces.
func FuzzShape(f *testing.F) {
	f.Add("<message to='a' type='chat'><body>hello</body></message>", 3)
	f.Add("<?xml ?><a b=\"c\"/><![CDATA[", 1)
	f.Add("<a xmlns='urn:xmpp:'>&amp;</a>", 7)
	name := `[A-Za-z_][A-Za-z_0-9:.-]*`
	ok := regexp.MustCompile(`^(…|<\?…\?>|</?` + name + `( ` + name + `='(…|[A-Za-z0-9:._/#+-]*)')*/?>)*$`)
	f.Fuzz(func(t *testing.T, s string, cut int) {
		whole := shapeOf(s)
		if !ok.MatchString(whole) {
			t.Errorf("the shape of %q is %q", s, whole)
		}
		var shape Shape
		cut = min(max(cut, 0), len(s))
		if parts := string(shape.Feed(shape.Feed(nil, []byte(s[:cut])), []byte(s[cut:]))); parts != whole {
			t.Errorf("the shape of %q in parts is %q; want %q", s, parts, whole)
		}
		for _, m := range regexp.MustCompile(`='([^']*)'`).FindAllStringSubmatch(whole, -1) {
			known := m[1] == "…"
			for attribute := range shapeWords {
				known = known || shapeShows(attribute, m[1])
			}
			if !known && !shapeShows("xmlns", m[1]) {
				t.Errorf("the shape of %q shows the value %q", s, m[1])
			}
		}
	})
}
