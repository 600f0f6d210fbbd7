package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
)

// answerPlainHTTP answers a client if its handshake failed because it speaks HTTP without
// TLS.
func (c *clientConn) answerPlainHTTP(handshake error) {
	record, ok := errors.AsType[tls.RecordHeaderError](handshake)
	if !ok || record.Conn == nil || !beginsRequest(string(record.RecordHeader[:])) {
		return
	}
	conn := c.sock.conn
	conn.SetDeadline(time.Now().Add(lingerTimeout))
	r := refuse(http.StatusBadRequest, "This port requires TLS. Use https:// or wss:// instead of http:// or ws://.")
	if _, err := conn.Write(r.answer()); err != nil {
		return
	}
	// A close with unread bytes is a reset, which can overtake the answer.
	io.Copy(io.Discard, io.LimitReader(conn, maxRequestHeader))
}

// beginsRequest reports whether the bytes begin an HTTP/1 request line: a method in upper
// case and a space, or the beginning of a longer method.
func beginsRequest(first string) bool {
	for _, method := range []string{"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "CONNECT ", "OPTIONS ", "TRACE ", "PATCH "} {
		if strings.HasPrefix(first, method) || strings.HasPrefix(method, first) {
			return true
		}
	}
	return false
}
