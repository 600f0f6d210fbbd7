package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"wssgate/files"
)

// If the configuration or a file that it names hangs, a reload fails after a
// while and names the file; a start waits.
func TestConfigHangs(t *testing.T) {
	dir := t.TempDir()
	file0 := filepath.Join(dir, "config.toml")
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
				was := Place
				Place = files.New("configuration", nil) // one in the bubble
				defer func() { Place = was }()
				resume := files.Stall(path)
				began := time.Now()
				_, err := (&Config{File: file0}).Reload(t.Context(), false, unseen)
				ce, ok := errors.AsType[*Error](err)
				if !ok || !files.IsHang(err) || !strings.Contains(ce.Error(), path) || time.Since(began) != files.Patience {
					t.Errorf("reload = %v after %v", err, time.Since(began))
				}
				began = time.Now()
				if _, err := Load(t.Context(), file0); !errors.Is(err, ErrNotRead) || !strings.Contains(err.Error(), path) || time.Since(began) != startFilesPatience {
					t.Errorf("start = %v after %v", err, time.Since(began))
				}
				time.AfterFunc(startFilesPatience/2, resume)
				if cfg, err := Load(t.Context(), file0); err != nil || string(cfg.Files[filepath.Join(dir, "token")]) != "0123456789abcdef\n" {
					t.Errorf("start = %v", err)
				}
				if _, err := (&Config{File: file0}).Reload(t.Context(), false, unseen); err != nil {
					t.Errorf("reload when it is back = %v", err)
				}
			})
		})
	}
}

// A watch can be turned off while its file hangs.
func TestConfigWatchHangs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	defer files.Stall(file)()
	w := NewWatch(file, sha256.Sum256(nil), nil)
	w.Set(true)
	w.Set(false)
}

// A configuration that is too slow for a reload is read completely by the next
// reload, for which nobody waits. It starts when the Place is free.
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
			was := Place
			Place = files.New("configuration", nil)
			defer func() { Place = was }()
			end := files.Delay(filepath.Join(dir, "1"), each) // 1.txt, 10.txt, 11.txt; two calls each
			if each < time.Second {
				end()
				end = files.Delay(dir, each)
			}
			_, err := (&Config{File: config}).Reload(t.Context(), false, unseen)
			if !files.IsHang(err) {
				t.Fatalf("%v a call: reload = %v; want that it hangs", each, err)
			}
			<-files.FreeAfter(err)
			if _, err := (&Config{File: config}).Reload(t.Context(), true, unseen); err != nil {
				t.Errorf("%v a call: the second reload = %v", each, err)
			}
			end()
		})
	}
}

