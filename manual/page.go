package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// The pages are in mdoc(7), which mandoc and groff both read.

// page is wssgate(1).
func (u *usage) page(day time.Time) string {
	var b strings.Builder
	heading(&b, day, "WSSGATE", "1")
	b.WriteString(".Sh NAME\n.Nm wssgate\n.Nd TLS gateway for XMPP over WebSocket\n")
	b.WriteString(".Sh SYNOPSIS\n.Nm\n.Ar command\n.Op Ar argument ...\n.Sh DESCRIPTION\n")
	prose(&b, u.head)
	b.WriteString(".Sh COMMANDS\n")
	for _, c := range u.commands {
		fmt.Fprintf(&b, ".Ss %s\n", escape(strings.TrimSpace(c.name+" "+c.synopsis)))
		prose(&b, c.text)
		if len(c.flags) == 0 {
			continue
		}
		b.WriteString(".Bl -tag -width Ds\n")
		for _, f := range c.flags {
			fmt.Fprintf(&b, ".It Fl %s", f.name)
			if f.argument != "" {
				fmt.Fprintf(&b, " Ar %s", escape(f.argument))
			}
			b.WriteString("\n")
			prose(&b, f.text)
		}
		b.WriteString(".El\n")
	}
	b.WriteString(".Sh USAGE\n")
	prose(&b, u.tail)
	b.WriteString(".Sh SEE ALSO\n.Xr wssgate.toml 5\n")
	return b.String()
}

var (
	keyLine   = regexp.MustCompile(`^#?([a-z_]+) = (.*)$`)
	tableLine = regexp.MustCompile(`^#?(\[+[a-z._]+\]+)$`)
)

// keysPage is wssgate.toml(5). In the example, comments begin with "# ", and stand above
// what they are about, which may be commented out with a "#" alone.
func keysPage(example string, day time.Time) string {
	var b strings.Builder
	heading(&b, day, "WSSGATE.TOML", "5")
	b.WriteString(".Sh NAME\n.Nm wssgate.toml\n.Nd configuration of wssgate\n.Sh DESCRIPTION\n")
	var comment []string
	first, inList := true, false
	flush := func() {
		prose(&b, strings.Join(comment, "\n"))
		comment = nil
	}
	end := func() {
		if inList {
			b.WriteString(".El\n")
		}
		inList = false
	}
	for line := range strings.Lines(example) {
		line = strings.TrimRight(line, "\n")
		table, key := tableLine.FindStringSubmatch(line), keyLine.FindStringSubmatch(line)
		switch {
		case table != nil:
			end()
			fmt.Fprintf(&b, ".Ss %s\n", escape(table[1]))
			flush()
		case key != nil:
			if !inList {
				b.WriteString(".Bl -tag -width Ds\n")
			}
			inList = true
			fmt.Fprintf(&b, ".It %s = %s\n", escape(key[1]), escape(strings.ReplaceAll(key[2], `"`, `\(dq`)))
			flush()
		case line == "" && len(comment) > 0: // it is about the file
			flush()
			if first {
				b.WriteString(".Sh KEYS\n")
			}
			first = false
		case line != "":
			comment = append(comment, strings.TrimPrefix(strings.TrimPrefix(line, "#"), " "))
		}
	}
	end()
	b.WriteString(".Sh SEE ALSO\n.Xr wssgate 1\n")
	return b.String()
}

func heading(b *strings.Builder, day time.Time, title, section string) {
	fmt.Fprintf(b, ".Dd %s\n.Dt %s %s\n.Os wssgate\n", day.Format("January 2, 2006"), title, section)
}

// sentenceEnd is where mdoc wants a new line.
var sentenceEnd = regexp.MustCompile(`([.:?!][)"]?) +([A-Z"(-])`)

// prose writes paragraphs, and lines that begin with two spaces as they are.
func prose(b *strings.Builder, text string) {
	var paragraph []string
	literal, blank, wrote := false, false, false
	flush := func() {
		if len(paragraph) == 0 {
			return
		}
		if wrote {
			b.WriteString(".Pp\n")
		}
		b.WriteString(sentenceEnd.ReplaceAllString(escape(strings.Join(paragraph, " ")), "$1\n$2") + "\n")
		paragraph, wrote = nil, true
	}
	for line := range strings.SplitSeq(text, "\n") {
		isLiteral := strings.HasPrefix(line, "  ")
		switch {
		case strings.TrimSpace(line) == "":
			flush()
			blank = true
			continue
		case isLiteral && !literal:
			flush()
			b.WriteString(".Bd -literal -offset indent\n")
		case !isLiteral && literal:
			b.WriteString(".Ed\n")
			wrote = true
		case isLiteral && blank:
			b.WriteString("\n")
		}
		literal, blank = isLiteral, false
		if isLiteral {
			b.WriteString(strings.ReplaceAll(escape(strings.TrimSpace(line)), "-", `\-`) + "\n")
		} else {
			paragraph = append(paragraph, strings.TrimSpace(line))
		}
	}
	flush()
	if literal {
		b.WriteString(".Ed\n")
	}
}

var (
	control = regexp.MustCompile(`(?m)^([.'])`)
	aFlag   = regexp.MustCompile(`(^|[ \["(])-([a-z])`)
)

// escape is text as roff takes it for that text.
func escape(text string) string {
	text = strings.ReplaceAll(text, `\(dq`, "\x00")
	text = strings.ReplaceAll(text, `\`, `\e`)
	text = strings.ReplaceAll(text, "\x00", `\(dq`)
	text = aFlag.ReplaceAllString(text, `$1\-$2`)
	var b strings.Builder
	for _, r := range control.ReplaceAllString(text, `\&$1`) {
		if r > unicode.MaxASCII {
			fmt.Fprintf(&b, `\[u%04X]`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
