package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The commands in README.md run, with -quick, and print figures.
func TestReadmeCommands(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	before := filepath.Join(t.TempDir(), "wssgate")
	build := exec.Command("go", "build", "-trimpath", "-o", before, "wssgate")
	build.Env = append(build.Environ(), "CGO_ENABLED=0") // as the rig builds its own
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir, ran := "..", 0
	for line := range strings.Lines(string(readme)) {
		command, isIndented := strings.CutPrefix(line, "    ")
		command, _, _ = strings.Cut(command, " #")
		command = strings.TrimSpace(command)
		if !isIndented || command == "" {
			continue
		}
		if to, ok := strings.CutPrefix(command, "cd "); ok {
			dir = filepath.Join(dir, to)
			continue
		}
		ran++
		at := dir // the one of this line
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			quick := command
			if strings.HasPrefix(command, "go run ") {
				quick = strings.ReplaceAll(command, "/tmp/wssgate", before) + " -quick"
			}
			cmd := exec.Command("bash", "-c", quick)
			cmd.Dir, cmd.Env = at, append(os.Environ(), "BENCHFLAGS=-quick") // make's
			var progress bytes.Buffer
			cmd.Stderr = &progress
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s%s", err, progress.Bytes(), out)
			}
			figure := regexp.MustCompile(`(?m)^\| .* \| [0-9.]+ \||^\S.*: +[0-9.]+ (s|MB|ms|µs)`)
			if rows := figure.FindAll(out, -1); len(rows) < 5 || bytes.Contains(out, []byte("–")) {
				t.Errorf("it prints %d rows of figures; want five at least, and none missing\n%s", len(rows), out)
			}
		})
	}
	if ran < 4 {
		t.Errorf("README.md has %d commands; want four at least", ran)
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{{[]float64{7}, 7}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(test.values); got != test.want {
			t.Errorf("median(%v) = %v; want %v", test.values, got, test.want)
		}
	}
}

func TestPercentile(t *testing.T) {
	var latencies []time.Duration
	for i := range 101 {
		latencies = append(latencies, time.Duration(100-i))
	}
	for p, want := range map[float64]time.Duration{0: 0, 0.5: 50, 0.99: 99, 1: 100} {
		if got := percentile(latencies, p); got != want {
			t.Errorf("percentile(0 to 100, %v) = %v; want %v", p, got, want)
		}
	}
}

func TestMessage(t *testing.T) {
	for _, size := range []int{128, 1 << 10, 16 << 10} {
		f, err := readMessage(bufio.NewReader(bytes.NewReader(message(size))), nil)
		if len(f.Payload) != size || !f.Masked || err != nil {
			t.Errorf("message(%d) is %v, %v", size, f, err)
		}
	}
}
