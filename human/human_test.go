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
