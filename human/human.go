// Package human says counts, durations and foreign text in the words of a person: for
// tables, findings and messages on a terminal.
package human

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Count is a number of things: "no warnings", "1 warning", "2 warnings".
func Count(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun + "s"
	case 1:
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Duration is a duration of minutes or more, rounded down: in days, in hours below two
// days, in minutes below two hours.
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

// maxCell is the width of a cell, in characters: one long name must not push the
// other columns off the screen.
const maxCell = 72

// Cell is what a table has for a text that somebody else chose, such as the name of
// a file: quoted where it would break the row, its middle left out where it is long.
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
