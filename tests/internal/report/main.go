// Command report reads what "go test -json" writes, with whatever make writes
// around it, and shows what CI is to show: go test's closing lines as they
// come, everything that a failed test has written, and the figures that tests
// measure. It ends with status 1 if a test failed or was skipped, or if there
// was none.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	r := newReport(os.Stdout)
	err := r.read(os.Stdin)
	if err == nil {
		err = r.verdict()
	}
	if err != nil {
		fmt.Println("report:", err)
		os.Exit(1)
	}
}

// A report is the state of one reading.
type report struct {
	w      io.Writer
	output map[test]*strings.Builder // of tests that are not done, and of packages
	passed int
	failed int
	skips  []string
}

// A test is one test of a package; its name is empty for the package itself.
type test struct{ pkg, name string }

func (t test) String() string { return strings.TrimSuffix(t.pkg+" "+t.name, " ") }

// An event is one line of test2json; see "go doc cmd/test2json".
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
}

func newReport(w io.Writer) *report {
	return &report{w: w, output: map[test]*strings.Builder{}}
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		var e event
		switch {
		case strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &e) == nil && e.Action != "":
			r.take(e)
		case line != "":
			fmt.Fprint(r.w, line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) take(e event) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.w, e.Output)
	case "output":
		if r.output[t] == nil {
			r.output[t] = new(strings.Builder)
		}
		r.output[t].WriteString(e.Output)
		if i := strings.Index(e.Output, figure); i >= 0 {
			fmt.Fprint(r.w, e.Output[i:])
		}
	case "pass", "fail", "skip":
		r.done(t, e.Action)
	}
}

// figure is how a test begins a line that is to be seen even though it passes.
const figure = "figure: "

// done ends a test or, where it has no name, a package.
func (r *report) done(t test, action string) {
	var written string
	if out := r.output[t]; out != nil {
		written = out.String()
	}
	delete(r.output, t)
	switch {
	case t.name == "" && action == "fail":
		fmt.Fprint(r.w, written) // of TestMain, of a panic, and the closing line
		r.failed++
	case t.name == "":
		fmt.Fprint(r.w, closingLine(written))
	case action == "pass":
		r.passed++
	case action == "fail":
		fmt.Fprint(r.w, written)
		r.failed++
	case action == "skip":
		r.skips = append(r.skips, t.String()+": "+reasonOf(written))
	}
}

// closingLine returns the last line, which for a package is go test's own.
func closingLine(written string) string {
	written = strings.TrimSuffix(written, "\n")
	if written == "" {
		return ""
	}
	return written[strings.LastIndexByte(written, '\n')+1:] + "\n"
}

// reasonOf returns what a skipped test wrote, without go test's own lines.
func reasonOf(written string) string {
	var kept []string
	for line := range strings.Lines(written) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, " ")
}

// verdict says how it went, and returns an error unless all is well.
func (r *report) verdict() error {
	for _, skip := range r.skips {
		fmt.Fprintln(r.w, "skipped:", skip)
	}
	switch {
	case r.failed > 0:
		return fmt.Errorf("%d failed", r.failed)
	case len(r.skips) > 0:
		return fmt.Errorf("%d skipped, and nothing may be", len(r.skips))
	case r.passed == 0:
		return fmt.Errorf("no test was run")
	}
	fmt.Fprintf(r.w, "%d tests passed, none skipped\n", r.passed)
	return nil
}
