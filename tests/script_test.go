package tests

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"wssgate/demo/minica"
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
	ca := minica.NewCA("wssgate test root")
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
