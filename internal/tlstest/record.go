// Package tlstest writes TLS records that crypto/tls does not send. It is for tests and
// rigs.
package tlstest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A Writer writes a client's records behind the handshake, as RFC 8446, section 5.2,
// has them, with TLS_AES_128_GCM_SHA256. What crypto/tls writes after New makes no
// sense to the server any more; what it reads does.
type Writer struct {
	w      io.Writer
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// NewWriter goes on where a client's handshake has ended: keys is what its
// KeyLogWriter got, and raw is below it.
func NewWriter(raw io.Writer, state tls.ConnectionState, keys []byte) (*Writer, error) {
	if state.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		return nil, fmt.Errorf("tlstest: cipher suite %s", tls.CipherSuiteName(state.CipherSuite))
	}
	w := &Writer{w: raw}
	for line := range strings.Lines(string(keys)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(fields[2])
			if err != nil {
				return nil, err
			}
			w.secret = secret
		}
	}
	if w.secret == nil {
		return nil, errors.New("tlstest: no client secret")
	}
	return w, w.rekey()
}

// Write writes data in one record.
func (w *Writer) Write(data []byte) (int, error) {
	const applicationData = 23
	return len(data), w.record(applicationData, data)
}

// Handshake writes data in one record of handshake messages.
func (w *Writer) Handshake(data []byte) error {
	const handshake = 22
	return w.record(handshake, data)
}

// KeyUpdate updates the client's key, and asks the server to do the same or not (RFC
// 8446, section 4.6.3).
func (w *Writer) KeyUpdate(request bool) error {
	const keyUpdate = 24
	message := []byte{keyUpdate, 0, 0, 1, 0}
	if request {
		message[4] = 1
	}
	if err := w.Handshake(message); err != nil {
		return err
	}
	var err error
	if w.secret, err = expand(w.secret, "traffic upd", sha256.Size); err != nil {
		return err
	}
	return w.rekey()
}

func (w *Writer) rekey() error {
	key, err := expand(w.secret, "key", 16)
	if err != nil {
		return err
	}
	if w.iv, err = expand(w.secret, "iv", 12); err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	w.aead, err = cipher.NewGCM(block)
	w.seq = 0
	return err
}

func (w *Writer) record(kind byte, content []byte) error {
	nonce := bytes.Clone(w.iv)
	for i, b := range binary.BigEndian.AppendUint64(nil, w.seq) {
		nonce[4+i] ^= b
	}
	w.seq++
	inner := append(bytes.Clone(content), kind)
	head := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(inner)+w.aead.Overhead()))
	_, err := w.w.Write(w.aead.Seal(head, nonce, inner, head))
	return err
}

// expand is HKDF-Expand-Label without a context (RFC 8446, section 7.1).
func expand(secret []byte, label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := append(binary.BigEndian.AppendUint16(nil, uint16(n)), byte(len(label)))
	return hkdf.Expand(sha256.New, secret, string(append(append(info, label...), 0)), n)
}
