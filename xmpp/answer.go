package xmpp

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
)

// maxAnswer is the number of bytes of an upstream's answer that are examined. The
// verdict is found in the first 500 bytes; features, which may be longer, are
// recognized by their name. Each message with a '>' causes a new parse of all bytes so
// far, so an upstream that sends '>' byte by byte costs 4096 such parses.
const maxAnswer = 4 << 10

// Verdict is the meaning of an upstream's first messages.
type Verdict uint8

const (
	Undecided  Verdict = iota // more input is needed
	Accepted                  // the stream continues, or the gate does not understand the answer
	Redirected                // to Answer.SeeOther
	Refused                   // with a stream error, Answer.Condition
	Closed                    // closed immediately, without an error
)

// Answer is the content of an upstream's first messages.
type Answer struct {
	Verdict   Verdict
	Open      Open      // the upstream's opening; zero if it sent none
	Condition Condition // of a stream error
	SeeOther  string    // the destination of a redirect, as the upstream wrote it; see [ParseTarget]
}

// Stream returns a Stream that answers the client in place of the upstream. The caller
// must hold back what the upstream wrote and send s.Redirect(url) or s.Close() instead.
// Only the attributes of the opening are copied, so no internal address can leak.
func (a Answer) Stream(client Framing) Stream {
	o := a.Open
	return Stream{Framing: client, From: o.From, To: o.To, ID: o.ID, Lang: o.Lang}
}

// AnswerReader reads an upstream's first messages after its client's opening, until it
// is clear whether the stream continues. Elements may share a message or, in the older
// draft, span several.
//
// Hold the messages back until Feed returns a verdict. On Accepted, Refused and Closed,
// pass them on unchanged. An upstream is trusted more than a client: input that is not
// understood, not XML or too long is Accepted and left to the client. The zero value is
// ready. It is for one stream.
type AnswerReader struct {
	buf    []byte
	answer Answer
}

// Feed reads the next payload and does not keep it. The verdict is Undecided if more
// input is needed. Any other verdict is final and repeated.
func (r *AnswerReader) Feed(payload []byte) Answer {
	if r.answer.Verdict != Undecided {
		return r.answer
	}
	fits := min(len(payload), maxAnswer-len(r.buf))
	r.buf = append(r.buf, payload[:fits]...)
	if bytes.IndexByte(payload[:fits], '>') >= 0 {
		// Only '>' completes a tag. Bytes after the last one wait for the next call, so
		// that the verdict does not depend on how the bytes are cut.
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

// run reads the opening and the element after it. The name of an element decides, but
// an error is read to its end.
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

// isStream reports whether n is the element local of the streams namespace. Some
// servers do not declare the prefix in the framing of RFC 7395; encoding/xml then
// returns the prefix as the namespace.
func isStream(n xml.Name, local string) bool {
	return n.Local == local && (n.Space == nsStreams || n.Space == "stream")
}
