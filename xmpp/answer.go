package xmpp

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
)

// maxAnswer is how many bytes of an upstream's answer are looked at. The
// verdict is found in the first 500; features, which may be longer, are known
// by their name. Each message with a '>' has them all parsed again, so that an
// upstream that sends nothing else, byte by byte, costs 4096 such parses.
const maxAnswer = 4 << 10

// Verdict is what an upstream's first messages mean.
type Verdict uint8

const (
	Undecided  Verdict = iota // more is needed
	Accepted                  // the stream goes on; or this is nothing that the gate understands
	Redirected                // Answer.SeeOther says where to
	Refused                   // a stream error, Answer.Condition
	Closed                    // closed at once, without a word
)

// Answer is what an upstream's first messages said.
type Answer struct {
	Verdict   Verdict
	Open      Open      // the upstream's opening, zero where it sent none
	Condition Condition // of a stream error
	SeeOther  string    // where a redirect points, as the upstream wrote it: see [ParseTarget]
}

// Stream is for answering the client in the upstream's place, as though the
// upstream's opening had not been sent: hold back what the upstream wrote and
// send s.Redirect(url) or s.Close() instead. Nothing but the attributes of the
// opening is taken over, so that no inner address can leak.
func (a Answer) Stream(client Framing) Stream {
	o := a.Open
	return Stream{Framing: client, From: o.From, To: o.To, ID: o.ID, Lang: o.Lang}
}

// AnswerReader reads an upstream's first messages after its client's opening,
// until it is clear whether the stream goes on. Elements may share a message
// or, in the older draft, stretch over several.
//
// Hold the messages back until Feed gives a verdict; on Accepted, Refused and
// Closed let them pass as they are. The upstream is believed more than a client
// is: what is not understood, not XML, or too long is Accepted, for it is the
// client's to judge. The zero value is ready. It is for one stream.
type AnswerReader struct {
	buf    []byte
	answer Answer
}

// Feed reads the next payload, which it does not keep. The verdict is Undecided
// where more is needed; any other one is final, and repeated.
func (r *AnswerReader) Feed(payload []byte) Answer {
	if r.answer.Verdict != Undecided {
		return r.answer
	}
	fits := min(len(payload), maxAnswer-len(r.buf))
	r.buf = append(r.buf, payload[:fits]...)
	if bytes.IndexByte(payload[:fits], '>') >= 0 {
		// Nothing else completes a tag; what comes after the last one is left for
		// later, so that the verdict does not depend on how the bytes are cut.
		p := answerParser{d: xml.NewDecoder(bytes.NewReader(r.buf[:bytes.LastIndexByte(r.buf, '>')+1]))}
		p.d.Strict = false // a bare '&' in an address must not smuggle it past us
		verdict, err := p.run()
		if err != nil && !isTruncated(err) {
			verdict = Accepted
		}
		r.answer = p.answer
		r.answer.Verdict = verdict
	}
	if r.answer.Verdict == Undecided && fits < len(payload) {
		r.answer.Verdict = Accepted
	}
	if r.answer.Verdict != Undecided {
		r.buf = nil
	}
	return r.answer
}

// isTruncated reports whether encoding/xml only ran out of bytes.
func isTruncated(err error) bool {
	var syntax *xml.SyntaxError
	return errors.Is(err, io.EOF) || errors.As(err, &syntax) && syntax.Msg == "unexpected EOF"
}

type answerParser struct {
	d      *xml.Decoder
	answer Answer
}

// run reads the opening and the one element behind it. Each element's name
// decides, except that an error is read to its end.
func (p *answerParser) run() (Verdict, error) {
	opened := false
	for {
		t, err := p.d.Token()
		if err != nil {
			return Undecided, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			switch {
			case isOpening(t.Name) && !opened:
				opened = true
				o := &p.answer.Open
				o.set(t.Attr, nsXML)
				o.Len = int(p.d.InputOffset())
				if t.Name.Local == "stream" {
					o.Framing = OlderDraft
				}
			case t.Name == xml.Name{Space: nsFraming, Local: "close"}:
				for _, a := range t.Attr {
					if a.Name.Local == "see-other-uri" && a.Name.Space == "" && a.Value != "" {
						p.answer.SeeOther, p.answer.Condition = a.Value, SeeOtherHost
						return Redirected, nil
					}
				}
				return Closed, nil
			case isStream(t.Name, "error"):
				return p.streamError()
			default:
				return Accepted, nil
			}
		case xml.EndElement:
			if isStream(t.Name, "stream") {
				return Closed, nil
			}
		}
	}
}

// streamError reads the inside of <stream:error> up to its end tag.
func (p *answerParser) streamError() (Verdict, error) {
	depth, text := 0, strings.Builder{}
	for {
		t, err := p.d.Token()
		if err != nil {
			return Undecided, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			depth++
			if depth == 1 && t.Name.Space == nsErrors && t.Name.Local != "text" && p.answer.Condition == "" {
				p.answer.Condition = Condition(t.Name.Local)
				text.Reset()
			}
		case xml.CharData:
			if depth == 1 {
				text.Write(t)
			}
		case xml.EndElement:
			depth--
			if depth == 0 && t.Name.Local == string(SeeOtherHost) {
				p.answer.SeeOther = strings.TrimSpace(text.String())
			}
			if depth >= 0 {
				continue
			}
			if p.answer.Condition == SeeOtherHost {
				return Redirected, nil
			}
			return Refused, nil
		}
	}
}

func isOpening(n xml.Name) bool {
	return n == xml.Name{Space: nsFraming, Local: "open"} || isStream(n, "stream")
}

// isStream reports whether n is the element local of the streams namespace.
// Some servers forget to declare the prefix in RFC 7395's framing, and then
// encoding/xml gives the prefix as the namespace.
func isStream(n xml.Name, local string) bool {
	return n.Local == local && (n.Space == nsStreams || n.Space == "stream")
}
