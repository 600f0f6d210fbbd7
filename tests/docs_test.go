package tests

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// A fenced is one ```-block of a document.
type fenced struct {
	info, text string
	line       int
}

// A doc is a document of the repository.
type doc struct {
	name   string // from the root
	text   string
	fences []fenced
}

func (d doc) blocks(info string) []fenced {
	return slices.DeleteFunc(slices.Clone(d.fences), func(f fenced) bool { return f.info != info })
}

// document reads a document.
func document(t *testing.T, name string) doc {
	t.Helper()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	d := doc{name: name, text: readFile(t, filepath.Join(root, name))}
	var open *fenced
	n := 0
	for line := range strings.Lines(d.text) {
		n++
		switch info, isFence := strings.CutPrefix(strings.TrimRight(line, "\n"), "```"); {
		case isFence && open == nil:
			open = &fenced{info: info, line: n}
		case isFence:
			d.fences = append(d.fences, *open)
			open = nil
		case open != nil:
			open.text += line
		}
	}
	if open != nil {
		t.Fatalf("%s: the block of line %d has no end", name, open.line)
	}
	return d
}

// documents are all of them.
func documents(t *testing.T) []doc {
	t.Helper()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	var docs []doc
	for _, pattern := range []string{"*.md", "docs/*.md", "deploy/*.md", "bench/*.md"} {
		files, err := fs.Glob(os.DirFS(root), pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			docs = append(docs, document(t, file))
		}
	}
	return docs
}

// Links between the documents lead somewhere, headings included.
func TestDocumentLinks(t *testing.T) {
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]doc{}
	for _, d := range documents(t) {
		docs[d.name] = d
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, name := range slices.Sorted(maps.Keys(docs)) {
		for _, m := range link.FindAllStringSubmatch(docs[name].text, -1) {
			u, err := url.Parse(m[1])
			if err != nil || u.Scheme != "" {
				continue // outside: nothing that a test without a network could tell
			}
			target := name
			if u.Path != "" {
				target = filepath.Join(filepath.Dir(name), u.Path)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: link to %q: there is no %s", name, m[1], target)
			} else if d, ok := docs[target]; u.Fragment != "" && (!ok || !slices.Contains(anchors(d), u.Fragment)) {
				t.Errorf("%s: link to %q: no heading of %s is that", name, m[1], target)
			}
		}
	}
}

// anchors are what a document's headings are called in links.
func anchors(d doc) []string {
	var names []string
	for line := range strings.Lines(d.text) {
		if text := strings.TrimLeft(line, "#"); text != line && strings.HasPrefix(text, " ") {
			name := strings.ToLower(strings.TrimSpace(text))
			name = regexp.MustCompile("[^a-z0-9 _-]").ReplaceAllString(name, "")
			names = append(names, strings.ReplaceAll(name, " ", "-"))
		}
	}
	return names
}

// Each configuration that a document shows is one that wssgate takes; where it
// is a part, the smallest upstream is added.
func TestDocumentConfigurations(t *testing.T) {
	n := 0
	for _, d := range documents(t) {
		for _, f := range d.fences {
			if lang, _, _ := strings.Cut(f.info, " "); lang != "toml" {
				continue
			}
			n++
			t.Run(fmt.Sprintf("%s:%d", d.name, f.line), func(t *testing.T) {
				config := f.text
				if !strings.Contains(config, "[upstream.") {
					config += "\n[upstream.xmpp]\nnodes = [\"ws://127.0.0.1:5290/\"]\n"
				}
				checked(t, config, "example1.com")
			})
		}
	}
	if n == 0 {
		t.Error("no document has a configuration")
	}
}

// Commands in ```sh blocks are run, or their reason not to be stands here.
//
// A block runs with "bash -e" in a directory with a config.toml, certs/ and the
// program, as ./wssgate and as wssgate.
func TestDocumentCommands(t *testing.T) {
	binary, err := gate.Build(false)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range documents(t) {
		for _, f := range d.blocks("sh") {
			n++
			t.Run(fmt.Sprintf("%s:%d", d.name, f.line), func(t *testing.T) {
				site := gate.NewSite(t, movingNames...)
				site.Config(t, toUpstream("ws://127.0.0.1:5290/"))
				if err := os.Symlink(binary, filepath.Join(site.Dir, "wssgate")); err != nil {
					t.Fatal(err)
				}
				runCommands(t, site, f.text)
			})
		}
	}
	if n == 0 {
		t.Error("no document has commands")
	}
}

// elsewhere are the commands that other tests run, or that nobody can here.
var elsewhere = map[string]string{
	"make demo":  "runs until it is told to end; tests/interop runs the demo in a browser",
	"make test":  "this is part of it",
	"make lint":  "is what .ci/run begins with",
	"make image": "TestImage does",
}

func runCommands(t *testing.T, site *gate.Site, text string) {
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for line := range strings.Lines(text) {
		command, _, _ := strings.Cut(line, "#")
		command = strings.TrimSpace(command)
		if _, ok := elsewhere[command]; ok {
			lookup := exec.Command("make", "-n", strings.TrimPrefix(command, "make "))
			lookup.Dir = root
			succeed(t, lookup)
			continue
		}
		if strings.TrimPrefix(command, "./") == "wssgate serve" {
			g := gate.Start(t, site.Dir)
			if g.Addr("wss") == "" {
				t.Error("it does not listen")
			}
			continue
		}
		script.WriteString(line)
	}
	cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", script.String())
	cmd.Dir = site.Dir
	cmd.Env = append(os.Environ(), "PATH="+site.Dir+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s\nof\n%s", err, bytes.TrimSpace(out), script.String())
	}
}

