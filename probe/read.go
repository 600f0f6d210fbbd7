package probe

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"wssgate/files"
)

// ReadRoots reads the CA certificates of a PEM file, and gives up after the timeout.
func ReadRoots(ctx context.Context, file string, timeout time.Duration) (*x509.CertPool, error) {
	pem, err := readFile(ctx, file, timeout)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %q", file)
	}
	return roots, nil
}

// ReadLogin reads an account from a file: the JID in its first line, the password in its
// second. It gives up after the timeout.
func ReadLogin(ctx context.Context, file string, timeout time.Duration) (*Login, error) {
	text, err := readFile(ctx, file, timeout)
	if err != nil {
		return nil, err
	}
	jid, rest, _ := strings.Cut(string(text), "\n")
	password, _, _ := strings.Cut(rest, "\n")
	login := &Login{JID: strings.TrimSpace(jid), Password: strings.TrimSuffix(password, "\r")}
	if login.Password == "" {
		return nil, fmt.Errorf("%q has no password in its second line", file)
	}
	return login, nil
}

const maxFile = 16 << 20 // bytes; catches devices, for example

func readFile(ctx context.Context, file string, timeout time.Duration) ([]byte, error) {
	place := files.New("probe", nil)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	b, err := files.Await(ctx, place, func() ([]byte, error) { return place.ReadStream(file, maxFile) })
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%q: not read within %v", file, timeout)
	}
	return b, err
}
