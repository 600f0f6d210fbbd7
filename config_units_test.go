package main

import (
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"0": 0, "500ms": 500 * time.Millisecond, "1m30s": 90 * time.Second, "14d": 14 * 24 * time.Hour, "366d": maxDuration,
	} {
		if got, err := parseDuration(s); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "d", "10", "1.5d", "-1d", "-0.1s", "367d", "999999999999d", "9999999h", "1e3s", "NaNs"} {
		if got, err := parseDuration(s); err == nil {
			t.Errorf("parseDuration(%q) = %v, want an error", s, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]Size{
		"0": 0, "512": 512, "512B": 512, "64KiB": 65536, "64KB": 64000, "64 kib": 65536, "1MiB": 1 << 20, "3GB": 3e9, "1024GiB": maxSize,
	} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "KiB", "64K", "1.5MiB", "-1", "-0x1", "1e3", "0x10", "64  KiB", "64KiB ", "1025GiB", "99999999999999999999"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", s, got)
		}
	}
}

// A size is written as it is read.
func TestSizeString(t *testing.T) {
	for size, want := range map[Size]string{0: "0", 1: "1", 1023: "1023", 1024: "1KiB", 1536: "1536", 1 << 20: "1MiB", 5 << 30: "5GiB"} {
		if got := size.String(); got != want {
			t.Errorf("Size(%d) = %q, want %q", int64(size), got, want)
		}
		if back, err := parseSize(size.String()); err != nil || back != size {
			t.Errorf("parseSize(%q) = %d, %v; want %d", size, back, err, int64(size))
		}
	}
}
