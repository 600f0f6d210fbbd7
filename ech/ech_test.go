package ech

import (
	"bytes"
	"context"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/files"
	"wssgate/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

const publicName = "gate.example.net"

// quiet returns a Keeper that looks when the test says so.
func quiet(t *testing.T, folder, publicName string) *Keeper {
	k := &Keeper{o: Options{publicName, folder, slog.New(slog.DiscardHandler)}, place: files.New("ech: keys", slog.New(slog.DiscardHandler)), held: map[string]*Key{}}
	k.ring.Store(&Ring{})
	return k
}

func look(t *testing.T, k *Keeper) {
	t.Helper()
	if err := k.look(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// accepts reports whether a client with the record gets through.
func accepts(r *Ring, list []byte) bool {
	k, err := parseConfig(list[2:])
	if err != nil {
		return false
	}
	for _, key := range r.For(k.id, Suite{kdfSHA256, aeadAES128}) {
		if bytes.Equal(key.Config, list[2:]) {
			return true
		}
	}
	return false
}

// For a year, two gates with one folder accept each record from when one of them publishes
// it until the grace after it was replaced is over, publish the same key after Settle, and
// leave few files.
func TestKeysForAYear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "ech")
		gates := []*Keeper{quiet(t, dir, publicName), quiet(t, dir, publicName)}
		until := map[string]time.Time{} // of each record: when it may stop to be good
		for range 365 {
			for i, k := range gates {
				if i == 1 && time.Now().YearDay()%50 < 10 {
					continue // this one is off
				}
				look(t, k)
				list := k.Ring().List()
				if list == nil {
					t.Fatal("no key to publish")
				}
				until[string(list)] = time.Now().Add(TTL + Grace - 25*time.Hour)
				for _, other := range gates {
					look(t, other)
					for list, end := range until {
						if time.Now().Before(end) && !accepts(other.Ring(), []byte(list)) {
							t.Fatalf("%v: a record that is good until %v is not accepted", time.Now(), end)
						}
					}
				}
			}
			time.Sleep(Settle)
			look(t, gates[0])
			look(t, gates[1])
			if a, b := gates[0].Ring().List(), gates[1].Ring().List(); !bytes.Equal(a, b) {
				t.Fatalf("%v: two gates publish different keys", time.Now())
			}
			time.Sleep(24*time.Hour - Settle)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) > 3 || len(until) < 12 || len(until) > 13 {
			t.Errorf("%d files, %v, after %d keys; want few files and 12 keys", len(entries), err, len(until))
		}
	})
}

// A clock that was wrong for a while costs no record.
func TestKeysFromTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		future, err := newKey(publicName, time.Now().Add(10*365*24*time.Hour), nil)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, future)
		k := quiet(t, dir, publicName)
		look(t, k)
		time.Sleep(Settle)
		look(t, k)
		if got := k.Ring().Current(); got == nil || got.Made.After(time.Now()) {
			t.Errorf("published: %+v; want a key of today", got)
		}
		if !accepts(k.Ring(), future.list()) {
			t.Error("the key from the future is not accepted")
		}
	})
}

// Another public name has a key of its own; the records of the old one stay good for a while.
func TestAnotherPublicName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		k := quiet(t, dir, "old.example.net")
		look(t, k)
		old := k.Ring().List()
		k = quiet(t, dir, publicName)
		look(t, k)
		if now := k.Ring().Current(); now == nil || now.PublicName != publicName || !accepts(k.Ring(), old) {
			t.Errorf("published: %+v; old record accepted: %v", now, accepts(k.Ring(), old))
		}
		time.Sleep(foreignLife + time.Hour)
		look(t, k)
		if accepts(k.Ring(), old) {
			t.Error("the old record is accepted for ever")
		}
	})
}

