package certstore

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
)

// A block is one PEM block (RFC 7468). The bytes of der belong to the reader
// that made the block and are valid until it reads its next file.
type block struct {
	label     string
	der       []byte
	encrypted bool // a private key encrypted as in RFC 1421
}

var (
	pemBegin = []byte("-----BEGIN ")
	pemEnd   = []byte("-----END ")
	pemDash  = []byte("-----")

	errNoPEM     = errors.New("has no PEM block")
	errEncrypted = errors.New("private key is encrypted")
)

// readBlocks appends all PEM blocks of data to blocks. It writes their bytes to
// scratch and returns it for the next call.
//
// It differs from encoding/pem on purpose. It accepts text between blocks, long
// lines and a missing line end between two blocks (cat of two files).
// encoding/pem silently skips a block without its end; here that is an error,
// because a half-written file looks like that.
func readBlocks(data []byte, blocks []block, scratch []byte) ([]block, []byte, error) {
	if need := base64.StdEncoding.DecodedLen(len(data)); cap(scratch) < need {
		scratch = make([]byte, 0, need) // room for all blocks, so that appending never moves one
	}
	scratch = scratch[:0]
	found := len(blocks)
	for rest := data; ; {
		_, after, ok := bytes.Cut(rest, pemBegin)
		if !ok {
			if last := rest[bytes.LastIndexByte(rest, '\n')+1:]; len(last) > 0 && bytes.HasPrefix(pemBegin, last) {
				return blocks, scratch, errors.New("ends where a block begins; half written?")
			}
			break
		}
		line := 1 + bytes.Count(data[:len(data)-len(after)], []byte{'\n'})
		name, after, ok := bytes.Cut(after, pemDash)
		if !ok || len(name) > 64 || bytes.ContainsAny(name, "\r\n-") {
			return blocks, scratch, fmt.Errorf("line %d: PEM block begins but has no label", line)
		}
		label := blockLabel(name)
		body, after, ok := bytes.Cut(after, pemEnd)
		if !ok || bytes.Contains(body, pemBegin) {
			return blocks, scratch, fmt.Errorf("line %d: block %q has no end; half written?", line, label)
		}
		end, after, ok := bytes.Cut(after, pemDash)
		if !ok {
			return blocks, scratch, fmt.Errorf("line %d: block %q has no end; half written?", line, label)
		}
		if !bytes.Equal(end, name) {
			return blocks, scratch, fmt.Errorf("line %d: block %q has another block's end", line, label)
		}
		rest = after
		body, encrypted, err := withoutHeaders(body)
		if err != nil {
			return blocks, scratch, fmt.Errorf("line %d: %w", line, err)
		}
		start := len(scratch)
		scratch, err = appendBase64(scratch, body)
		if err != nil {
			return blocks, scratch, fmt.Errorf("line %d: block %q: %w", line, label, err)
		}
		blocks = append(blocks, block{label, scratch[start:len(scratch):len(scratch)], encrypted && isKeyLabel(label)})
	}
	if len(blocks) == found {
		if len(bytes.TrimSpace(data)) == 0 {
			return blocks, scratch, errors.New("is empty; half written?")
		}
		return blocks, scratch, errNoPEM
	}
	return blocks, scratch, nil
}

// withoutHeaders removes RFC 1421 headers, which OpenSSL used to write before
// encrypted keys.
func withoutHeaders(body []byte) (rest []byte, encrypted bool, err error) {
	if !bytes.Contains(body, []byte{':'}) { // base64 never contains one
		return body, false, nil
	}
	for sep := range bytes.SplitSeq([]byte("\n\n,\r\n\r\n"), []byte{','}) {
		if _, after, ok := bytes.Cut(body, sep); ok {
			return after, bytes.Contains(body, []byte("ENCRYPTED")), nil
		}
	}
	return nil, false, errors.New("PEM headers without a blank line after them")
}

// appendBase64 decodes body, which may contain white space, and appends it to dst.
func appendBase64(dst, body []byte) ([]byte, error) {
	clean := body
	if bytes.ContainsAny(body, " \t") { // the decoder itself skips line ends
		clean = bytes.Map(func(r rune) rune {
			if r == ' ' || r == '\t' {
				return -1
			}
			return r
		}, body)
	}
	out, err := base64.StdEncoding.AppendDecode(dst, clean)
	if err != nil {
		return dst, errors.New("is not base64; half written?")
	}
	if len(out) == len(dst) {
		return dst, errors.New("has nothing in it")
	}
	return out, nil
}

// blockLabel avoids an allocation for the labels that every file has.
func blockLabel(name []byte) string {
	switch string(name) {
	case "CERTIFICATE":
		return "CERTIFICATE"
	case "PRIVATE KEY":
		return "PRIVATE KEY"
	}
	return string(name)
}
