package tests

import (
	"bufio"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// serveContainer runs the container, carries a message each way, and ends it as
// a runtime does: with SIGTERM, and status 0 behind a Close frame.
func serveContainer(t *testing.T, run *exec.Cmd, site *gate.Site, conns <-chan *wire.Conn) {
	t.Helper()
	stderr, err := run.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	t.Cleanup(func() {
		if !ended {
			run.Process.Kill()
			run.Wait()
		}
	})
	var log strings.Builder
	addr := ""
	lines := bufio.NewScanner(stderr)
	for addr == "" && lines.Scan() {
		log.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), `"listener":"wss"`) {
			_, rest, _ := strings.Cut(lines.Text(), `"addr":"`)
			addr, _, _ = strings.Cut(rest, `"`)
		}
	}
	if addr == "" {
		err := run.Wait()
		ended = true
		t.Fatalf("%s: %v\n%s", run, err, log.String())
	}
	client := wire.Dial(t, addr, site.Client(name))
	upstream := wire.Take(t, conns)
	client.SendText("<message/>")
	upstream.WantText("<message/>")
	upstream.SendText("<presence/>")
	client.WantText("<presence/>")

	run.Process.Signal(syscall.SIGTERM) // podman passes it on
	client.WantClose(1001)
	client.Send(wire.CloseFrame(true, 1001, ""))
	for lines.Scan() {
		log.WriteString(lines.Text() + "\n")
	}
	err = run.Wait()
	ended = true
	if err != nil {
		t.Errorf("drained with %v; want status 0\n%s", err, log.String())
	}
}
