package xmpp

import (
	"encoding/xml"
	"errors"
	"strings"
	"testing"
)

func TestReadBody(t *testing.T) {
	for _, test := range []struct {
		in   string
		want Body
		cond Condition
	}{
		{`<body to='a.example' sid='s'/>`, Body{To: "a.example", HasTo: true, SID: "s"}, ""},
		{`<?xml version='1.0'?><body to='' rid='1'>`, Body{To: "", HasTo: true, SID: ""}, ""},
		{`<body x:to='a' xmlns:x='y'><message to='b'/></body>`, Body{}, ""},
		{`<body to='a' to='b'/>`, Body{}, NotWellFormed},
		{`<body x:to='a'/>`, Body{}, NotWellFormed},
		{`<body to='&x;'/>`, Body{}, RestrictedXML},
		{`<!DOCTYPE body><body/>`, Body{}, RestrictedXML},
		{"\xff\xfe<\x00", Body{}, UnsupportedEncoding},
		{`<body to='a'`, Body{}, NotWellFormed},
		{``, Body{}, NotWellFormed},
		{"<body to='a' sid='s'><message><body>x</body><y><![CDATA[<b>]]></y></message></body> \r\n", Body{To: "a", HasTo: true, SID: "s"}, ""},
		{`<body to='a'><message xmlns:x='y'><x:body xml:lang='b'>&amp;ü</x:body>`, Body{To: "a", HasTo: true, SID: ""}, ""},
		{`<body to='a'><message xmlns:x='y'><x:body to='b'/>`, Body{To: "a", HasTo: true}, BadFormat},
		{`<body sid='s'/><body to='b' rid='1'/>`, Body{SID: "s"}, NotWellFormed},
		{`<body sid='s'></body> <message to='b'/>`, Body{SID: "s"}, NotWellFormed},
		{`<body sid='s'/><body to='b'`, Body{SID: "s"}, NotWellFormed},
		{`<body sid='s'/>x`, Body{SID: "s"}, NotWellFormed},
		{`<body sid='s'></b><body to='b'/></body>`, Body{SID: "s"}, NotWellFormed},
		{`<body sid='s'><!-- </body><body to='b'/> --></body>`, Body{SID: "s"}, RestrictedXML},
		{`<body sid='s'><!-- ></body><body to='b'/>`, Body{SID: "s"}, RestrictedXML},
		{`<body sid='s'><?x </body><body to='b'/>`, Body{SID: "s"}, RestrictedXML},
		{`<body sid='s'><!x </body><body to='b'/>`, Body{SID: "s"}, RestrictedXML},
		{`<body sid='s'><message to='b'`, Body{SID: "s"}, ""},
		{`<body sid='s'/><?x <body to='b'/>?>`, Body{SID: "s"}, RestrictedXML},
		{`<body sid='s'><![CDATA[</body><body to='b'/>]]></body>`, Body{SID: "s"}, RestrictedXML},
		{`<body sid='s'><x><![CDATA[<br/></x></body><body to='b'/>]]></x></body>`, Body{SID: "s"}, RestrictedXML},
		{`<body sid='s'><iq type='set'><query xmlns='jabber:iq:auth'><username/></query></iq></body>`, Body{SID: "s", IQAuth: 1}, ""},
		{`<body sid='s'><iq/><iq type='get'><query xmlns='jabber&#x3a;iq:&#97;uth'/></iq><iq xmlns:a='jabber:iq:auth'><a:query/>`, Body{SID: "s", IQAuth: 2}, ""},
		{`<body sid='s' xmlns:a='jabber:iq:auth'><x><a:query/></x></body>`, Body{SID: "s", IQAuth: 1}, ""},
		{`<body sid='s'><iq><query xmlns='http://jabber.org/protocol/disco#info'><feature var='jabber:iq:auth'/></query></iq></body>`, Body{SID: "s"}, ""},
		{`<body sid='s'><message><x xmlns='y'><query xmlns='jabber:iq:auth'/></x><body>jabber:iq:auth</body></message></body>`, Body{SID: "s"}, ""},
		{`<body x='` + strings.Repeat("x", MaxOpen), Body{}, PolicyViolation},
	} {
		got, err := ReadBody([]byte(test.in))
		var se *StreamError
		errors.As(err, &se)
		if got != test.want || (err == nil) != (test.cond == "") || se != nil && se.Condition != test.cond {
			t.Errorf("ReadBody(%.60q) = %+v, %v; want %+v, %q", test.in, got, err, test.want, test.cond)
		}
	}
}

// ReadBodyStart returns the same, regardless of what follows the start tag.
func TestReadBodyStart(t *testing.T) {
	for _, test := range []struct {
		in   string
		want Body
		cond Condition
	}{
		{`<?xml version='1.0'?> <body sid='s&amp;' to='t'><iq><query xmlns='jabber:iq:auth'/></iq></body>`, Body{SID: "s&", To: "t", HasTo: true}, ""},
		{`<body sid='s'/><!-- <`, Body{SID: "s"}, ""},
		{`<body sid='s' sid='t'/>`, Body{}, NotWellFormed},
		{`<body sid='s'`, Body{}, NotWellFormed},
		{`<!DOCTYPE body><body/>`, Body{}, RestrictedXML},
		{"\xff\xfe<\x00", Body{}, UnsupportedEncoding},
	} {
		got, err := ReadBodyStart([]byte(test.in))
		var se *StreamError
		errors.As(err, &se)
		if got != test.want || (err == nil) != (test.cond == "") || se != nil && se.Condition != test.cond {
			t.Errorf("ReadBodyStart(%q) = %+v, %v; want %+v, %q", test.in, got, err, test.want, test.cond)
		}
	}
}

// If ReadBody accepts a body, encoding/xml reads the same attributes of the first
// element, and nothing precedes it. If MayAskIQAuth returns false, there is no such
// login.
func FuzzReadBody(f *testing.F) {
	for _, s := range []string{`<body to='a' sid='s'/>`, `<?xml version='1.0'?> <b:body xmlns:b='x' to="&#97;"/>`, `<body to='a' b:to='c' xmlns:b='d'>`,
		`<body sid='s'><iq><query xmlns='jabber&#x3A;iq:auth'/></iq></body>`, `<body><a:iq xmlns:a='jabber:iq:auth'><a:b/></a:iq>`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := ReadBody(data)
		if err != nil {
			return
		}
		if got.IQAuth > 0 && !MayAskIQAuth(data) {
			t.Fatalf("ReadBody(%q) = %+v; MayAskIQAuth says no", data, got)
		}
		got.IQAuth = 0
		if start, err := ReadBodyStart(data); err != nil || start != got {
			t.Fatalf("ReadBodyStart(%q) = %+v, %v; want %+v", data, start, err, got)
		}
		d := xml.NewDecoder(strings.NewReader(string(data)))
		for {
			token, err := d.RawToken()
			if err != nil {
				t.Fatalf("ReadBody(%q) = %+v; encoding/xml: %v", data, got, err)
			}
			start, ok := token.(xml.StartElement)
			if !ok {
				continue
			}
			var want Body
			for _, a := range start.Attr {
				if a.Name.Space == "" && a.Name.Local == "to" {
					want.To, want.HasTo = a.Value, true
				}
				if a.Name.Space == "" && a.Name.Local == "sid" {
					want.SID = a.Value
				}
			}
			if got != want {
				t.Fatalf("ReadBody(%q) = %+v; want %+v", data, got, want)
			}
			return
		}
	})
}
