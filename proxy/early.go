package proxy

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// An earlyConn is a client's socket below crypto/tls, until the connection becomes a
// tunnel.
//
// It passes only complete records to crypto/tls, and first the complete ClientHello.
// Until a record is complete it costs only the bytes that have arrived, whereas
// crypto/tls allocates a record as soon as five bytes declare its length. It never
// reads more from the socket than crypto/tls needs, because the event loop gets the
// bare socket later; so nothing is left here when crypto/tls has what it asked for.
//
// The handshake releases its slot while a record is incomplete.
//
// One goroutine uses it at a time.
type earlyConn struct {
	net.Conn
	client    *clientConn
	door      *door
	raw       syscall.RawConn // nil if the connection has no descriptor
	got       []byte          // of the records being collected
	charged   int             // bytes of got that the price includes
	whole     []byte          // part of got that crypto/tls has not read yet
	last      bool            // nothing may follow whole: it is not a ClientHello
	heard     bool            // the client has sent something, after a PROXY header if there is one
	records   int             // of the current request
	bytes     int             // in them
	computing bool            // crypto/tls does the handshake
	paused    bool            // the slot was released
	nameless  bool            // the server name has no certificate
	name      string          // that server name, as the client sent it

	echOffer   *echOffer // nil: none, or ECH is off
	echDecided bool      // crypto/tls has looked for a key
	echOutside bool      // the server name in the clear is the public name
}

const (
	// recordShare is how much data pays for a TLS record that it comes in. A record
	// takes a microsecond or two here, however little is in it.
	recordShare = 256 // bytes

	recordHeader = 5 // bytes: type, version, length (RFC 8446, section 5.1)

	// maxHello bounds a ClientHello including the headers of its records. Those of
	// browsers, with a post-quantum key share, stay under 2 KiB.
	maxHello = 16 << 10 // bytes

	// maxRecord is the longest record that crypto/tls reads: TLS 1.2's.
	maxRecord = 16<<10 + 2048 // bytes, without the header

	// freeBytes is how many bytes the price of a phase includes.
	freeBytes = 4 << 10

	// maxRecords is how many TLS records a request may have, in addition to one per
	// recordShare bytes. A client that writes each piece of each header field
	// separately needs a hundred; one that sends single bytes, or KeyUpdates, would
	// make us compute much for little.
	maxRecords = 512
)

var (
	errLongHello   = errors.New("ClientHello over 16 KiB")
	errManyRecords = errors.New("request in too many TLS records")
)

// collectHello reads the client's first records until its ClientHello is complete. It
// leaves invalid ones to crypto/tls, which knows the right alert.
func (e *earlyConn) collectHello() error {
	var head [4]byte // message type and length
	message := head[:0]
	for total := 0; ; {
		at := len(e.got)
		if err := e.collect(at + recordHeader); err != nil {
			return err
		}
		header := e.got[at:]
		n := int(binary.BigEndian.Uint16(header[3:]))
		const handshake, major = 22, 3
		if header[0] != handshake || header[1] != major || n == 0 || n > maxRecord {
			e.last = true
			break
		}
		if at+recordHeader+n > maxHello {
			return errLongHello
		}
		if err := e.collect(at + recordHeader + n); err != nil {
			return err
		}
		total += n
		payload := e.got[at+recordHeader:]
		message = append(message, payload[:min(len(head)-len(message), n)]...)
		if len(message) < len(head) {
			continue
		}
		length := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
		if length > maxHello {
			return errLongHello
		}
		const clientHello = 1
		if e.last = message[0] != clientHello; e.last || total >= len(head)+length {
			break
		}
	}
	e.whole = e.got
	return nil
}

// Read implements net.Conn for crypto/tls.
func (e *earlyConn) Read(b []byte) (int, error) {
	if len(e.whole) == 0 {
		if e.last {
			return 0, io.ErrUnexpectedEOF
		}
		if err := e.collectRecord(); err != nil {
			return 0, err
		}
	}
	n := copy(b, e.whole)
	if e.whole = e.whole[n:]; len(e.whole) == 0 {
		if e.charged > freeBytes {
			e.door.shrinks(&e.client.visit, int64(e.charged-freeBytes))
		}
		e.got, e.whole, e.charged = nil, nil, 0
	}
	return n, nil
}

