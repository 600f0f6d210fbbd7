package tests

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"wssgate/tests/internal/wire"
)

// openTerminal makes a pseudo-terminal of that size. The test has the master's end.
func openTerminal(t *testing.T, columns, lines uint16) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: lines}); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// A seen is what a terminal was sent.
type seen struct {
	mu   sync.Mutex
	text []byte
}

func (s *seen) follow(r io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		s.mu.Lock()
		s.text = append(s.text, buf[:n]...)
		s.mu.Unlock()
		if err != nil { // EIO: nobody has the other end any more
			return
		}
	}
}

// screens are what was drawn, one after the other.
func (s *seen) screens() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Split(bytes.Clone(s.text), []byte("\x1b[H"))[1:]
}

// On a terminal top draws one screen after the other, none larger than the terminal, and
// gives the terminal back at Ctrl-C.
func TestTop(t *testing.T) {
	site, g, d := terminalSite(t, unixAdmin)
	c := wire.Dial(t, g.Addr("wss"), site.Client(name))
	c.SendText("hello")
	c.WantText("hello")

	const columns, lines = 60, 24
	master, slave := openTerminal(t, columns, lines)
	cmd := exec.Command(d.binary, "top", "-interval", "100ms")
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = d.dir, slave, slave, slave
	cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // so that Ctrl-C is its
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	var drawn seen
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		drawn.follow(master)
	}()
	has := func(screen []byte, words ...string) bool {
		for _, w := range words {
			if !bytes.Contains(screen, []byte(w)) {
				return false
			}
		}
		return true
	}
	eventually(t, "a screen with rates", func() bool {
		screens := drawn.screens()
		return len(screens) > 3 && has(screens[len(screens)-2], "all is well", "tunnels     1 of", "0/s resumed", name, "xmpp/", "127.0.0.1", "\x1b[32")
	})
	c.SendText("more")
	c.WantText("more")
	if _, err := master.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v; want exit status 0", err)
	}
	<-followed
	drawn.mu.Lock()
	text := drawn.text
	drawn.mu.Unlock()
	if !bytes.HasPrefix(text, []byte("\x1b[?1049h")) || !bytes.HasSuffix(text, []byte("\x1b[?1049l")) {
		t.Errorf("it does not begin with the alternate screen and end with the other one: %q", text)
	}
	for _, screen := range drawn.screens() {
		rows := bytes.Split(screen, []byte("\r\n"))
		if len(rows) > lines {
			t.Errorf("a screen of %d lines; want at most %d", len(rows), lines)
		}
		for _, row := range rows[:len(rows)-1] {
			if n := visible(row); n > columns {
				t.Errorf("a line of %d columns; want at most %d: %q", n, columns, row)
			}
		}
	}
}

// visible is how many characters of a line take a place on the screen.
func visible(line []byte) (n int) {
	escape := false
	for _, r := range string(line) {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r == '[' || r >= '0' && r <= '9' || r == ';' || r == '?'
		case r >= ' ':
			n++
		}
	}
	return n
}

// Without a terminal top prints one look, without a sequence for terminals.
func TestTopWithoutTerminal(t *testing.T) {
	_, _, d := terminalSite(t, unixAdmin)
	out := d.want("top -interval 100ms", 0, "all is well", "0/s full")
	if bytes.ContainsRune([]byte(out), '\x1b') {
		t.Errorf("it prints %q", out)
	}
	d.want("top -interval 1ms", 2, "less than 100ms")
}
