package web

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"

	"wssgate/xmpp"
)

// lostBody ends a session that the server redirected to an internal address (XEP-0124,
// section 17.2).
const lostBody = `<body xmlns="http://jabber.org/protocol/httpbind" type="terminate" condition="remote-connection-failed"/>`

// hideRedirect replaces a body that redirects the client, because the address in it is
// internal and there is no public one to replace it. Redirects are see-other-uri, and a
// stream error with see-other-host.
func hideRedirect(resp *http.Response) error {
	if resp.Body == nil || resp.Body == http.NoBody || resp.ContentLength == 0 {
		return nil
	}
	head, err := readUntil(resp.Body, nil, hasStart)
	if err != nil {
		return err
	}
	elsewhere := false
	switch body, _ := xmpp.ReadBody(head); body.Condition {
	case "see-other-uri":
		elsewhere = true
	case "remote-stream-error":
		head, err = readUntil(resp.Body, head, func(b []byte) bool { return len(b) >= maxLoginAnswer })
		if err != nil {
			return err
		}
		elsewhere = bytes.Contains(head, []byte(xmpp.SeeOtherHost))
	}
	if !elsewhere {
		resp.Body = &readAhead{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
		return nil
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader([]byte(lostBody)))
	resp.ContentLength, resp.TransferEncoding, resp.Trailer = int64(len(lostBody)), nil, nil
	resp.Header.Set("Content-Length", strconv.Itoa(len(lostBody)))
	resp.Header.Del("Content-Encoding")
	return nil
}

// hasStart reports whether b has the complete start tag of a body, or can't have one.
func hasStart(b []byte) bool {
	if begins := bytes.TrimLeft(b, " \t\r\n\ufeff"); len(begins) > 0 && begins[0] != '<' || len(b) > xmpp.MaxOpen {
		return true
	}
	_, err := xmpp.ReadBody(b)
	return err == nil
}

// readUntil appends to b until enough returns true, or r ends.
func readUntil(r io.Reader, b []byte, enough func([]byte) bool) ([]byte, error) {
	for buf := make([]byte, 4<<10); !enough(b); {
		n, err := r.Read(buf)
		b = append(b, buf[:n]...)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return b, nil
		case err != nil:
			return nil, err
		}
	}
	return b, nil
}

// A readAhead is a body whose beginning has been read.
type readAhead struct {
	io.Reader
	io.Closer
}