func (e *earlyConn) collectRecord() error {
	if err := e.afterTLS(); err != nil {
		return err
	}
	if err := e.collect(recordHeader); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint16(e.got[3:]))
	e.bytes += n
	if n <= maxRecord { // otherwise crypto/tls rejects the header
		if err := e.collect(recordHeader + n); err != nil {
			return err
		}
	}
	if e.paused {
		if err := e.door.resume(&e.client.visit); err != nil {
			return err
		}
		e.paused = false
	}
	e.whole = e.got
	return nil
}

// afterTLS checks, between two records, how a client uses TLS after the handshake.
func (e *earlyConn) afterTLS() error {
	if e.computing || e.client.tls == nil {
		return nil
	}
	e.records++
	switch {
	case unfinished(e.client.tls) > maxUnfinished:
		return errHandshakeMessage
	case e.records > maxRecords+e.bytes/recordShare:
		return errManyRecords
	}
	return nil
}

// collect reads until got has size bytes, and never more.
func (e *earlyConn) collect(size int) (err error) {
	for len(e.got) < size {
		e.got, err = e.readSome(e.got, size-len(e.got), e.wait)
		if err != nil {
			return err
		}
		e.hear()
		if len(e.got) <= freeBytes {
			e.charged = freeBytes
			continue
		}
		if err := e.door.grows(&e.client.visit, int64(len(e.got)-e.charged)); err != nil {
			return err
		}
		e.charged = len(e.got)
	}
	return nil
}

// scratches are temporary buffers for reading from sockets.
var scratches = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// readSome waits for data and appends at most the given number of bytes to b. It holds
// no buffer while it waits; it calls idle before that, perhaps more than once. An error
// comes without bytes: io.EOF at the end.
func (e *earlyConn) readSome(b []byte, most int, idle func()) ([]byte, error) {
	if e.raw == nil {
		idle()
		var few [512]byte
		n, err := e.Conn.Read(few[:min(most, len(few))])
		if n > 0 {
			err = nil // it will be returned again
		}
		return append(b, few[:n]...), err
	}
	before := len(b)
	var err error
	waited := e.raw.Read(func(fd uintptr) bool {
		scratch := scratches.Get().(*[4 << 10]byte)
		defer scratches.Put(scratch)
		n, again, readErr := readNow(fd, scratch[:min(most, len(scratch))])
		b, err = append(b, scratch[:n]...), readErr
		if again {
			idle()
		}
		return !again
	})
	switch {
	case waited != nil:
		return b, waited
	case err == nil && len(b) == before:
		return b, io.EOF
	}
	return b, err
}

// hear records the arrival of the client's first bytes.
func (e *earlyConn) hear() {
	if !e.heard {
		e.heard = true
		e.door.speaks(&e.client.visit)
	}
}

// wait is called before waiting for the client.
func (e *earlyConn) wait() {
	switch d := e.door; {
	case e.client.visit.coming:
		d.waits(&e.client.visit)
	case e.computing && !e.paused:
		e.paused = true
		dropHand(e.client.tls)
		d.pause(&e.client.visit)
	}
}

// headerReader reads a PROXY header.
type headerReader struct{ *earlyConn }

func (r headerReader) Read(b []byte) (int, error) {
	got, err := r.readSome(b[:0], len(b), r.wait)
	if len(got) > 0 {
		r.hear()
	}
	return len(got), err
}

// Write replaces the alert for a name without a certificate: before it has computed
// anything, crypto/tls can only send internal_error, where RFC 6066, section 3,
// requires unrecognized_name.
func (e *earlyConn) Write(b []byte) (int, error) {
	if e.nameless {
		const alert, fatal, unrecognizedName = 21, 2, 112
		if _, err := e.Conn.Write([]byte{alert, 3, 3, 0, 2, fatal, unrecognizedName}); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	return e.Conn.Write(b)
}

// earlyOf returns the connection of a ClientHello.
func earlyOf(hello *tls.ClientHelloInfo) *earlyConn {
	return hello.Conn.(*sock).conn.(*earlyConn)
}
