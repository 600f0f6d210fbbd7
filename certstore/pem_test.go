package certstore

import (
	"bytes"
	"encoding/pem"
	"testing"

	"wssgate/demo/minica"
)

// blocksOf reads blocks with new buffers.
func blocksOf(data []byte) ([]block, error) {
	blocks, _, err := readBlocks(data, nil, nil)
	return blocks, err
}

// Each prefix of a file is refused, unless it ends between two blocks. So a
// file that is being written is rarely mistaken for a complete one.
func TestHalfAFileIsRefused(t *testing.T) {
	data := ca.Issue("example1.com").PEM()
	whole := map[int]int{} // number of preceding blocks, by an offset between two
	for i, n := 0, 0; ; {
		end := bytes.Index(data[i:], pemEnd)
		if end < 0 {
			break
		}
		i += end + bytes.IndexByte(data[i+end:], '\n')
		n++
		whole[i], whole[i+1] = n, n
	}
	for n := range data {
		blocks, err := blocksOf(data[:n])
		if (err == nil) != (whole[n] > 0) || err == nil && len(blocks) != whole[n] {
			t.Errorf("the first %d bytes: %d blocks, err = %v; want %d whole blocks or an error", n, len(blocks), err, whole[n])
		}
	}
}

func TestReadBlocksErrors(t *testing.T) {
	for _, row := range []struct{ data, want string }{
		{"", "is empty; half written?"},
		{" \n\n", "is empty; half written?"},
		{"hello", "has no PEM block"},
		{"\x00\x00\x00", "has no PEM block"},
		{"x\n-----BEGIN CERTIFICATE-----\nAAAA\n", `line 2: block "CERTIFICATE" has no end; half written?`},
		{"-----BEGIN CERTIFICATE-----\nAAAA\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", `line 1: block "CERTIFICATE" has no end; half written?`},
		{"-----BEGIN CERTIFICATE-----\nAAAA\n-----END PRIVATE KEY-----\n", `line 1: block "CERTIFICATE" has another block's end`},
		{"-----BEGIN CERTIFICATE-----\nAA!A\n-----END CERTIFICATE-----\n", `line 1: block "CERTIFICATE": is not base64; half written?`},
		{"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", `line 1: block "CERTIFICATE": has nothing in it`},
		{"-----BEGIN\n", "has no PEM block"},
		{"-----BEGIN CERT\nIFICATE-----\n", "line 1: PEM block begins but has no label"},
	} {
		if _, err := blocksOf([]byte(row.data)); err == nil || err.Error() != row.want {
			t.Errorf("readBlocks(%q) = %v; want %s", row.data, err, row.want)
		}
	}
}

// Headers that do not mean encryption are skipped.
func TestReadBlocksSkipsHeaders(t *testing.T) {
	blocks, err := blocksOf([]byte("-----BEGIN CERTIFICATE-----\nComment: x\n\nAAAA\n-----END CERTIFICATE-----\n"))
	if err != nil || len(blocks) != 1 || !bytes.Equal(blocks[0].der, []byte{0, 0, 0}) {
		t.Errorf("readBlocks = %v, %v", blocks, err)
	}
}

// The blocks are the same after encoding/pem has written them again. If the
// whole file is good, encoding/pem finds no block that we do not.
func FuzzReadBlocks(f *testing.F) {
	p := ca.Issue("example1.com")
	f.Add(p.PEM())
	f.Add(cat(p.KeyPEMClassic(), oneLine(p.ChainPEM())))
	f.Add([]byte("-----BEGIN A-----\nComment: x\n\nAAAA\n-----END A-----\n-----BEGIN B-----\nAAAA-----END B-----"))
	f.Fuzz(func(t *testing.T, data []byte) {
		blocks, err := blocksOf(data)
		if err != nil {
			return
		}
		var again []byte
		for _, b := range blocks {
			again = append(again, pem.EncodeToMemory(&pem.Block{Type: b.label, Bytes: b.der})...)
		}
		second, err := blocksOf(again)
		if err != nil || len(second) != len(blocks) {
			t.Fatalf("%d blocks, %v, after %d were written again", len(second), err, len(blocks))
		}
		for i := range blocks {
			if blocks[i].label != second[i].label || !bytes.Equal(blocks[i].der, second[i].der) {
				t.Errorf("block %d: %v, then %v", i, blocks[i], second[i])
			}
		}
		mine := blocks
		for theirs, rest := pem.Decode(data); theirs != nil; theirs, rest = pem.Decode(rest) {
			for len(mine) > 0 && (mine[0].label != theirs.Type || !bytes.Equal(mine[0].der, theirs.Bytes)) {
				mine = mine[1:]
			}
			if len(mine) == 0 {
				t.Fatalf("encoding/pem finds %q with % x, which we do not have", theirs.Type, theirs.Bytes)
			}
			mine = mine[1:]
		}
	})
}

// Whatever a file contains, each certificate from it can be served: it has a
// name, dates, and a key that parses and matches the leaf.
func FuzzFile(f *testing.F) {
	p := ca.Issue("example1.com", "*.example1.com")
	r := ca.IssueSpec(minica.Spec{Names: []string{"example2.com"}, Key: rsaKey()})
	f.Add(p.PEM())
	f.Add(cat(r.KeyPEMClassic(), root.RootPEM(), r.ChainPEM()))
	f.Add(minica.SelfSigned(minica.Spec{Names: []string{"example3.com"}}).PEM())
	f.Fuzz(func(t *testing.T, data []byte) {
		parts, err := newReader().parse("", "x.pem", data)
		if err != nil {
			return
		}
		for _, part := range parts {
			own, ok := part.(*certificate)
			if !ok {
				continue
			}
			if own.names == "" || own.notAfter == 0 || own.facts.Value().issuer == "" {
				t.Errorf("unusable: %+v", own)
			}
			cert, err := own.parse()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fromTLS(SourceACME, cert); err != nil { // compares the keys
				t.Error(err)
			}
		}
	})
}
