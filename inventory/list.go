package inventory

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"wssgate/certstore"
	"wssgate/human"
)

// Expiring lists the chosen certificates that expire within a time.
func (l List) Expiring(now time.Time, within time.Duration) (lines []string) {
	for _, e := range l.Certificates {
		if e.Chosen && e.NotAfter.Before(now.Add(within)) {
			lines = append(lines, fmt.Sprintf("certificate %q for %q: expires %s", source(e), e.Name, expiry(e, now)))
		}
	}
	return lines
}

// Bad lists what else needs attention.
func (l List) Bad() (lines []string) {
	for _, p := range l.Problems {
		line := p.Error
		if p.Hint != "" {
			line += "\n  hint: " + p.Hint
		}
		lines = append(lines, line)
	}
	if len(l.Certificates)+len(l.Missing)+len(l.ACME) == 0 {
		lines = append(lines, "no certificate is available; every client is refused")
	}
	for _, name := range l.Missing {
		lines = append(lines, fmt.Sprintf("no certificate for server name %q; its clients are refused", name))
	}
	for _, a := range l.ACME {
		if a.NotAfter.IsZero() {
			lines = append(lines, fmt.Sprintf("acme: no certificate for %q: %s", a.Name, a.State))
		}
	}
	return lines
}

// A List has every certificate of an inventory and what needs attention. Its JSON has
// stable names, times in RFC 3339, and never null.
type List struct {
	Certificates []certstore.Entry    `json:"certificates"`
	Problems     []certificateProblem `json:"problems"`
	Missing      []string             `json:"missing"` // names of vhosts that have none, but for those of ACME
	ACME         []acmeName           `json:"acme"`
	Warnings     []certificateWarning `json:"warnings"`
	Ignored      []ignoredFile        `json:"ignored"` // files and folders that are not used

	directory   string
	ignoredMore int // further ones
}

// An ignoredFile is in the folder of certificates and not used.
type ignoredFile struct {
	File string `json:"file"`
	Why  string `json:"why"`
	Hint string `json:"hint,omitempty"`
}

// A certificateWarning is why some clients reject a certificate that is served.
type certificateWarning struct {
	Rule    string `json:"rule"` // see certstore.RuleNames
	File    string `json:"file"` // empty for one that is not from a file
	Warning string `json:"warning"`
	Hint    string `json:"hint"`
}

type certificateProblem struct {
	File  string `json:"file"`
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
	Kept  bool   `json:"kept"` // what the file held before is still served, or what it holds now regardless
}

// An acmeName is a certificate to obtain from a CA.
type acmeName struct {
	Name     string    `json:"name"`               // the first of Names
	Names    []string  `json:"names"`              // of the certificate
	State    string    `json:"state"`              // see certstore.ACMEState
	NotAfter time.Time `json:"not_after,omitzero"` // of its certificate; none where there is no certificate
	NextTry  time.Time `json:"next_try,omitzero"`
	Failures int       `json:"failures"`
	Error    string    `json:"error,omitempty"` // of the last order, in the CA's own words
}

// List returns the certificates of the inventory, and what is wrong with them.
func (inv *Inventory) List() List {
	list := List{[]certstore.Entry{}, []certificateProblem{}, []string{}, []acmeName{}, []certificateWarning{}, []ignoredFile{}, inv.Config.Certificates.Directory, inv.moreIgnored} // never null in JSON
	list.Certificates = append(list.Certificates, inv.certificates...)
	for _, p := range inv.problems {
		list.Problems = append(list.Problems, certificateProblem{p.File, p.Err.Error(), p.Hint, p.Kept})
	}
	for _, w := range inv.rejected {
		list.Warnings = append(list.Warnings, certificateWarning{w.Rule, w.File, w.Text, w.Hint})
	}
	for _, i := range inv.ignored {
		list.Ignored = append(list.Ignored, ignoredFile{i.File, i.Why, i.Hint})
	}
	for _, s := range inv.Config.Served(inv.certificates) {
		if len(s.Certificates) == 0 && !slices.Contains(inv.Config.ACME.AllNames(), s.Name) {
			list.Missing = append(list.Missing, s.Name)
		}
	}
	for _, s := range inv.acme {
		list.ACME = append(list.ACME, acmeName{s.Name, s.Names, string(s.State), s.NotAfter, s.NextTry, s.Failures, s.Err})
	}
	return list
}

// PrintJSON prints the list as one JSON object.
func (l List) PrintJSON(w io.Writer) error {
	if l.ignoredMore > 0 {
		l.Ignored = append(l.Ignored, ignoredFile{File: l.directory, Why: fmt.Sprintf("%d more that are not listed", l.ignoredMore)})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(l)
}

// Print prints the list as a table, then the names of ACME and the files that are ignored.
func (l List) Print(w io.Writer, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tCERTIFICATE\tISSUER\tEXPIRES\tKEY\tSTATE\tWHY")
	for _, e := range l.Certificates {
		why := "not chosen: " + e.Why
		if e.Chosen {
			why = "chosen: " + e.Why
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", human.Cell(e.Name), human.Cell(source(e)), human.Cell(e.Issuer), expiry(e, now), e.KeyType, e.State, human.Cell(why))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, a := range l.ACME {
		line := fmt.Sprintf("acme: %s: %s", a.Name, a.State)
		if a.Error != "" {
			line += fmt.Sprintf(", %s, next try %s: %s", human.Count(a.Failures, "failure"), a.NextTry.Local().Format(time.DateTime), a.Error)
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	for _, line := range foldIgnored(l.Ignored, l.ignoredMore) {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// foldIgnored says which files are ignored, and why. Of those with the same reason it
// names the first three.
func foldIgnored(list []ignoredFile, more int) (lines []string) {
	if len(list) == 0 {
		return nil
	}
	const most = 3
	of := map[string]int{} // by reason
	for _, i := range list {
		of[i.Why]++
	}
	lines = append(lines, "", fmt.Sprintf("ignored: %s", human.Count(len(list)+more, "file")))
	seen := map[string]int{}
	for _, i := range list {
		seen[i.Why]++
		switch n := seen[i.Why]; {
		case n > most:
			continue
		case n == most && of[i.Why] > most:
			lines = append(lines, fmt.Sprintf("  %s, and %d more: %s", human.Cell(i.File), of[i.Why]-most, i.Why))
		default:
			lines = append(lines, fmt.Sprintf("  %s: %s", human.Cell(i.File), i.Why))
		}
		if i.Hint != "" && (seen[i.Why] == 1 || strings.Contains(i.Hint, i.File)) {
			lines = append(lines, "    hint: "+i.Hint)
		}
	}
	if more > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", more))
	}
	return lines
}
