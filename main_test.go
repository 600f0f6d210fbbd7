package main

import (
	"context"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"

	"wssgate/config"
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

// The example of the usage is a real one.
func TestUsageExample(t *testing.T) {
	_, rest, ok := strings.Cut(usage(), "printf '")
	if !ok {
		t.Fatal("usage has no printf")
	}
	format, _, _ := strings.Cut(rest, "'")
	if _, err := config.Parse("config.toml", []byte(strings.ReplaceAll(format, `\n`, "\n"))); err != nil {
		t.Error(err)
	}
}

func TestVersion(t *testing.T) {
	for _, word := range []string{"version", "--version"} {
		if status, stdout, _ := wssgate(t, word); status != exitOK || !strings.HasPrefix(stdout, "wssgate ") {
			t.Errorf("%s: status %d, %q; want 0 and a line that begins with wssgate", word, status, stdout)
		}
	}
	info := &debug.BuildInfo{
		Main: debug.Module{Version: "v1.2.3"},
		Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"},
			{Key: "vcs.modified", Value: "true"},
		},
	}
	if got, want := versionLine(info), "wssgate v1.2.3, commit 0123456789ab, modified, go"; !strings.HasPrefix(got, want) {
		t.Errorf("versionLine = %q, want %q and the Go release", got, want)
	}
	if got, want := versionLine(nil), "wssgate (devel), go"; !strings.HasPrefix(got, want) {
		t.Errorf("versionLine(nil) = %q, want %q and the Go release", got, want)
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
