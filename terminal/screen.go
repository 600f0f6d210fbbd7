package terminal

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// A screen writes text. err keeps the first error.
type screen struct {
	w      io.Writer
	colour bool
	err    error
}

// newScreen uses colours on a terminal, unless NO_COLOR is set (no-color.org) or the
// terminal is dumb.
func newScreen(w io.Writer) *screen {
	return &screen{w: w, colour: isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isTerminalFile(f)
}

func (s *screen) printf(format string, values ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.w, format, values...)
	}
}

// Paints are parameters of SGR (ECMA-48, section 8.3.117): the 16 colours that all
// terminals have.
const (
	plain = ""
	bold  = "1"
	soft  = "2"
	bad   = "31"
	good  = "32"
	warn  = "33"
	work  = "34"
)

func (s *screen) paint(how, text string) string {
	if !s.colour || how == plain || text == "" {
		return text
	}
	return "\x1b[" + how + "m" + text + "\x1b[0m"
}

// A cell is a text with a colour.
type cell struct{ text, paint string }

// table prints rows under their headings, in columns as wide as necessary. A heading
// that begins with a space marks a column of numbers.
func (s *screen) table(headings []string, rows [][]cell) {
	widths := make([]int, len(headings))
	for i, h := range headings {
		widths[i] = utf8.RuneCountInString(strings.TrimSpace(h))
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	line := func(row []cell) {
		var b strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			switch {
			case headings[i][0] == ' ':
				b.WriteString("  " + pad + s.paint(c.paint, c.text))
			case i == len(row)-1:
				b.WriteString("  " + s.paint(c.paint, c.text))
			default:
				b.WriteString("  " + s.paint(c.paint, c.text) + pad)
			}
		}
		s.printf("%s\n", strings.TrimRight(b.String(), " "))
	}
	var head []cell
	for _, h := range headings {
		head = append(head, cell{strings.TrimSpace(h), soft})
	}
	line(head)
	for _, row := range rows {
		line(row)
	}
}
