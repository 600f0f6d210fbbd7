// Package human formats counts, durations and untrusted text for people: in tables,
// findings and messages on a terminal.
package human

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Count formats a number of things: "no warnings", "1 warning", "2 warnings".
func Count(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun + "s"
	case 1:
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Duration formats a duration of minutes or more, rounded down: in days, in hours below
// two days, in minutes below two hours.
func Duration(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return Count(int(d/(24*time.Hour)), "day")
	case d >= 2*time.Hour:
		return Count(int(d/time.Hour), "hour")
	case d >= time.Minute:
		return Count(int(d/time.Minute), "minute")
	}
	return "less than a minute"
}

// maxCell is the width of a cell in characters: a long name must not push the other
// columns off the screen.
const maxCell = 72

// Cell formats untrusted text, such as a file name, for a table. It quotes the text if
// that would break the row, and leaves out its middle if it is long.
func Cell(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		s = strconv.Quote(s)
	}
	if r := []rune(s); len(r) > maxCell {
		const tail = maxCell / 2
		s = string(r[:maxCell-tail-1]) + "…" + string(r[len(r)-tail:])
	}
	return s
}

// Bytes formats a number of bytes: "512 B", "1.5 KiB", "20 MiB".
func Bytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, unit := float64(n), 0
	for v >= 1023.5 && unit < len(units)-1 {
		v /= 1024
		unit++
	}
	if unit > 0 && v < 10 {
		return fmt.Sprintf("%.1f %s", v, units[unit])
	}
	return fmt.Sprintf("%.0f %s", v, units[unit])
}

// Number formats a whole number with separators: "12,345".
func Number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Short formats a duration as a number and a unit: "8s", "5m", "3h", "12d".
func Short(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// Line formats partly untrusted text as one line without control characters.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return '\ufffd'
	}, s)
}
