package gate

import (
	"os"
	"path/filepath"
	"testing"

	"wssgate/config"
	"wssgate/listen"
)

// If the token file is emptied after the configuration was checked, the checked
// token stays in force, and nobody gets access without it.
func TestAdminTokenGone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse(filepath.Join(dir, "config.toml"), []byte("[upstream.tigase]\nnodes = \"ws://127.0.0.1:5290/\"\n"+"[listen]\nadmin_token_file = \"token\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Listen.Admin = ""
	l, err := newConsole(nil, nil).open(cfg, new(listen.Sockets))
	if err != nil || l.access.Token != "0123456789abcdef" {
		t.Errorf("%+v, %v; want the token that was checked", l, err)
	}
	cfg.Files = nil
	if l, err := newConsole(nil, nil).open(cfg, new(listen.Sockets)); err == nil {
		t.Errorf("no token opens it: %+v", l)
	}
}