// Files without which nobody gets in who should not delay neither a start nor, until they
// are back, a reload. Nothing is connected that needs them, and never with the system's
// roots.
func TestStartWithoutFilesThatHang(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config.toml")
	pair := newPair(t)
	text := small + `
[upstream.ca]
nodes = ["wss://127.0.0.1:1/"]
ca = "1/ca.pem"
[upstream.client]
nodes = ["wss://127.0.0.1:2/"]
client_certificate = "client.pem"
client_key = "2/client.key"
[upstream.good]
nodes = ["wss://127.0.0.1:3/"]
ca = "ca.pem"
[acme]
names = ["a.example.com"]
accept_terms = true
ca_root = "1/ca.pem"
eab_key_id = "id"
eab_key_file = "2/eab"
[[vhost]]
names = ["x.example.com"]
upstream = "good"
`
	write := func(name string, data []byte) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range map[string][]byte{"config.toml": []byte(text), "1/ca.pem": pair.certificate, "ca.pem": pair.certificate, "client.pem": pair.certificate, "2/client.key": pair.key, "2/eab": []byte("c2VjcmV0\n")} {
		write(name, data)
	}
	out := func(c *Config, want ...string) {
		t.Helper()
		if got := slices.Sorted(maps.Keys(c.UnreadUpstreams())); !slices.Equal(got, want) {
			t.Errorf("out: %q; want %q", got, want)
		}
		for name, u := range c.Upstream {
			tls, err := c.UpstreamTLS(u)
			if err != nil {
				t.Fatal(err)
			}
			if refuses := tls != nil && tls.VerifyConnection != nil; refuses != slices.Contains(want, name) || u.CA != "" && tls.RootCAs == nil {
				t.Errorf("upstream %q refuses: %t", name, refuses)
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		was := Place
		Place = files.New("configuration", nil)
		defer func() { Place = was }()
		back1, back2 := files.Stall(filepath.Join(dir, "1")), files.Stall(filepath.Join(dir, "2"))
		began := time.Now()
		first, err := LoadToServe(t.Context(), config)
		if err != nil || time.Since(began) != files.Patience {
			t.Fatalf("start = %v after %v", err, time.Since(began))
		}
		out(first, "ca", "client")
		if list := files.Hanging(); len(list) != 3 || list[0].What != "configuration" || !list[0].Since.Equal(began) {
			t.Errorf("hanging: %+v", list)
		}
		o, err := first.ACMEOptions(nil, nil)
		if err != nil || !files.IsHang(o.Unread) {
			t.Errorf("ACME: %v, %v", o.Unread, err)
		}
		back := first.Back()
		synctest.Wait()
		back1()
		<-back
		unseen := func([sha256.Size]byte) {}
		second, err := first.Reload(t.Context(), true, unseen)
		if err != nil {
			t.Fatalf("reload = %v", err)
		}
		first.Leave(second)
		out(second, "client")
		back = second.Back()
		back2()
		<-back
		synctest.Wait() // for the other file of 2 as well
		third, err := second.Reload(t.Context(), true, unseen)
		if err != nil {
			t.Fatalf("reload = %v", err)
		}
		second.Leave(third)
		out(third)
		if o, err := third.ACMEOptions(nil, nil); err != nil || o.Unread != nil || o.Roots == nil || string(o.EABKey) != "secret" {
			t.Errorf("ACME: %+v, %v", o, err)
		}
		third.Leave(nil)
		if list := files.Hanging(); len(list) > 0 {
			t.Errorf("hanging: %+v", list)
		}
		// A file that was not read is checked when it is.
		write("1/ca.pem", []byte("no certificate"))
		back1 = files.Stall(filepath.Join(dir, "1"))
		first, err = LoadToServe(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		back = first.Back()
		back1()
		<-back
		if _, err := first.Reload(t.Context(), true, unseen); err == nil || !strings.Contains(err.Error(), "has no certificate in PEM") {
			t.Errorf("reload = %v", err)
		}
		first.Leave(nil)
	})
}

// A file that is too slow each time is taken with what its last read returned.
func TestSlowUnreadIsTaken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		defer files.Delay(file, files.Patience+time.Second)()
		u := newUnread([]string{file})[0]
		defer u.place.Leave()
		_, err := u.read()
		if !files.IsHang(err) {
			t.Fatalf("read = %v", err)
		}
		<-files.FreeAfter(err)
		if data, err := u.read(); string(data) != "x" || err != nil {
			t.Errorf("read = %q, %v", data, err)
		}
		synctest.Wait()
		time.Sleep(time.Minute)
	})
}

// A handshake with the TLS configuration of an upstream that is out fails, and says why.
func TestRefuse(t *testing.T) {
	pair := newPair(t)
	cert, err := tls.X509KeyPair(pair.certificate, pair.key)
	if err != nil {
		t.Fatal(err)
	}
	c, s := net.Pipe()
	defer c.Close()
	defer s.Close()
	go tls.Server(s, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake()
	why := errors.New("it hangs")
	if err := tls.Client(c, refuse(why)).Handshake(); !errors.Is(err, why) {
		t.Errorf("handshake = %v; want %v", err, why)
	}
}

type pair struct{ certificate, key []byte } // PEM

func newPair(t *testing.T) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}
}
