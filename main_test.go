package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"wssgate/gate"
	"wssgate/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// wssgate runs a command line and returns what came of it.
func wssgate(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err strings.Builder
	status = dispatch(t.Context(), args, &out, &err)
	return status, out.String(), err.String()
}

// The command line says what is wrong with it, and what was probably meant.
func TestCommandLineMistakes(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"chek"}, "wssgate: unknown command \"chek\"\n  hint: did you mean \"check\"?\n"},
		{[]string{"qqqq"}, "wssgate: unknown command \"qqqq\"\n  hint: \"wssgate help\" lists them\n"},
		{[]string{"help", "chek"}, "wssgate: unknown command \"chek\"\n  hint: did you mean \"check\"?\n"},
		{[]string{"check", "-confg", "x"}, "wssgate check: flag provided but not defined: -confg\n  hint: did you mean -config?\n"},
		{[]string{"check", "-q"}, "wssgate check: flag provided but not defined: -q\n  hint: see wssgate check -h\n"},
		{[]string{"check", "config.toml"}, "wssgate check: unexpected \"config.toml\"\n  hint: see wssgate check -h\n"},
		{[]string{"serve", "-config"}, "wssgate serve: flag needs an argument: -config\n  hint: see wssgate serve -h\n"},
		{[]string{"certs", "-within", "soon"}, "wssgate certs: invalid value \"soon\" for flag -within: is not a duration\n  hint: see wssgate certs -h\n"},
		{[]string{"version", "x"}, "wssgate version: unexpected \"x\"\n  hint: see wssgate version -h\n"},
		{[]string{"serve", "-config", "no-such.toml"}, "no-such.toml: no such file or directory\n  hint: name the file with -config FILE; config.toml.example has every key\n"},
	} {
		status, stdout, stderr := wssgate(t, test.args...)
		if status != exitUsage || stdout != "" || stderr != test.want {
			t.Errorf("%q: status %d, standard output %q, standard error %q; want 2, nothing, %q", test.args, status, stdout, stderr, test.want)
		}
	}
}

// Asked for help, each command answers on standard output with status 0; not
// asked, the usage is a mistake's answer.
func TestHelp(t *testing.T) {
	status, _, stderr := wssgate(t)
	if status != exitUsage || stderr != usage() {
		t.Errorf("without arguments: status %d, standard error %q; want 2 and the usage", status, stderr)
	}
	for _, args := range [][]string{{"help"}, {"-h"}, {"--help"}} {
		status, stdout, stderr := wssgate(t, args...)
		if status != exitOK || stdout != usage() || stderr != "" {
			t.Errorf("%q: status %d, %q, %q; want 0 and the usage", args, status, stdout, stderr)
		}
	}
	for _, c := range commands {
		if !strings.Contains(usage(), "wssgate "+c.name+" ") {
			t.Errorf("usage does not name %q", c.name)
		}
		for _, args := range [][]string{{c.name, "-h"}, {c.name, "--help"}, {"help", c.name}} {
			status, stdout, stderr := wssgate(t, args...)
			if status != exitOK || stderr != "" || !strings.HasPrefix(stdout, "usage: wssgate "+c.name) {
				t.Errorf("%q: status %d, %q, %q; want 0 and its usage", args, status, stdout, stderr)
			}
		}
	}
}

// The usage fits a screen of 80 columns and 24 lines.
func TestUsageIsOneScreen(t *testing.T) {
	lines := strings.Split(strings.TrimSuffix(usage(), "\n"), "\n")
	if len(lines) > 24 {
		t.Errorf("usage has %d lines, want at most 24", len(lines))
	}
	for _, line := range lines {
		if len(line) > 80 {
			t.Errorf("line of %d bytes: %q", len(line), line)
		}
	}
}

// What init writes is a configuration, and the example of the usage goes on with it.
// It replaces nothing.
func TestInit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if status, stdout, stderr := wssgate(t, "init", "-config", file); status != exitOK || stderr != "" || !strings.HasSuffix(stdout, "shows what it does\n") {
		t.Fatalf("init: status %d, %q, %q", status, stdout, stderr)
	}
	if status, stdout, stderr := wssgate(t, "check", "-offline", "-config", file); status != exitOK {
		t.Errorf("check: status %d, %q, %q", status, stdout, stderr)
	}
	written, _ := os.ReadFile(file)
	if status, _, stderr := wssgate(t, "init", "-config", file); status != exitFailed || !strings.Contains(stderr, "exists") {
		t.Errorf("init over a file: status %d, %q; want 1, and that it exists", status, stderr)
	}
	if again, _ := os.ReadFile(file); string(again) != string(written) {
		t.Errorf("the file is now %q", again)
	}
	if status, _, _ := wssgate(t, "init", "-config", filepath.Join(file, "config.toml")); status != exitFailed {
		t.Errorf("init below a file: status %d; want 1", status)
	}
}

func TestVersion(t *testing.T) {
	for _, word := range []string{"version", "--version"} {
		if status, stdout, _ := wssgate(t, word); status != exitOK || !strings.HasPrefix(stdout, "wssgate ") {
			t.Errorf("%s: status %d, %q; want 0 and a line that begins with wssgate", word, status, stdout)
		}
	}
	build := gate.Build{Version: "v1.2.3", Commit: "0123456789ab", Modified: true}
	if got, want := build.String(), "wssgate v1.2.3, commit 0123456789ab, modified, go"; !strings.HasPrefix(got, want) {
		t.Errorf("Build = %q, want %q and the Go release", got, want)
	}
}

// The first signal ends the context, the second one the process.
func TestSignals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signals := make(chan os.Signal, 2)
		ctx, cancel := context.WithCancel(context.Background())
		killed := false
		go endOnSignal(ctx, signals, cancel, func() { killed = true })

		synctest.Wait()
		if ctx.Err() != nil {
			t.Fatal("the context ended without a signal")
		}
		signals <- os.Interrupt
		synctest.Wait()
		if ctx.Err() == nil || killed {
			t.Fatalf("after one signal: context %v, killed %t; want a cancelled one, false", ctx.Err(), killed)
		}
		signals <- os.Interrupt
		synctest.Wait()
		if !killed {
			t.Error("a second signal did not kill")
		}
	})
}

// A command that ends without any signal leaves nothing waiting for one.
func TestSignalsAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // fails where a goroutine is left
		ctx, cancel := context.WithCancel(context.Background())
		go endOnSignal(ctx, nil, cancel, func() { t.Error("killed") })
		cancel()
	})
}

// What cannot be written is a failure, not a success.
func TestCertsToClosedPipe(t *testing.T) {
	file := configWithCertificates(t, nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	if status := dispatch(t.Context(), []string{"certs", "-json", "-config", file}, w, io.Discard); status != exitFailed {
		t.Errorf("exit status = %d, want %d", status, exitFailed)
	}
}
