package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/files"
)

// A unix socket whose folder hangs is an error after a while, and a late listener is
// closed.
func TestSocketFolderHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	synctest.Test(t, func(t *testing.T) {
		resume := files.Stall(path)
		began := time.Now()
		ln, err := new(Sockets).Open("wss", "unix:"+path)
		if took := time.Since(began); ln != nil || !files.IsHang(err) || took != files.Patience {
			t.Errorf("listen = %v, %v after %v; want that it hangs after %v", ln, err, took, files.Patience)
		}
		resume()
		synctest.Wait()
		removals.Wait()
		if ln, err = new(Sockets).Open("wss", "unix:"+path); err != nil { // the late one is closed
			t.Fatal(err)
		}
		ln.Close()
		removals.Wait()
	})
}

// A DNS server that does not answer delays listeners' names for a moment: all are
// resolved at once, and listening itself resolves nothing.
func TestListenerNamesHang(t *testing.T) {
	was := net.DefaultResolver
	defer func() { net.DefaultResolver = was }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("deaf")
	}}
	net.DefaultResolver.LookupHost(t.Context(), "gate.hangs.test") // makes net read its files outside of the bubble
	addresses := map[string][]string{"wss": {"127.0.0.1:0"}, "admin": {"admin.hangs.test:0"}}
	for i := range 6 {
		addresses["wss"] = append(addresses["wss"], fmt.Sprintf("gate%d.hangs.test:0", i))
	}
	var found Hosts
	synctest.Test(t, func(t *testing.T) {
		net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		began := time.Now()
		found = LookUpHosts(addresses) // would not return
		if took := time.Since(began); len(found) != 7 || took != listenerPatience {
			t.Errorf("%d hosts after %v; want 7 after %v", len(found), took, listenerPatience)
		}
	})
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("DNS is asked")
		return nil, errors.New("deaf")
	}}
	s := new(Sockets)
	s.Know(Hosts{"gate0.hangs.test": {addr: "127.0.0.1"}})
	s.Know(found)
	if _, err := s.Open("wss", "gate1.hangs.test:0"); err == nil {
		t.Error("it listens")
	}
	ln, err := s.Open("wss", "gate0.hangs.test:0") // with the known address
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

// Closing a socket whose folder hangs does not wait, and IsOurs does not wait longer
// than its context.
func TestSocketClosesWhileFolderHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	ln, err := new(Sockets).Open("wss", "unix:"+path)
	if err != nil {
		t.Fatal(err)
	}
	resume := files.Stall(path)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if !ln.(*UnixListener).IsOurs(ctx) {
		t.Error("it is not ours")
	}
	if err := errors.Join(ln.Close()); err != nil { // it would hang
		t.Error(err)
	}
	resume()
	removals.Wait()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// Sockets that a reload adds are opened outside the loop, which then uses them.
func TestSocketsOpenedBeside(t *testing.T) {
	dir := t.TempDir()
	wss, page := "unix:"+filepath.Join(dir, "wss"), "unix:"+filepath.Join(dir, "admin")
	s := new(Sockets)
	configured := map[string][]string{"wss": {wss, "127.0.0.1:0"}, "admin": {page}}
	opened := s.OpenUnix(configured, map[Address]bool{})
	if len(opened) != 2 {
		t.Fatalf("openUnix = %v; want two", opened)
	}
	if info, err := os.Stat(filepath.Join(dir, "admin")); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the page's socket: %v, %v; want mode 0660", info, err)
	}
	s.Ready = opened
	defer files.Stall(dir)() // listen makes no call
	for at, want := range opened {
		if ln, err := s.Open(at.Key, at.Addr); ln != want.Listener || err != nil {
			t.Errorf("listen(%v) = %v, %v", at, ln, err)
		}
		want.Listener.UnixListener.Close()
	}
	if more := s.OpenUnix(configured, map[Address]bool{{"wss", wss}: true, {"admin", page}: true}); len(more) != 0 {
		t.Errorf("openUnix = %v where all are open", more)
	}
}
