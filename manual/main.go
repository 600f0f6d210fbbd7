// Command manual writes the manual pages and the completion of shells. It takes them from
// where an operator reads the same: what "wssgate help" and the -h of each command print,
// and config.toml.example. It is for the Makefile, and no part of wssgate.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

func main() {
	program := flag.String("program", "./wssgate", "the `PROGRAM`, for this machine")
	example := flag.String("example", "config.toml.example", "the `FILE` with every key")
	date := flag.String("date", "", "the `DATE` of the pages, such as 2026-11-29")
	dir := flag.String("o", "build/manual", "write to the `FOLDER`")
	flag.Parse()
	if err := write(*program, *example, *date, *dir); err != nil {
		fmt.Fprintf(os.Stderr, "manual: %v\n", err)
		os.Exit(1)
	}
}

func write(program, example, date, dir string) error {
	day, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return err
	}
	help := func(args ...string) (string, error) {
		out, err := exec.Command(program, append([]string{"help"}, args...)...).Output()
		return string(out), err
	}
	usage, err := help()
	if err != nil {
		return err
	}
	u, err := readUsage(usage)
	if err != nil {
		return err
	}
	for i := range u.commands {
		text, err := help(u.commands[i].name)
		if err == nil {
			err = u.commands[i].readHelp(text)
		}
		if err != nil {
			return err
		}
	}
	keys, err := os.ReadFile(example)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"wssgate.1":      u.page(day),
		"wssgate.toml.5": keysPage(string(keys), day),
		"wssgate.bash":   u.bash(),
		"_wssgate":       u.zsh(),
		"wssgate.fish":   u.fish(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// A usage is what "wssgate help" prints.
type usage struct {
	head, tail string // the text before and after the commands
	commands   []command
}

// A command is a line of it, with what its -h prints.
type command struct {
	name, summary, synopsis string
	words                   []string // what its first argument may be, where that is a word
	text                    string
	flags                   []option
}

type option struct {
	name, argument, text string // without an argument it is a switch
}

var (
	usageLine  = regexp.MustCompile(`(?m)^  wssgate ([a-z]+) (.*?)  +(\S.*)\n`)
	optionLine = regexp.MustCompile(`^  -([a-z]+)(?: (\S+))?$`)
	firstWord  = regexp.MustCompile(`^[a-z]+$`)
)

func readUsage(text string) (*usage, error) {
	found := usageLine.FindAllStringSubmatchIndex(text, -1)
	if len(found) == 0 {
		return nil, fmt.Errorf("no commands in %q", text)
	}
	u := &usage{head: strings.TrimSpace(text[:found[0][0]]), tail: strings.TrimSpace(text[found[len(found)-1][1]:])}
	for _, m := range found {
		u.commands = append(u.commands, command{name: text[m[2]:m[3]], summary: text[m[6]:m[7]]})
	}
	return u, nil
}

func (c *command) readHelp(text string) error {
	first, rest, _ := strings.Cut(text, "\n")
	synopsis, ok := strings.CutPrefix(first, "usage: wssgate "+c.name)
	if !ok {
		return fmt.Errorf("the help of %s begins with %q", c.name, first)
	}
	c.synopsis = strings.TrimSpace(synopsis)
	for alternative := range strings.SplitSeq(c.synopsis, " | ") {
		if word, _, _ := strings.Cut(alternative, " "); firstWord.MatchString(word) {
			c.words = append(c.words, word)
		}
	}
	var lines []string
	for line := range strings.Lines(rest) {
		line = strings.TrimRight(line, "\n")
		m := optionLine.FindStringSubmatch(line)
		about, isAbout := strings.CutPrefix(line, "    \t")
		switch {
		case m != nil:
			c.flags = append(c.flags, option{name: m[1], argument: m[2]})
		case isAbout && len(c.flags) > 0:
			o := &c.flags[len(c.flags)-1]
			o.text = strings.TrimSpace(o.text + " " + about)
		case len(c.flags) == 0:
			lines = append(lines, line)
		default:
			return fmt.Errorf("the help of %s has %q behind the flags", c.name, line)
		}
	}
	c.text = strings.TrimSpace(strings.Join(lines, "\n"))
	return nil
}
