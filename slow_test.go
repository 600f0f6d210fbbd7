package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/files"
)

// A start that hangs is left to itself a moment after its context ends, and not
// before.
func TestAwaitGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		hang := make(chan struct{})
		began := time.Now()
		g, err := awaitGate(ctx, func() (*gate, error) { <-hang; return nil, nil })
		if took := time.Since(began); g != nil || err != nil || took != time.Hour+startPatience {
			t.Errorf("awaitGate = %v, %v after %v", g, err, took)
		}
		close(hang)
		began, bad := time.Now(), errors.New("bad")
		if _, err := awaitGate(ctx, func() (*gate, error) { time.Sleep(startPatience / 2); return nil, bad }); err != bad || time.Since(began) != startPatience/2 {
			t.Errorf("a start that ends after its context: %v after %v", err, time.Since(began))
		}
	})
}

// The gate lives as long as its loop turns; a drain has a deadline of its own.
func TestAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(nil, nil)
		if err := d.alive(); err != nil {
			t.Errorf("before the first turn: %v", err)
		}
		d.turned()
		time.Sleep(loopPatience)
		if err := d.alive(); err != nil {
			t.Errorf("after %v: %v", loopPatience, err)
		}
		time.Sleep(time.Second)
		if err := d.alive(); err == nil || !strings.Contains(err.Error(), "has not turned for 31s") {
			t.Errorf("after 31 s: %v", err)
		}
		d.leaves(0, time.Hour)
		if err := d.alive(); err != nil {
			t.Errorf("in a drain: %v", err)
		}
	})
}

// A configuration that hangs, or a file that it names, makes a reload fail after a
// while, by name, and a start wait.
func TestConfigHangs(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config.toml")
	for name, data := range map[string]string{
		"config.toml": small + "[listen]\nadmin_token_file = \"token\"\n", "token": "0123456789abcdef\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unseen := func([sha256.Size]byte) {}
	for _, file := range []string{"config.toml", "token"} {
		path := filepath.Join(dir, file)
		t.Run(file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				was := configFiles
				configFiles = files.New("configuration", nil) // one of the bubble's
				defer func() { configFiles = was }()
				resume := files.Stall(path)
				began := time.Now()
				_, err := reloadConfig(t.Context(), config, false, unseen)
				ce, ok := errors.AsType[*ConfigError](err)
				if !ok || !files.IsHang(err) || !strings.Contains(ce.Error(), path) || time.Since(began) != files.Patience {
					t.Errorf("reload = %v after %v", err, time.Since(began))
				}
				began = time.Now()
				if _, err := startConfig(t.Context(), config); !errors.Is(err, errNotRead) || !strings.Contains(err.Error(), path) || time.Since(began) != startFilesPatience {
					t.Errorf("start = %v after %v", err, time.Since(began))
				}
				time.AfterFunc(startFilesPatience/2, resume)
				if cfg, err := startConfig(t.Context(), config); err != nil || string(cfg.Files[filepath.Join(dir, "token")]) != "0123456789abcdef\n" {
					t.Errorf("start = %v", err)
				}
				if _, err := reloadConfig(t.Context(), config, false, unseen); err != nil {
					t.Errorf("reload when it is back = %v", err)
				}
			})
		})
	}
}