func write(t *testing.T, dir string, k *Key) {
	t.Helper()
	data, err := k.encode()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, k.File), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What damages a folder takes no key from clients, is said, and passes.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir, file string){
		"half a file": func(t *testing.T, dir, file string) { os.Truncate(file, 100) },
		"empty file":  func(t *testing.T, dir, file string) { os.Truncate(file, 0) },
		"a folder instead": func(t *testing.T, dir, file string) {
			os.Remove(file)
			os.Mkdir(file, 0o700)
		},
		"a huge file":    func(t *testing.T, dir, file string) { os.Truncate(file, 1<<30) },
		"another's key":  func(t *testing.T, dir, file string) { swapKey(t, file) },
		"no folder":      func(t *testing.T, dir, file string) { os.Rename(dir, dir+".away") },
		"an empty one":   func(t *testing.T, dir, file string) { os.Remove(file) },
		"folder is file": func(t *testing.T, dir, file string) { os.RemoveAll(dir); os.WriteFile(dir, nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ech")
			k := quiet(t, dir, publicName)
			look(t, k)
			record := k.Ring().List()
			damage(t, dir, filepath.Join(dir, k.Ring().Current().File))
			if err := k.look(context.Background()); err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("look = %v; want what is wrong in %q", err, dir)
			}
			if _, err := k.Problem(); err == nil {
				t.Error("no problem is shown")
			}
			if !accepts(k.Ring(), record) || !bytes.Equal(k.Ring().List(), record) {
				t.Error("the key is lost")
			}
		})
	}
}

// swapKey replaces the private key in a file by that of another.
func swapKey(t *testing.T, file string) {
	other, err := newKey(publicName, time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := other.encode()
	foreign, _ := pem.Decode(data)
	mine, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest := pem.Decode(mine)
	os.WriteFile(file, append(pem.EncodeToMemory(foreign), rest...), 0o600)
}

// A folder that can't be written leaves the gate without keys, and is said.
func TestUnusableFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k := quiet(t, filepath.Join(file, "ech"), publicName)
	if err := k.look(context.Background()); err == nil {
		t.Error("a folder below a file is not an error")
	}
	if r := k.Ring(); r.List() != nil || r.Retry() != nil || r.For(1, Suite{1, 1}) != nil {
		t.Errorf("ring = %+v; want none", r)
	}
}

// Records follow RFC 9460: a port has an owner of its own, and then a target.
func TestRecords(t *testing.T) {
	for _, row := range []struct {
		name string
		port int
		want string
	}{
		{"example1.com", 443, "example1.com. 3600 IN HTTPS 1 . ech=AAE=\n_443._wss.example1.com. 3600 IN SVCB 1 example1.com. alpn=http/1.1 port=443 ech=AAE="},
		{"example1.com", 5291, "_5291._https.example1.com. 3600 IN HTTPS 1 example1.com. ech=AAE=\n_5291._wss.example1.com. 3600 IN SVCB 1 example1.com. alpn=http/1.1 port=5291 ech=AAE="},
		{"*.example1.com", 443, "*.example1.com. 3600 IN HTTPS 1 . ech=AAE="},
		{"*.example1.com", 5291, "; *.example1.com at port 5291: a wildcard can't have records for a port; write those of each name"},
	} {
		if got := strings.Join(Records(row.name, row.port, []byte{0, 1}), "\n"); got != row.want {
			t.Errorf("Records(%q, %d) = %s\nwant %s", row.name, row.port, got, row.want)
		}
	}
	if TTL >= Grace {
		t.Error("a record outlives its key")
	}
}

// What decode takes, encode writes again.
func FuzzDecode(f *testing.F) {
	k, err := newKey(publicName, time.Now(), nil)
	if err != nil {
		f.Fatal(err)
	}
	good, _ := k.encode()
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decode(k.File, data)
		if err != nil {
			return
		}
		again, err := got.encode()
		if err != nil {
			t.Fatal(err)
		}
		same, err := decode(k.File, again)
		if err != nil || !bytes.Equal(same.config, got.config) || !bytes.Equal(same.private, got.private) {
			t.Errorf("%q becomes %q, %v", data, again, err)
		}
	})
}
