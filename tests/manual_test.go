package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// manuals makes the manual pages and the completion of shells, and returns their folder.
func manuals(t *testing.T) string {
	t.Helper()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := exec.Command("make", "-s", "manual", "MANUAL="+dir)
	write.Dir = root
	succeed(t, write)
	return dir
}

// Each command with its flags is in wssgate(1), and each key in wssgate.toml(5). mandoc
// and man have nothing to say against them.
func TestManual(t *testing.T) {
	dir := manuals(t)
	for _, page := range []string{"wssgate.1", "wssgate.toml.5"} {
		file := filepath.Join(dir, page)
		if out, err := program(t, "mandoc", "mandoc", "-T", "lint", "-W", "warning", file).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("mandoc says of %s: %v\n%s", page, err, out)
		}
		man := program(t, "man", "man-db", "--warnings", "-E", "UTF-8", "-l", file)
		var said strings.Builder
		man.Stderr = &said
		if _, err := man.Output(); err != nil || said.Len() > 0 {
			t.Errorf("man says of %s: %v\n%s", page, err, said.String())
		}
	}
	shown := func(page string) string {
		out := succeed(t, program(t, "mandoc", "mandoc", "-T", "utf8", "-O", "width=1000", filepath.Join(dir, page)))
		return regexp.MustCompile(".\b").ReplaceAllString(out, "") // bold and underlined
	}
	help := func(args ...string) string {
		binary, err := gate.Build(false)
		if err != nil {
			t.Fatal(err)
		}
		return succeed(t, exec.Command(binary, append([]string{"help"}, args...)...))
	}
	page := shown("wssgate.1")
	commands := regexp.MustCompile(`(?m)^  wssgate ([a-z]+) `).FindAllStringSubmatch(help(), -1)
	if len(commands) < 15 {
		t.Errorf("wssgate help has %d commands", len(commands))
	}
	for _, c := range commands {
		text := help(c[1])
		synopsis, _, _ := strings.Cut(strings.TrimPrefix(text, "usage: wssgate "), "\n")
		if !strings.Contains(page, "\n   "+synopsis+"\n") {
			t.Errorf("wssgate(1) has no %q", synopsis)
		}
		_, section, _ := strings.Cut(page, "\n   "+synopsis+"\n")
		for _, f := range regexp.MustCompile(`(?m)^  (-[a-z]+)`).FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(`(?m)^ +` + f[1] + `\b`).MatchString(section) {
				t.Errorf("wssgate(1): %s has no %s", c[1], f[1])
			}
		}
	}
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	page = shown("wssgate.toml.5")
	keys := regexp.MustCompile(`(?m)^#?([a-z_]+ = .*|\[.*\])$`).FindAllStringSubmatch(readFile(t, filepath.Join(root, "config.toml.example")), -1)
	if len(keys) < 50 {
		t.Errorf("config.toml.example has %d keys and tables", len(keys))
	}
	for _, key := range keys {
		if !regexp.MustCompile(`(?m)^ +` + regexp.QuoteMeta(key[1]) + `( |$)`).MatchString(page) {
			t.Errorf("wssgate.toml(5) has no %q", key[1])
		}
	}
}

// The shells complete commands, their words, their flags and the names of files.
func TestCompletion(t *testing.T) {
	dir := manuals(t)
	if err := os.WriteFile(filepath.Join(dir, "some.toml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ line, want string }{
		{"wssgate dr", "drain"},
		{"wssgate help tun", "tunnels"},
		{"wssgate check -off", "-offline"},
		{"wssgate tunnels -ol", "-older"},
		{"wssgate acme rev", "revoke"},
		{"wssgate access li", "lift list"},
		{"wssgate serve -config so", "some.toml"},
		{"wssgate certs -within some", ""},
	}
	run := func(t *testing.T, shell, script string, args ...string) string {
		cmd := program(t, shell, shell, append(args, "-c", script)...)
		cmd.Dir = dir
		return strings.Join(strings.Fields(succeed(t, cmd)), " ")
	}
	for _, test := range tests {
		got := run(t, "bash", `. ./wssgate.bash; COMP_WORDS=(`+test.line+`); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _wssgate; echo "${COMPREPLY[@]}"`)
		if got != test.want {
			t.Errorf("bash completes %q with %q; want %q", test.line, got, test.want)
		}
		lines := run(t, "fish", `source wssgate.fish; complete -C "`+test.line+`" | string replace -r '\t.*' ''; true`, "-N")
		if lines != test.want {
			t.Errorf("fish completes %q with %q; want %q", test.line, lines, test.want)
		}
		if strings.Contains(test.want, " ") || test.want == "" {
			continue // zsh would ask
		}
		// It completes in a terminal only. What it made of the line is run.
		script := `zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1= fpath=($PWD \$fpath); autoload -U compinit; compinit -u -D; wssgate() { print RAN:\$*: }; print READ\Y"
zpty -r z out '*READY*'
zpty -w -n z "` + test.line + `"$'\t\n'
zpty -r z out '*RAN:*:*'
print -r -- ${${out##*RAN:}%%:*}`
		words := strings.Fields(test.line)
		want := strings.Join(append(words[1:len(words)-1], test.want), " ")
		if got := run(t, "zsh", script, "-f"); got != want {
			t.Errorf("zsh completes %q to %q; want %q", test.line, got, want)
		}
	}
}
