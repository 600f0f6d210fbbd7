package probe

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Print prints a step as a line, with its problem and notes below.
func (s *Step) Print(w io.Writer) {
	const indent = "                                 "
	word := "ok"
	if !s.OK() {
		word = "FAILED"
	}
	fmt.Fprintf(w, "  %-12s %-6s %7.1f ms", s.Name, word, s.Millis)
	sep := "  "
	for _, fact := range s.Facts {
		fmt.Fprintf(w, "%s%s\n", sep, fact)
		sep = indent
	}
	for _, note := range s.Notes {
		fmt.Fprintf(w, "%snote: %s\n", sep, note)
		sep = indent
	}
	if len(s.Facts)+len(s.Notes) == 0 {
		fmt.Fprintln(w)
	}
	for _, problem := range s.Problems {
		fmt.Fprintf(w, "    %s\n", problem.Text)
		if problem.Hint != "" {
			fmt.Fprintf(w, "      hint: %s\n", problem.Hint)
		}
	}
}

// printDiagnoses prints each diagnosis as a line, with the settings to change below it.
func printDiagnoses(w io.Writer, diagnoses []Diagnosis) {
	if len(diagnoses) > 0 {
		fmt.Fprintln(w)
	}
	for _, d := range diagnoses {
		fmt.Fprintf(w, "%s: %s\n", d.Code, d.Text)
		for _, fix := range d.Fixes {
			fmt.Fprintf(w, "  %-10s  %s: %s\n", fix.Server, fix.File, fix.Line)
		}
	}
}

// PrintEnd prints what follows the steps: the diagnoses, and whether all is well.
func (r *Report) PrintEnd(w io.Writer) {
	printDiagnoses(w, r.Diagnoses)
	fmt.Fprintf(w, "\n%s\n", verdict(r))
}

// verdict is the last line.
func verdict(r *Report) string {
	var took time.Duration
	var failed []string
	for _, s := range r.Steps {
		took += s.Took
		if !s.OK() {
			failed = append(failed, s.Name)
		}
	}
	if r.OK {
		return fmt.Sprintf("ok, in %.1f ms", float64(took.Microseconds())/1000)
	}
	return "failed: " + strings.Join(failed, ", ")
}
