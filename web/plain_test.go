package web

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipeListener accepts one end of a pipe, once.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.done); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// A client that sends nothing, too little or too much on plain HTTP has little time.
func TestPlainServerPatience(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: example1.com\r\n"
	for _, tt := range []struct {
		what, text string
		want       time.Duration
	}{
		{"silence", "", 5 * time.Second},
		{"half a header", head, 5 * time.Second},
		{"half a body", head + "Content-Length: 5\r\n\r\nab", 10 * time.Second},
		{"a request", head + "\r\n", 0},
		{"a header of 20 KiB", head + "X: " + strings.Repeat("x", 20<<10), 500 * time.Millisecond}, // net/http's linger
	} {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := &pipeListener{make(chan net.Conn, 1), make(chan struct{})}
				client, server := net.Pipe()
				defer client.Close()
				ln.conns <- server
				plain := NewPlainServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
				}), slog.New(slog.DiscardHandler))
				ended := make(chan struct{})
				go func() {
					plain.Serve(ln)
					close(ended)
				}()
				start := time.Now()
				go io.WriteString(client, tt.text)
				io.Copy(io.Discard, client)
				if took := time.Since(start); took != tt.want {
					t.Errorf("the connection lasted %v; want %v", took, tt.want)
				}
				plain.Close()
				<-ended
			})
		})
	}
}
