package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"wssgate/fair"
	"wssgate/xmpp"
)

// maxLoginAnswer is the part of a BOSH answer with a declared length that is inspected
// before any of it is sent. The rest, and answers without a length, are inspected as
// they pass.
const maxLoginAnswer = 16 << 10 // bytes

// loginsKey finds a request's loginsOf in its context.
type loginsKey struct{}

// loginsOf counts the logins of one request.
type loginsOf struct {
	logins  Logins
	request *http.Request // the client's
	asked   *askedLogins
	sid     string // empty: no session yet
	tries   bool   // the request may contain a step of a login
}

// session sets the session of the request.
func (of *loginsOf) session(sid string) {
	of.sid = sid
	of.asked.touch(sid)
}

// asks records that the request starts n logins of jabber:iq:auth, and reports whether
// there was room.
func (of *loginsOf) asks(n int) bool {
	return of.asked.add(of.sid, fair.OwnerOf(of.request.RemoteAddr), n)
}

// A refusedError replaces an answer that its client must not get.
type refusedError struct{ banned time.Duration }

func (e *refusedError) Error() string { return "too many failed logins" }

// judgeLogins looks for the end of a login in an answer.
func (b *bosh) judgeLogins(resp *http.Response) error {
	of, ok := resp.Request.Context().Value(loginsKey{}).(*loginsOf)
	if !ok || resp.Body == nil || resp.Body == http.NoBody || resp.ContentLength == 0 {
		return nil
	}
	body := &loginBody{ReadCloser: resp.Body, of: of, ctx: resp.Request.Context()}
	body.reader.Tried = of.tries
	body.reader.Asked = func() bool { return of.asked.take(of.sid) }
	var head bytes.Buffer
	var err error
	if n := resp.ContentLength; n > 0 {
		_, err = io.CopyN(&head, resp.Body, min(n, maxLoginAnswer))
	} else {
		var n int
		first := make([]byte, 4<<10)
		n, err = resp.Body.Read(first)
		head.Write(first[:n])
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
	case err != nil:
		return err
	}
	banned, err := body.judge(head.Bytes())
	switch {
	case err != nil:
		return err
	case banned > 0:
		return &refusedError{banned}
	}
	body.first = head.Bytes()
	resp.Body = body
	return nil
}

// A loginBody is the body of an answer, inspected as it is read.
type loginBody struct {
	io.ReadCloser
	of     *loginsOf
	ctx    context.Context
	first  []byte // already read and inspected
	reader xmpp.LoginReader
	failed int // failures that have been counted
	ended  bool
}

func (l *loginBody) Read(p []byte) (n int, err error) {
	if len(l.first) > 0 {
		n = copy(p, l.first)
		l.first = l.first[n:]
		return n, nil
	}
	n, err = l.ReadCloser.Read(p)
	if banned, judged := l.judge(p[:n]); judged != nil || banned > 0 {
		// The header has been sent, so the connection ends in the middle of the answer.
		return 0, &refusedError{banned}
	}
	return n, err
}

// judge inspects more of the body, and waits if its client is slowed down.
func (l *loginBody) judge(b []byte) (banned time.Duration, err error) {
	if l.ended {
		return 0, nil
	}
	l.reader.Feed(b)
	if l.reader.In {
		l.of.asked.drop(l.of.sid)
	}
	failed := l.reader.Failed - l.failed
	if failed == 0 && !l.reader.Succeeded {
		return 0, nil
	}
	l.failed, l.ended = l.reader.Failed, l.reader.In
	slow, banned := l.of.logins.LoginsEnded(l.of.request, failed)
	if banned > 0 || slow == 0 {
		return banned, nil
	}
	wait := time.NewTimer(slow)
	defer wait.Stop()
	select {
	case <-wait.C:
		return 0, nil
	case <-l.ctx.Done():
		return 0, l.ctx.Err()
	}
}

// loginsRefused answers a client whose address is refused. BOSH clients read 403 as
// policy-violation (XEP-0124, section 17.1).
func loginsRefused(w http.ResponseWriter, banned time.Duration) {
	seconds := int((banned + time.Second - 1) / time.Second)
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	http.Error(w, fmt.Sprintf("403 Forbidden\n\nToo many logins from this address failed. Try again in %d seconds.", seconds), http.StatusForbidden)
}
