package certstore

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A foreignPart describes a file without usable certificates or private keys.
// That is a fault only if the file was in use before.
type foreignPart passed

// advice is an error with a hint.
type advice struct {
	error
	hint string
}

func (a advice) Unwrap() error { return a.error }

func hintOf(err error) string {
	if a, ok := errors.AsType[advice](err); ok {
		return a.hint
	}
	if errors.Is(err, fs.ErrPermission) {
		return "let the gate's user read it, and pass through the folders above it"
	}
	return ""
}

// labels are those of PEM blocks without certificates and keys that a file may
// hold.
var labels = map[string]string{
	"CERTIFICATE REQUEST":     whyRequest,
	"NEW CERTIFICATE REQUEST": whyRequest,
	"X509 CRL":                "a certificate revocation list",
	"DH PARAMETERS":           "Diffie-Hellman parameters",
	"X9.42 DH PARAMETERS":     "Diffie-Hellman parameters",
	"EC PARAMETERS":           "parameters of a key",
	"PUBLIC KEY":              "a public key",
	"RSA PUBLIC KEY":          "a public key",
	"OPENSSH PRIVATE KEY":     "a key of OpenSSH",
	"SSH2 PUBLIC KEY":         "a key of OpenSSH",
}

// foreign describes a file without certificates and private keys. It returns an
// error if the file holds certificates in a form that wssgate does not read.
func foreign(path string, blocks []block) (foreignPart, error) {
	for _, b := range blocks {
		switch b.label {
		case "TRUSTED CERTIFICATE":
			return foreignPart{}, advice{errors.New(`is a "TRUSTED CERTIFICATE" of OpenSSL, which is not read`), convert(path, "x509")}
		case "PKCS7", "CMS":
			return foreignPart{}, advice{errors.New("is PKCS #7, which is not read"), convert(path, "pkcs7 -print_certs")}
		}
	}
	if slices.ContainsFunc(blocks, block.isEncrypted) {
		return foreignPart{why: whyEncrypted, hint: "if it belongs to a certificate, remove its password: " + convert(path, "pkey")}, nil
	}
	what := labels[blocks[0].label]
	if what == "" {
		what = "a PEM block that is not used: " + printable(blocks[0].label)
	}
	return foreignPart{why: what}, nil
}

// notPEM returns the error for a file without PEM blocks. It names the file's
// format, if it can tell.
func notPEM(path string, data []byte) error {
	what, command := "", ""
	var outer asn1.RawValue
	_, err := asn1.Unmarshal(data, &outer)
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return advice{errors.New("is text in UTF-16"), "save it as ASCII or UTF-8, for instance with iconv -f UTF-16 -t UTF-8"}
	case bytes.HasPrefix(data, []byte("\xfe\xed\xfe\xed")):
		return advice{errors.New("is a Java keystore, not PEM"), "export it with keytool -importkeystore and -deststoretype PKCS12, and that with openssl pkcs12"}
	case err != nil || outer.Tag != asn1.TagSequence:
		return errNoPEM
	}
	der := outer.FullBytes
	if _, err := x509.ParseCertificate(der); err == nil {
		what, command = "a certificate", "x509 -inform der"
	} else if _, err := x509.ParseCertificateRequest(der); err == nil {
		return errors.New("is " + whyRequest + ", not a certificate")
	} else if _, err := parseKey(der); err == nil {
		what, command = "a private key", "pkey -inform der"
	} else {
		what, command = container(outer.Bytes)
	}
	if what == "" {
		return errNoPEM
	}
	return advice{errors.New("is " + what + " in DER, not PEM"), convert(path, command)}
}

