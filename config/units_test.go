package config

import (
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"0": 0, "500ms": 500 * time.Millisecond, "1m30s": 90 * time.Second, "14d": 14 * 24 * time.Hour, "366d": maxDuration,
	} {
		if got, err := ParseDuration(s); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "d", "10", "1.5d", "-1d", "-0.1s", "367d", "999999999999d", "9999999h", "1e3s", "NaNs"} {
		if got, err := ParseDuration(s); err == nil {
			t.Errorf("parseDuration(%q) = %v, want an error", s, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]Size{
		"0": 0, "512": 512, "512B": 512, "64KiB": 65536, "64KB": 64000, "64 kib": 65536, "1MiB": 1 << 20, "3GB": 3e9, "1024GiB": maxSize,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "KiB", "64K", "1.5MiB", "-1", "-0x1", "1e3", "0x10", "64  KiB", "64KiB ", "1025GiB", "99999999999999999999"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", s, got)
		}
	}
}

// A formatted size is read as the same size.
func TestSizeString(t *testing.T) {
	for size, want := range map[Size]string{0: "0", 1: "1", 1023: "1023", 1024: "1KiB", 1536: "1536", 1 << 20: "1MiB", 5 << 30: "5GiB"} {
		if got := size.String(); got != want {
			t.Errorf("Size(%d) = %q, want %q", int64(size), got, want)
		}
		if back, err := ParseSize(size.String()); err != nil || back != size {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", size, back, err, int64(size))
		}
	}
}

func TestParseRate(t *testing.T) {
	for s, want := range map[string]Rate{
		"": {}, "0": {}, "20/10m": {20, 10 * time.Minute}, "1/1s": {1, time.Second}, "1000000/366d": {maxRate, maxDuration}, "5/1h30m": {5, 90 * time.Minute},
	} {
		got, err := parseRate(s)
		if err != nil || got != want {
			t.Errorf("parseRate(%q) = %v, %v; want %v", s, got, err, want)
		}
		if again, err := parseRate(got.String()); err != nil || again != want {
			t.Errorf("%q is written %q, which is %v, %v", s, got, again, err)
		}
	}
	for _, s := range []string{"20", "/", "20/", "/10m", "0/10m", "20/0s", "20/10", "-1/10m", "20/-10m", "1.5/10m", "20/500ms", "1000001/1m",
		"99999999999999999999/1m", "20/10m/1", "20 / 10m", "20/10m ", "0x10/1m", "20/367d", "00", "off"} {
		if got, err := parseRate(s); err == nil {
			t.Errorf("parseRate(%q) = %v, want an error", s, got)
		}
	}
}

// In a file, a rate is a string or 0. Another number would be ambiguous.
func TestRateInFile(t *testing.T) {
	for value, want := range map[string]Rate{`"5/1m"`: {5, time.Minute}, `""`: {}, `"0"`: {}, `0`: {}} {
		cfg, err := parseString("[upstream.a]\nnodes = \"ws://127.0.0.1/\"\n[limits]\nlogin_failures = " + value)
		if err != nil || cfg.Limits.LoginFailures != want {
			t.Errorf("login_failures = %s: %v, %v; want %v", value, cfg.Limits.LoginFailures, err, want)
		}
	}
	for _, value := range []string{`20`, `true`, `["20/10m"]`, `"20"`} {
		if _, err := parseString("[upstream.a]\nnodes = \"ws://127.0.0.1/\"\n[limits]\nlogin_failures = " + value); err == nil {
			t.Errorf("login_failures = %s is taken", value)
		}
	}
}

func TestRateString(t *testing.T) {
	for rate, want := range map[Rate]string{{}: "", {20, 10 * time.Minute}: "20/10m", {5, time.Hour}: "5/1h", {5, 90 * time.Second}: "5/1m30s", {1, 10 * time.Second}: "1/10s"} {
		if got := rate.String(); got != want {
			t.Errorf("%d in %v is %q, want %q", rate.Count, rate.Period, got, want)
		}
	}
}

// limits.memory is a size, "off", or the default for the machine.
func TestMemoryLimit(t *testing.T) {
	for written, want := range map[string]MemoryLimit{
		`""`: MemoryDefault, `"off"`: 0, `"0"`: 0, `0`: 0, `"512MiB"`: 512 << 20, `536870912`: 512 << 20,
	} {
		cfg, err := parseString(small + "[limits]\nmemory = " + written + "\n")
		if err != nil || cfg.Limits.Memory != want {
			t.Errorf("memory = %s is %v, %v; want %d", written, cfg, err, want)
		}
	}
	if cfg, err := parseString(small); err != nil || cfg.Limits.Memory != MemoryDefault {
		t.Errorf("without the key: %v, %v; want the default", cfg, err)
	}
}
