package tests

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"wssgate/internal/certtest"
	"wssgate/tests/internal/gate"
)

// The command line, in scripts: testdata/script/*.txtar, in the language of
// testscript with two commands more.
//
//	exits STATUS PROGRAM ARG…   the program ends with this exit status
//	cert FILE NAME…             FILE gets a certificate for the names, and its key
func TestScript(t *testing.T) {
	binary, err := gate.Build(false)
	if err != nil {
		t.Fatal(err)
	}
	ca := certtest.NewCA("wssgate test root")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", filepath.Dir(binary)+string(filepath.ListSeparator)+env.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"cert": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: cert FILE NAME…")
				}
				file := ts.MkAbs(args[0])
				ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
				ts.Check(os.WriteFile(file, ca.Issue(args[1:]...).PEM(), 0o600))
			},
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d; want %d", got, want)
	}
}

// Each file of testdata/bad has one mistake, named in its first line. The
// program says that and nothing else, listens nowhere and exits with status 2;
// "check" and "serve" agree.
func TestBadConfig(t *testing.T) {
	binary, err := gate.Build(false)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files in testdata/bad, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(data), "\n")
			want, ok := strings.CutPrefix(first, "# want: ")
			if !ok {
				t.Fatalf("first line %q; want one that begins with \"# want: \"", first)
			}
			site := gate.NewSite(t, name)
			site.Write(t, "config.toml", data)
			for _, command := range []string{"check", "serve"} {
				cmd := exec.Command(binary, command, "-config", "config.toml")
				cmd.Dir = site.Dir
				out, err := cmd.CombinedOutput()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != 2 {
					t.Errorf("%s: %v; want exit status 2", command, err)
				}
				if got := mistakes(string(out)); len(got) != 1 || got[0] != want {
					t.Errorf("%s: mistakes %q; want only %q\n%s", command, got, want, out)
				}
			}
		})
	}
}

// mistakes returns the lines that name a mistake: not hints, not excerpts.
func mistakes(out string) []string {
	var lines []string
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		if strings.HasPrefix(s.Text(), "config.toml: ") {
			lines = append(lines, s.Text())
		}
	}
	return lines
}
