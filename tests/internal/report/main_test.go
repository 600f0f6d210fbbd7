package main

import (
	"fmt"
	"strings"
	"testing"
)

// Lines of test2json, as go test writes them.
const (
	passes = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: figure: 7 bytes\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- PASS: TestA (0.00s)\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.01s\n"}
{"Action":"pass","Package":"p","Elapsed":0.01}
`
	fails = `{"Action":"output","Package":"q","Test":"TestB","Output":"    b_test.go:9: wrong\n"}
{"Action":"fail","Package":"q","Test":"TestB","Elapsed":0}
{"Action":"output","Package":"q","Output":"FAIL\tq\t0.01s\n"}
{"Action":"fail","Package":"q","Elapsed":0.01}
`
	skips = `{"Action":"output","Package":"q","Test":"TestC","Output":"    c_test.go:9: no browser\n"}
{"Action":"skip","Package":"q","Test":"TestC","Elapsed":0}
{"Action":"output","Package":"q","Output":"ok  \tq\t0.01s\n"}
{"Action":"pass","Package":"q","Elapsed":0.01}
`
	broken = `{"ImportPath":"q","Action":"build-output","Output":"q.go:1:1: expected 'package'\n"}
{"ImportPath":"q","Action":"build-fail"}
{"Action":"output","Package":"q","Output":"FAIL\tq [build failed]\n"}
{"Action":"fail","Package":"q","Elapsed":0,"FailedBuild":"q"}
`
)

// What fails is shown whole, what passes in one line, and a skip is no pass.
func TestReport(t *testing.T) {
	for _, tt := range []struct{ in, want, err string }{
		{"go test ./...\n" + passes, "go test ./...\nfigure: 7 bytes\nok  \tp\t0.01s\n1 tests passed, none skipped\n", "<nil>"},
		{passes + fails, "figure: 7 bytes\nok  \tp\t0.01s\n    b_test.go:9: wrong\nFAIL\tq\t0.01s\n", "2 failed"},
		{passes + skips, "figure: 7 bytes\nok  \tp\t0.01s\nok  \tq\t0.01s\nskipped: q TestC: c_test.go:9: no browser\n", "1 skipped, and nothing may be"},
		{broken, "q.go:1:1: expected 'package'\nFAIL\tq [build failed]\n", "1 failed"},
		{"make: *** no rule\n", "make: *** no rule\n", "no test was run"},
	} {
		var out strings.Builder
		r := newReport(&out)
		err := r.read(strings.NewReader(tt.in))
		if err == nil {
			err = r.verdict()
		}
		if out.String() != tt.want || fmt.Sprint(err) != tt.err {
			t.Errorf("report of %q:\n%s%v\nwant:\n%s%s", tt.in, out.String(), err, tt.want, tt.err)
		}
	}
}
