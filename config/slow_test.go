package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
				_, err := Reload(t.Context(), file0, false, unseen)
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
				if _, err := Reload(t.Context(), file0, false, unseen); err != nil {
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
			_, err := Reload(t.Context(), config, false, unseen)
			if !files.IsHang(err) {
				t.Fatalf("%v a call: reload = %v; want that it hangs", each, err)
			}
			<-files.FreeAfter(err)
			if _, err := Reload(t.Context(), config, true, unseen); err != nil {
				t.Errorf("%v a call: the second reload = %v", each, err)
			}
			end()
		})
	}
}
