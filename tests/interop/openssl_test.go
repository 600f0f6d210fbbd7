package interop

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// OpenSSL as the client: its TLS shares no code with Go's. It changes its keys
// in the middle of a tunnel and asks the gate to do the same, which an idle
// tunnel, whose TLS buffers are elsewhere, must take too.
func TestOpenSSL(t *testing.T) {
	gate.Program(t, "openssl", "openssl")
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		t.Run(version, func(t *testing.T) {
			site := gate.NewSite(t, "example1.test")
			site.Write(t, "root.pem", site.CA.RootPEM())
			g := site.Start(t, "[upstream.xmpp]\nnodes = [\""+wire.Echo(t).URL+"\"]\nxmpp = false\n")
			cmd := exec.Command("openssl", "s_client", version, "-brief", "-connect", g.Addr("wss"), "-servername", "example1.test",
				"-CAfile", filepath.Join(site.Dir, "root.pem"), "-verify_return_error", "-verify_hostname", "example1.test")
			said := new(gate.Output)
			cmd.Stderr = said
			client := pipe(t, cmd)
			c := wire.NewConn(t, client, true)
			c.Upgrade(wire.Request("example1.test"))
			for round := range 3 {
				for _, n := range []int{5, 20_000} {
					f := wire.Frame{FIN: true, Op: wire.Binary, Payload: fmt.Appendf(nil, "%d %0*d", round, n, 7)}
					c.Send(f)
					c.Want(f)
				}
				if version == "-tls1_3" {
					// "K" is s_client's command to update the keys of both
					// sides; what it reads together with it is thrown away.
					if _, err := io.WriteString(client, "K\n"); err != nil {
						t.Fatal(err)
					}
					said.Wait(t, "KEYUPDATE", round+1, nil)
				}
			}
		})
	}
}

// pipe starts the command and returns its standard input and output as a
// connection. The command ends with its input.
func pipe(t *testing.T, cmd *exec.Cmd) stdio {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return stdio{in.(*os.File), out.(*os.File)}
}

// stdio joins a process's two ends to one. Its deadlines are those of the
// reading end, which is all that wire sets them for.
type stdio struct{ in, out *os.File }

func (s stdio) Read(b []byte) (int, error)         { return s.out.Read(b) }
func (s stdio) Write(b []byte) (int, error)        { return s.in.Write(b) }
func (s stdio) Close() error                       { return errors.Join(s.in.Close(), s.out.Close()) }
func (s stdio) LocalAddr() net.Addr                { return nil }
func (s stdio) RemoteAddr() net.Addr               { return nil }
func (s stdio) SetDeadline(t time.Time) error      { return s.out.SetReadDeadline(t) }
func (s stdio) SetReadDeadline(t time.Time) error  { return s.out.SetReadDeadline(t) }
func (s stdio) SetWriteDeadline(t time.Time) error { return nil }
