package proxy

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// An earlyConn is a client's socket below crypto/tls, until the connection is a
// tunnel.
//
// It hands crypto/tls whole records only, and the first time the whole
// ClientHello. Until a record is whole it costs the bytes that have come: crypto/tls
// takes room for a record as soon as five bytes declare its length. It reads from
// the socket to the byte, because the event loop gets the bare socket later; so
// nothing is left here when crypto/tls has what it asked for.
//
// While a record is not whole the handshake's slot is given back.
//
// One goroutine uses it at a time.
type earlyConn struct {
	net.Conn
	client    *clientConn
	raw       syscall.RawConn // nil where the connection has no descriptor
	got       []byte          // of the records that are collected
	charged   int             // bytes of got that are paid for
	whole     []byte          // of got: what crypto/tls has not read yet
	last      bool            // nothing may follow whole: it is no ClientHello
	heard     bool            // the client has said something, behind a PROXY header where there is one
	records   int             // of the request under way
	bytes     int             // in them
	computing bool            // crypto/tls does the handshake
	paused    bool            // the slot was given back
	nameless  bool            // there is no certificate for the server name
}

const (
	recordHeader = 5 // bytes: type, version, length (RFC 8446, section 5.1)

	// maxHello is how much a ClientHello may take with the headers of its records.
	// Those of browsers, with a post-quantum key share, stay under 2 KiB.
	maxHello = 16 << 10 // bytes

	// maxRecord is the longest record that crypto/tls reads: TLS 1.2's.
	maxRecord = 16<<10 + 2048 // bytes, without the header

	// freeBytes is how much the price of a phase has room for.
	freeBytes = 4 << 10

	// maxRecords is how many TLS records a request may come in, beside one for each
	// recordShare bytes. A client that writes each piece of each header field apart
	// needs a hundred; one that sends byte by byte, or KeyUpdates, would have us
	// compute for little of its own.
	maxRecords = 512
)

var (
	errLongHello   = errors.New("ClientHello over 16 KiB")
	errManyRecords = errors.New("request in too many TLS records")
)

// collectHello reads the client's first records until its ClientHello is whole.
// What can't be one is left to crypto/tls, which knows the alert for it.
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

// Read is for crypto/tls.
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
			e.client.server.door.shrinks(&e.client.visit, int64(e.charged-freeBytes))
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
	if n <= maxRecord { // else crypto/tls refuses the header
		if err := e.collect(recordHeader + n); err != nil {
			return err
		}
	}
	if e.paused {
		if err := e.client.server.door.resume(&e.client.visit); err != nil {
			return err
		}
		e.paused = false
	}
	e.whole = e.got
	return nil
}

// afterTLS looks, between two records, at what a client makes of TLS after the
// handshake.
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

// collect reads until there are so many bytes in got, and none more.
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
		if err := e.client.server.door.grows(&e.client.visit, int64(len(e.got)-e.charged)); err != nil {
			return err
		}
		e.charged = len(e.got)
	}
	return nil
}

// scratches are what sockets are read into, for the moment.
var scratches = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// readSome waits until there is something to read, and appends at most so many bytes
// of it to b. While it waits it holds no buffer; idle is called before that, perhaps
// more than once. An error comes without bytes: io.EOF at the end.
func (e *earlyConn) readSome(b []byte, most int, idle func()) ([]byte, error) {
	if e.raw == nil {
		idle()
		var few [512]byte
		n, err := e.Conn.Read(few[:min(most, len(few))])
		if n > 0 {
			err = nil // it comes again
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

// hear notes the client's first bytes.
func (e *earlyConn) hear() {
	if !e.heard {
		e.heard = true
		e.client.server.door.speaks(&e.client.visit)
	}
}

// wait is called before the client is waited for.
func (e *earlyConn) wait() {
	switch d := e.client.server.door; {
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

// Write is for crypto/tls. It has one alert for a name without certificate, where
// it has not begun to compute: internal_error. RFC 6066, section 3, has another
// one.
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