// A configuration that is slower than a reload waits for is read to its end by the
// reload after that, for which nobody waits; it begins when the place is free.
func TestSlowConfigIsTaken(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config.toml")
	var lists []string
	for i := range 12 {
		name := fmt.Sprintf("%d.txt", i)
		if err := os.WriteFile(filepath.Join(dir, name), []byte("192.0.2.0/24\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		lists = append(lists, fmt.Sprintf("%q", "file:"+name))
	}
	if err := os.WriteFile(config, []byte(small+"[access]\ndeny = ["+strings.Join(lists, ", ")+"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	unseen := func([sha256.Size]byte) {}
	for _, each := range []time.Duration{300 * time.Millisecond, 700 * time.Millisecond, files.Patience + time.Second} {
		synctest.Test(t, func(t *testing.T) {
			was := configFiles
			configFiles = files.New("configuration", nil)
			defer func() { configFiles = was }()
			end := files.Delay(filepath.Join(dir, "1"), each) // 1.txt, 10.txt, 11.txt; two calls each
			if each < time.Second {
				end()
				end = files.Delay(dir, each)
			}
			_, err := reloadConfig(t.Context(), config, false, unseen)
			if !files.IsHang(err) {
				t.Fatalf("%v a call: reload = %v; want that it hangs", each, err)
			}
			<-files.FreeAfter(err)
			if _, err := reloadConfig(t.Context(), config, true, unseen); err != nil {
				t.Errorf("%v a call: the second reload = %v", each, err)
			}
			end()
		})
	}
}

// A watch of a file that hangs can be turned off all the same.
func TestConfigWatchHangs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	defer files.Stall(file)()
	w := newConfigWatch(file, sha256.Sum256(nil), nil)
	w.set(true)
	w.set(false)
}

// An inventory of what hangs is none.
func TestInventoryHangs(t *testing.T) {
	for _, what := range []string{"certs", "acme"} {
		dir := t.TempDir()
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "certs"), 0o700), os.Mkdir(filepath.Join(dir, "acme"), 0o700)); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			resume := files.Stall(filepath.Join(dir, what))
			cfg, err := parseConfig(filepath.Join(dir, "config.toml"), []byte(small+"[acme]\nnames = \"a.example.org\"\naccept_terms = true\n"))
			if err != nil {
				t.Fatal(err)
			}
			was := configFiles
			configFiles = files.New("configuration", nil)
			defer func() { configFiles = was }()
			_, err = cfg.inventory()
			if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, what)) {
				t.Errorf("%s: %v", what, err)
			}
			resume()
		})
	}
}

// Sockets that a reload adds are opened beside the loop, all of them or none; the loop
// takes what was opened.
func TestSocketsOpenedBeside(t *testing.T) {
	dir := t.TempDir()
	wss, page := "unix:"+filepath.Join(dir, "wss"), "unix:"+filepath.Join(dir, "admin")
	s := new(sockets)
	l := &Listen{WSS: []string{wss, "127.0.0.1:0"}, Admin: page}
	opened, err := s.openUnix(l, map[listenerAddress]bool{})
	if err != nil || len(opened) != 2 {
		t.Fatalf("openUnix = %v, %v; want two", opened, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "admin")); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the page's socket: %v, %v; want mode 0660", info, err)
	}
	s.ready = opened
	defer files.Stall(dir)() // listen makes no call
	for at, want := range opened {
		if ln, err := s.listen(at.key, at.addr); ln != want || err != nil {
			t.Errorf("listen(%v) = %v, %v", at, ln, err)
		}
		want.UnixListener.Close()
	}
	if more, err := s.openUnix(l, map[listenerAddress]bool{{"wss", wss}: true, {"admin", page}: true}); err != nil || len(more) != 0 {
		t.Errorf("openUnix = %v, %v where all are open", more, err)
	}
}

// A unix socket whose folder hangs is an error after a while, and what is made too
// late is closed.
func TestSocketFolderHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	resume := files.Stall(path)
	ln, err := new(sockets).listen("wss", "unix:"+path)
	if ln != nil || !files.IsHang(err) {
		t.Errorf("listen = %v, %v", ln, err)
	}
	resume()
	deadline := time.Now().Add(time.Minute)
	for { // until the one that came too late is closed
		ln, err := new(sockets).listen("wss", "unix:"+path)
		if err == nil {
			ln.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// DNS that says nothing holds the names of listeners up for a moment: all are asked for
// at once, and to listen asks nobody.
func TestListenerNamesHang(t *testing.T) {
	was := net.DefaultResolver
	defer func() { net.DefaultResolver = was }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	l := &Listen{WSS: []string{"127.0.0.1:0"}, Admin: "admin.hangs.test:0"}
	for i := range 6 {
		l.WSS = append(l.WSS, fmt.Sprintf("gate%d.hangs.test:0", i))
	}
	found := lookUpHosts(l) // would not end
	if len(found) != 7 {
		t.Errorf("%d hosts", len(found))
	}
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("DNS is asked")
		return nil, errors.New("deaf")
	}}
	s := new(sockets)
	s.know(hosts{"gate0.hangs.test": {addr: "127.0.0.1"}})
	s.know(found)
	if _, err := s.listen("wss", "gate1.hangs.test:0"); err == nil {
		t.Error("it listens")
	}
	ln, err := s.listen("wss", "gate0.hangs.test:0") // by what was known
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

// To close a socket whose folder hangs waits for nothing; nor does the question whose
// it is, for longer than its context.
func TestSocketClosesWhileFolderHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	ln, err := new(sockets).listen("wss", "unix:"+path)
	if err != nil {
		t.Fatal(err)
	}
	resume := files.Stall(path)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if !ln.(*unixListener).isOurs(ctx) {
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
