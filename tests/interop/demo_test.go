package interop

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
)

var demoNames = []string{"example1.localhost", "example2.localhost"}

// The demo's page logs in on both hosts and writes to itself and to the other,
// in a browser that trusts the demo's CA and nothing else.
func TestDemoPage(t *testing.T) { checkDemoPage(t) }

// The same in front of a real server.
func TestDemoPageProsody(t *testing.T) {
	checkDemoPage(t, "-upstream", startAnonymousProsody(t, demoNames...))
}

// startAnonymousProsody is startProsody for domains that anybody may log in to.
func startAnonymousProsody(t *testing.T, domains ...string) (url string) {
	t.Helper()
	gate.Program(t, "prosody", "prosody")
	user := unprivileged(t, "prosody")
	dir, port := user.tempDir(t), gate.FreePort(t)
	config := filepath.Join(dir, "prosody.cfg.lua")
	user.write(t, config, strings.Replace(prosodyConfig(dir, port, domains), `"internal_hashed"`, `"anonymous"`, 1))
	addr := net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
	gate.StartServer(t, user.command("prosody", "-F", "--config", config), new(gate.Output), addr)
	return "ws://" + addr + "/xmpp-websocket"
}

func checkDemoPage(t *testing.T, args ...string) {
	t.Helper()
	dir := t.TempDir()
	g := gate.Run(t, dir, append([]string{"demo", "-listen", "127.0.0.1:0", "-dir", "demo"}, args...))
	_, port, err := net.SplitHostPort(g.Addr("wss"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "demo", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var pages []string
	for _, name := range demoNames {
		pages = append(pages, "https://"+net.JoinHostPort(name, port)+"/")
	}
	node := runScript(t, "demo.mjs", root, map[string]any{"pages": pages})
	var online struct {
		Sessions []struct {
			JID, Self, Heard, Again string
			Frames, Goodbye         int
		}
		Errors []string
	}
	node.next(&online)
	if len(online.Sessions) != len(pages) || len(online.Errors) > 0 {
		t.Fatalf("%d sessions, errors %q; want %d and none", len(online.Sessions), online.Errors, len(pages))
	}
	for i, s := range online.Sessions {
		from, _, _ := strings.Cut(online.Sessions[(i+1)%len(pages)].JID, "/")
		if !strings.Contains(s.JID, "@"+demoNames[i]+"/") || !strings.Contains(s.Again, "@"+demoNames[i]+"/") || s.JID == s.Again {
			t.Errorf("%s: logged in as %q, and again as %q", pages[i], s.JID, s.Again)
		}
		if !strings.Contains(s.Self, "from myself · round trip ") {
			t.Errorf("%s: a message to oneself shows as %q", pages[i], s.Self)
		}
		if !strings.Contains(s.Heard, "from "+from) {
			t.Errorf("%s: the other's message shows as %q, want it from %s", pages[i], s.Heard, from)
		}
		if s.Goodbye != 2 || s.Frames < 14 {
			t.Errorf("%s: %d frames shown, %d of them <close/>; want at least 14, and 2", pages[i], s.Frames, s.Goodbye)
		}
	}

	// A drain tells the browsers, and the page its reader.
	g.Signal(syscall.SIGTERM)
	var closed struct{ States, Errors []string }
	node.next(&closed)
	want := "Connection lost. Stream error: system-shutdown."
	if len(closed.States) != len(pages) || slices.ContainsFunc(closed.States, func(s string) bool { return !strings.HasPrefix(s, want) }) {
		t.Errorf("the pages say %q, want %q", closed.States, want)
	}
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d after SIGTERM, want 0", status)
	}
	node.end()
}