// container identifies a DER SEQUENCE by its first element. command converts it
// to PEM.
func container(body []byte) (what, command string) {
	var first asn1.RawValue
	rest, err := asn1.Unmarshal(body, &first)
	if err != nil || len(rest) == 0 {
		return "", ""
	}
	switch {
	case first.Tag == asn1.TagInteger && bytes.Equal(first.Bytes, []byte{3}): // RFC 7292, section 4
		return "PKCS #12", "pkcs12 -nodes"
	case first.Tag == asn1.TagOID && bytes.Equal(first.Bytes, []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02")): // RFC 2315, section 9
		return "PKCS #7", "pkcs7 -inform der -print_certs"
	case first.Tag == asn1.TagSequence && bytes.HasPrefix(first.Bytes, []byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05")): // RFC 8018, appendix A
		return whyEncrypted, "pkey -inform der"
	}
	return "", ""
}

// isAccountKey reports whether ACME clients use this name for the key of an
// account.
func isAccountKey(name string) bool {
	switch strings.ToLower(strings.TrimSuffix(name, filepath.Ext(name))) {
	case "account", "account_key", "account-key", "account.key":
		return true
	}
	return false
}

// hasAccounts reports whether ACME clients keep accounts in a folder of this
// name below root: Caddy in users/EMAIL, lego in accounts/CA/EMAIL/keys,
// acmetool in accounts/ID.
func hasAccounts(root, dir string) bool {
	below, err := filepath.Rel(root, dir)
	if err != nil {
		return false
	}
	for part := range strings.SplitSeq(below, string(filepath.Separator)) {
		if part == "accounts" || part == "users" {
			return true
		}
	}
	return false
}

const (
	// Files without an extension that are not PEM are remembered. These bound
	// how many are opened: in one folder, which may be /usr/bin, and in the
	// whole tree.
	maxTriedFolder = 1024
	maxTried       = 1 << 16
	// maxFree bounds the size of such a file, in bytes.
	maxFree = 128 << 10
)

// tried is what is known of a file that has no extension and is not PEM.
type tried struct {
	stamp uint64
	why   string
}

// file returns the fields that look uses.
func (t tried) file() file { return file{stamp: t.stamp} }

// isUnread reports whether a file has no extension and was not PEM when it was
// last tried, if it was.
func (t *tree) isUnread(f *folder, name string) bool {
	return !isWanted(name) && f.files.get(name) == nil
}

// mayTry reports whether a file without an extension may be opened.
func (t *tree) mayTry(f *folder, path string) bool {
	if _, again := t.tried[path]; again {
		return true
	}
	before, again := t.triedBefore[path]
	if f.tried >= maxTriedFolder || len(t.tried) >= maxTried {
		f.pass(passed{filepath.Base(path), whyMany, ""})
		return false
	}
	if again {
		t.tried[path] = before
		f.tried++
	}
	return true
}

// isForeign records a file that has no extension and is not PEM.
func (t *tree) isForeign(f *folder, name, path string, s sight) bool {
	t.idleness = true
	now := tried{}
	switch {
	case s.gone:
		delete(t.tried, path)
		return true
	case s.info == nil:
		now.why = s.err.Error()
	case stampOf(s.info).sum() == t.tried[path].stamp:
		now = t.tried[path]
	case !s.info.Mode().IsRegular():
		now.why = "not a file"
	case s.err != nil:
		now.why = s.err.Error()
	case s.info.Size() > maxFree:
		now = tried{stampOf(s.info).sum(), whyLarge}
	case looksLikePEM(s.data):
		delete(t.tried, path)
		f.foreign = slices.DeleteFunc(f.foreign, func(have passed) bool { return have.name == name })
		return false
	default:
		now.why = whyNotPEM
		if changed := stampOf(s.info); time.Since(time.Unix(0, max(changed.modified, changed.changed))) >= settled {
			now.stamp = changed.sum()
		}
	}
	if _, again := t.tried[path]; !again {
		f.tried++
	}
	t.tried[path] = now
	f.pass(passed{name, now.why, ""})
	return true
}

// looksLikePEM reports whether a line of data begins like a PEM block.
func looksLikePEM(data []byte) bool {
	data = bytes.TrimLeft(data, "\xef\xbb\xbf \t\r\n")
	return bytes.HasPrefix(data, pemBegin) || bytes.Contains(data, []byte("\n"+string(pemBegin)))
}