// Indented curl commands are answered by a gate that serves example1.com at
// 5291 and has its admin address at 9291, and where the document goes on with
// an answer, with that one. A command for another port is another server's.
func TestDocumentRequests(t *testing.T) {
	host, err := net.Listen("tcp", "127.0.0.1:0") // BOSH, of which only the way there is tested
	if err != nil {
		t.Fatal(err)
	}
	bosh := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})}
	go bosh.Serve(host)
	defer bosh.Close()

	plain := requestSite(t, "")
	withBOSH := requestSite(t, fmt.Sprintf("[[vhost]]\nnames = [\"example1.com\"]\nbosh = \"http://%s/http-bind\"\n", host.Addr()))

	ran := 0
	for _, d := range documents(t) {
		lines := strings.Split(d.text, "\n")
		for i, line := range lines {
			command, ok := strings.CutPrefix(line, "    ")
			command, prompt := strings.CutPrefix(command, "$ ")
			if !ok || !isRequest(command) {
				continue
			}
			ran++
			site := plain
			if strings.Contains(command, "/http-bind") {
				site = withBOSH
			}
			cmd := exec.Command("bash", "-e", "-c", command)
			cmd.Dir, cmd.Env = site.Dir, append(os.Environ(), "CURL_HOME="+site.Dir)
			got := strings.TrimSpace(succeed(t, cmd))
			if want := strings.TrimSpace(lines[i+1]); prompt && want != "" && got != want {
				t.Errorf("%s:%d: %s\ngives %s\n want %s", d.name, i+1, command, got, want)
			}
		}
	}
	if ran == 0 {
		t.Error("no document has a request")
	}
}

// indented are the commands in indented lines that other tests run, or that
// nobody can here. Requests to the gate are TestDocumentRequests'.
var indented = map[string]string{
	"wssgate serve -config config.toml -beside &": "TestHandOver does",
	"kill -TERM OLD_PID":                          "TestHandOver does",

	"install -m 755 wssgate /usr/local/bin/":                     "TestInstall does",
	"install -m 644 deploy/wssgate.service /etc/systemd/system/": "TestInstall does",
	"systemctl enable --now wssgate":                             "TestInstall does, but for the start",
	"systemctl daemon-reload":                                    "wants systemd as the machine's init",
	"systemctl reload wssgate":                                   "wants systemd as the machine's init; TestReload sends the signal",

	"make compare":                          "measures for ten minutes; the tests in bench/ hold its helpers only, and nobody runs it whole",
	"cd bench":                              "as make compare",
	"go run . -run 'trips|fixed' -rounds 5": "as make compare",
	"go run . -gates wssgate,before=/tmp/wssgate": "as make compare",
	"go run ./certs -n 10000":                     "as make compare",

	"curl https://example1.com/.well-known/host-meta.json": "asks another server, which sends it on; TestDocumentRequests asks the gate",
}

// An indented command that a document gains does not go unnoticed.
func TestDocumentIndented(t *testing.T) {
	program := regexp.MustCompile(`^(\./)?(wssgate|curl|wget|make|go|install|systemctl|journalctl|kill|cd|ssh|sudo|apt-get|openssl|podman|docker|kubectl|promtool|npm) `)
	left := maps.Clone(indented)
	for _, d := range documents(t) {
		n := 0
		for line := range strings.Lines(d.text) {
			n++
			command, isIndented := strings.CutPrefix(line, "    ")
			command, _, _ = strings.Cut(strings.TrimPrefix(command, "$ "), " # ")
			command = strings.TrimRight(command, " \n")
			if !isIndented || !program.MatchString(command) || isRequest(command) {
				continue
			}
			if indented[command] == "" {
				t.Errorf("%s:%d: nothing runs %q", d.name, n, command)
			}
			delete(left, command)
		}
	}
	for command := range left {
		t.Errorf("no document has %q any more", command)
	}
}

// isRequest reports whether TestDocumentRequests makes a command.
func isRequest(command string) bool {
	return strings.HasPrefix(command, "curl ") && (strings.Contains(command, ":5291/") || strings.Contains(command, ":9291/"))
}

// requestSite starts a gate and tells curl the way to it.
func requestSite(t *testing.T, more string) *gate.Site {
	t.Helper()
	site := gate.NewSite(t, movingNames...)
	g := site.Start(t, toUpstream("ws://127.0.0.1:5290/")+more)
	site.Write(t, "ca.pem", site.CA.RootPEM())
	site.Write(t, ".curlrc", fmt.Appendf(nil, "silent\nshow-error\nfail\ncacert = %q\nconnect-to = \"example1.com:5291:%s\"\nconnect-to = \"127.0.0.1:9291:%s\"\n",
		filepath.Join(site.Dir, "ca.pem"), g.Addr("wss"), g.Addr("admin")))
	return site
}

// The README is one screen, and its smallest configuration has three lines.
func TestReadme(t *testing.T) {
	d := document(t, "README.md")
	if n := strings.Count(d.text, "\n"); n > 90 {
		t.Errorf("README.md has %d lines; want one screen, 90 at most", n)
	}
	configs := d.blocks("toml")
	if len(configs) != 1 || strings.Count(configs[0].text, "\n") != 3 {
		t.Errorf("README.md has %d configurations; want one of three lines", len(configs))
	}
}
