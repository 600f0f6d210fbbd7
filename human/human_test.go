package human

import (
	"strings"
	"testing"
	"time"
)

func TestCount(t *testing.T) {
	for n, want := range map[int]string{0: "no lines", 1: "1 line", 2: "2 lines"} {
		if got := Count(n, "line"); got != want {
			t.Errorf("Count(%d) = %q; want %q", n, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for in, want := range map[time.Duration]string{
		-time.Hour:                  "less than a minute",
		time.Minute:                 "1 minute",
		2*time.Hour - 1:             "119 minutes",
		2 * time.Hour:               "2 hours",
		48*time.Hour - 1:            "47 hours",
		48 * time.Hour:              "2 days",
		90*24*time.Hour - time.Hour: "89 days",
	} {
		if got := Duration(in); got != want {
			t.Errorf("Duration(%v) = %q; want %q", in, got, want)
		}
	}
}

func TestCell(t *testing.T) {
	long := strings.Repeat("ä", 50) + strings.Repeat("z", 50)
	for in, want := range map[string]string{
		"a.pem":       "a.pem",
		"a\n\x1b[1mb": `"a\n\x1b[1mb"`,
		long:          strings.Repeat("ä", 35) + "…" + strings.Repeat("z", 36),
	} {
		if got := Cell(in); got != want {
			t.Errorf("Cell(%q) = %q; want %q", in, got, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000", -100: "-100"} {
		if got := Number(n); got != want {
			t.Errorf("Number(%d) = %q; want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 20 << 20: "20 MiB", 1<<20 - 1: "1.0 MiB", 5 << 50: "5120 TiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q; want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 90 * time.Second: "90s", 5 * time.Minute: "5m", 47 * time.Hour: "47h", 50 * time.Hour: "2d"} {
		if got := Short(d); got != want {
			t.Errorf("Short(%v) = %q; want %q", d, got, want)
		}
	}
}

// Untrusted text does not move a terminal's cursor.
func TestLine(t *testing.T) {
	if got, want := Line("a\x1b[2J\nb\tc\u202e"), "a\ufffd[2J b c\ufffd"; got != want {
		t.Errorf("Line = %q; want %q", got, want)
	}
}
