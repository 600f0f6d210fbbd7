package proxy

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A start tag is due ten seconds after the 101, even if a byte arrives each second.
func TestStartTagIsDue(t *testing.T) {
	vhost := someVhost(t)
	for _, slow := range []string{"", "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'"} {
		synctest.Test(t, func(t *testing.T) {
			client, clientGate := net.Pipe()
			b := &bench{t: t, loops: newTestLoops(t), client: client, done: make(chan struct{})}
			b.tunnel = &tunnel{
				settings: &tunnelSettings{backlog: 1 << 20},
				info:     &tunnelInfo{vhost: vhost, elsewhere: "wss://other.example/"}, // sent after its start tag
				client:   leg{sock: &sock{conn: clientGate}, scan: scanner{fromClient: true, limit: 1 << 20, keep: 1}},
				upstream: upstreamLeg(nil),
				onDone:   func(*tunnel, time.Duration) { close(b.done) },
			}
			began := time.Now()
			if err := b.loops.take(b.tunnel); err != nil {
				t.Fatal(err)
			}
			wrote := make(chan struct{})
			go func() {
				defer close(wrote)
				for i := range len(slow) {
					h := header{opcode: opContinuation, masked: true, key: testKey, length: 1}
					if i == 0 {
						h.opcode = opText
					}
					one := []byte{slow[i]}
					applyMask(one, testKey, 0)
					if _, err := client.Write(append(appendHeader(nil, h), one...)); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			var words string
			for {
				h, payload, err := b.frame(client)
				if err != nil {
					t.Fatal(err)
				}
				if h.opcode == opClose {
					if code := closeCode(h, payload); code != codeNormal {
						t.Errorf("Close %d; want 1000", code)
					}
					break
				}
				words += string(payload)
			}
			if took := time.Since(began); took != greetingTimeout {
				t.Errorf("the gate waited %v; want %v", took, greetingTimeout)
			}
			if !strings.Contains(words, "<connection-timeout ") || !strings.Contains(words, "<close ") {
				t.Errorf("last words %q; want connection-timeout", words)
			}
			client.Close()
			b.loops.close()
			<-b.done
			<-wrote
		})
	}
}

// Outside of XMPP, a start tag is due ten seconds after its beginning; a client may
// stay silent.
func TestStartTagIsDueOnceBegun(t *testing.T) {
	vhost := someVhost(t)
	inBubble(t, tunnelSettings{}, func(b *bench) {
		b.do(func(*turn) { b.tunnel.info, b.tunnel.stage = &tunnelInfo{vhost: vhost}, stageAwaited })
		go func() { // the input of the upstream
			buf := make([]byte, 1000)
			for {
				if _, err := b.upstream.Read(buf); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Hour)
		began := time.Now()
		b.send(b.client, opText, "<open xmlns=")
		var words string
		for {
			h, payload, err := b.frame(b.client)
			if err != nil {
				t.Fatal(err)
			}
			if h.opcode == opClose {
				break
			}
			words += string(payload)
		}
		if took := time.Since(began); took != greetingTimeout {
			t.Errorf("the gate waited %v; want %v", took, greetingTimeout)
		}
		if !strings.Contains(words, "<connection-timeout ") {
			t.Errorf("last words %q; want connection-timeout", words)
		}
		b.send(b.client, opClose, "\x03\xe8")
		b.wantReason(reasonNoStream)
	})
}

// A client that sends Pings before there is an upstream, and does not read the Pongs,
// is slow: they must not accumulate.
func TestPingsBeforeUpstreamAreBounded(t *testing.T) {
	vhost := someVhost(t)
	synctest.Test(t, func(t *testing.T) {
		client, clientGate := net.Pipe()
		b := &bench{t: t, loops: newTestLoops(t), client: client, done: make(chan struct{})}
		b.tunnel = &tunnel{
			settings: &tunnelSettings{backlog: 16 << 10},
			info:     &tunnelInfo{vhost: vhost, elsewhere: "wss://other.example/"},
			client:   leg{sock: &sock{conn: clientGate}, scan: scanner{fromClient: true, limit: 1 << 20, keep: 1}},
			upstream: upstreamLeg(nil),
			onDone:   func(*tunnel, time.Duration) { close(b.done) },
		}
		if err := b.loops.take(b.tunnel); err != nil {
			t.Fatal(err)
		}
		ping := appendFrame(nil, opPing, make([]byte, maxControl), &testKey)
		for range 200 { // 25 KiB in less than the time for a start tag
			if _, err := client.Write(ping); err != nil {
				t.Fatal(err)
			}
		}
		b.wantReason(reasonSlowClient)
		client.Close()
		b.loops.close()
	})
}
