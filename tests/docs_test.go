package tests

import (
	"bufio"
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
	"syscall"
	"testing"
	"time"

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

// Commands in ```sh blocks are run, but for those in runBy.
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
		if d.name == "docs/tutorial.md" {
			continue // TestTutorial runs its blocks, each where the one before left off
		}
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

func runCommands(t *testing.T, site *gate.Site, text string) {
	var script strings.Builder
	for line := range strings.Lines(text) {
		command, _, _ := strings.Cut(line, "#")
		command = strings.TrimSpace(command)
		if by := runBy[command]; by != "" && by != "TestDocumentCommands" {
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

	withToken := gate.NewSite(t, movingNames...)
	withToken.Write(t, "token", []byte("0123456789abcdef\n"))
	withToken.Write(t, "config.toml", fmt.Appendf(nil, "[listen]\nwss = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nadmin_token_file = \"token\"\n%s", toUpstream("ws://127.0.0.1:5290/")))
	tellCurl(t, withToken, gate.Start(t, withToken.Dir))

	ran := 0
	for _, d := range documents(t) {
		lines := strings.Split(d.text, "\n")
		for i, line := range lines {
			command, ok := strings.CutPrefix(line, "    ")
			command, prompt := strings.CutPrefix(strings.TrimLeft(command, " "), "$ ")
			if !ok || !isRequest(command) {
				continue
			}
			ran++
			site := plain
			switch {
			case strings.Contains(command, "/http-bind"):
				site = withBOSH
			case strings.Contains(command, "token"):
				site = withToken
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

// runBy are the commands of the documents that a test of another name runs,
// with that name. Those of systemctl it does as systemd would, by the lines of the
// unit, for systemd is not the init of every machine. Of .ci/run's, no test can:
// they run the tests.
var runBy = map[string]string{
	"wssgate ech dns-records": "TestECH",

	"make":         "TestMake",
	"make build":   "TestMake",
	"make demo":    "TestMake",
	"make test":    ".ci/run",
	"make lint":    ".ci/run",
	"make image":   "TestImage",
	"make dist":    "TestDist",
	"make manual":  "TestManual",
	"make compare": "TestReadmeCommands",
	"make soak":    "TestSoak",

	"make simulate SEEDS=10000": "TestMakeSimulate",
	"make year":                 "TestMakeYear", // of one name, and shorter
	"make simulate SEED=4711":   "TestMakeSimulate",

	"wssgate check":                       "TestDocumentCommands",
	"wssgate certs":                       "TestCerts",
	"wssgate version":                     "TestScript",
	"wssgate help":                        "TestScript",
	"wssgate demo":                        "TestMake",
	"wssgate init":                        "TestInit",
	"wssgate probe":                       "TestProbeSideBySide",
	"wssgate status":                      "TestTerminal",
	"wssgate top":                         "TestTop",
	"wssgate tunnels":                     "TestTerminal",
	"wssgate tunnels -json":               "TestTerminal",
	"wssgate trace ID":                    "TestTerminalTrace",
	"wssgate close ID":                    "TestTerminal",
	"wssgate close -client 192.0.2.7":     "TestTerminal",
	"wssgate acme status":                 "TestBinaryCommand",
	"wssgate acme renew chat.example.org": "TestBinaryCommand",
	"wssgate acme retry chat.example.org": "TestBinaryCommand",
	"wssgate acme revoke chat.example.org -reason keyCompromise": "TestBinaryCommand",
	"wssgate acme rollover":                 "TestBinaryRollover",
	"wssgate acme dns-records":              "TestBinaryWildcard",
	"wssgate acme retry '*.example.org'":    "TestBinaryWildcard",
	"wssgate access list":                   "TestTerminalAccess",
	"wssgate access lift 192.0.2.7":         "TestTerminalAccess",
	"wssgate access deny 192.0.2.7 -for 1h": "TestTerminalAccess",
	"wssgate reload":                        "TestTerminalDrainAndReload",
	"wssgate drain -vhost example1.com":     "TestTerminalDrainAndReload",
	"wssgate drain -node tigase/t1":         "TestTerminalDrainAndReload",
	"wssgate drain -all":                    "TestTerminalDrainAndReload",
	"wssgate drain -all -after 5s":          "TestTerminalDrainAfter",
	"wssgate drain -all -after 5s -wait":    "TestPreStop",
	"wssgate drain -end":                    "TestTerminalDrainAndReload",

	"wssgate tunnels -client 192.0.2.0/24 -older 1h": "TestTerminal",
	"wssgate probe URL":                           "TestProbeSideBySide",
	"wssgate probe wss://NAME/":                   "TestProbeSideBySide",
	"wssgate probe wss://example1.com:5292/":      "TestProbeSideBySide",
	"wssgate probe -connect ADDR wss://NAME/":     "TestProbeSideBySide",
	"wssgate serve":                               "TestDocumentCommands",
	"wssgate serve -beside":                       "TestHandOver",
	"wssgate serve -config config.toml -beside &": "TestHandOver",
	"kill -TERM OLD_PID":                          "TestHandOver",

	"install -m 755 wssgate /usr/local/bin/":                     "TestInstall",
	"install -m 644 deploy/wssgate.service /etc/systemd/system/": "TestInstall",
	"systemctl enable --now wssgate":                             "TestInstall",
	"systemctl reload wssgate":                                   "TestInstall",

	"cd bench":                                    "TestReadmeCommands",
	"go run . -run 'trips|fixed' -rounds 5":       "TestReadmeCommands",
	"go run . -run 'door|cost|flood'":             "TestReadmeCommands",
	"go run . -gates wssgate,before=/tmp/wssgate": "TestReadmeCommands",
	"go run ./certs -n 10000":                     "TestReadmeCommands",
	"go run ./certs -layout certbot":              "TestReadmeCommands",
	"go run ./certs -peers":                       "TestReadmeCommands",

	"openssl pkcs12 -in FILE.p12 -nodes -out FILE.pem": "TestHintsOfOpenSSL",

	"curl https://example1.com/.well-known/host-meta.json": "TestDiscoveryBehindNginx",
}

// aCommand is what begins as a command does, and goes on.
var aCommand = regexp.MustCompile(`^([A-Z_]+=\S+ )?(\./)?(wssgate|curl|wget|make|go|install|systemctl|journalctl|sysctl|kill|cd|ssh|sudo|apt-get|openssl|podman|docker|kubectl|promtool|npm|nginx|haproxy|certbot|lego) `)

// No command that a document gains goes without a test, whether it stands in a
// line of its own, indented, or within a sentence.
func TestDocumentRunBy(t *testing.T) {
	tests := testNames(t)
	left := maps.Clone(runBy)
	span := regexp.MustCompile("`([^`]+)`")
	for _, d := range documents(t) {
		for _, f := range d.fences {
			// Commands stand in those that TestDocumentCommands runs.
			if lang, _, _ := strings.Cut(f.info, " "); !slices.Contains([]string{"sh", "toml", "nginx", "haproxy", "lua", "yaml"}, lang) {
				t.Errorf("%s:%d: a block of %q; want sh, if it has commands", d.name, f.line, f.info)
			}
		}
		check := func(command string) {
			delete(left, command)
			switch {
			case !aCommand.MatchString(command), isRequest(command):
			case strings.Contains(command, "certbot ") || strings.Contains(command, "lego "):
				// TestExternalClients reads them out of docs/acme.md.
				if d.name != "docs/acme.md" {
					t.Errorf("%s: nothing runs %q", d.name, command)
				}
			case runBy[command] == "":
				t.Errorf("%s: nothing runs %q", d.name, command)
			}
		}
		var prose strings.Builder
		inFence := false
		for line := range strings.Lines(d.text) {
			isFence := strings.HasPrefix(line, "```")
			command, isIndented := strings.CutPrefix(line, "    ")
			switch {
			case isFence:
				inFence = !inFence
			case isIndented && !inFence:
				command, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimSpace(command), "$ "), " # ")
				command = strings.TrimSpace(command)
				check(command)
				program, args, _ := strings.Cut(command, " ")
				path, err := exec.LookPath(program) // aCommand has not all that there are
				if err == nil && args != "" && !aCommand.MatchString(command) && runBy[command] == "" {
					t.Errorf("%s: nothing runs %q, which is a command of %s", d.name, command, path)
				}
			case inFence:
				command, _, _ = strings.Cut(line, "#")
				delete(left, strings.TrimPrefix(strings.TrimSpace(command), "./"))
			default:
				prose.WriteString(line)
			}
		}
		for _, m := range span.FindAllStringSubmatch(prose.String(), -1) {
			check(strings.Join(strings.Fields(m[1]), " ")) // it may go over a line's end
		}
	}
	for command := range left {
		t.Errorf("no document has %q any more", command)
	}
	ci := readFile(t, filepath.Join(filepath.Dir(deployed(t, "")), ".ci", "run"))
	for command, by := range runBy {
		target := strings.TrimPrefix(command, "make ")
		if by == ".ci/run" && !regexp.MustCompile(`(?m)^step .*\b`+target+`\b`).MatchString(ci) {
			t.Errorf("%s does not run %q", by, command)
		} else if by != ".ci/run" && !tests[by] {
			t.Errorf("%q is run by %s, which there is not", command, by)
		}
	}
}

// testNames returns the names of all tests of the repository.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, pattern := range []string{"*_test.go", "tests/*_test.go", "tests/*/*_test.go", "bench/*_test.go"} {
		files, err := fs.Glob(os.DirFS(root), pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(readFile(t, filepath.Join(root, file)), -1) {
				names[m[1]] = true
			}
		}
	}
	return names
}

// make alone lists the targets; make demo builds the program and runs the demo
// until it is interrupted.
func TestMake(t *testing.T) {
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command("make")
	list.Dir = root
	if out := succeed(t, list); !regexp.MustCompile(`(?m)^demo +run it`).MatchString(out) {
		t.Errorf("make prints\n%s\nwant a list with demo", out)
	}

	demo := exec.Command("make", "demo")
	demo.Dir = root
	demo.Env = append(os.Environ(), "DEMOFLAGS=-listen 127.0.0.1:0", "TMPDIR="+t.TempDir())
	demo.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the whole group
	out, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	demo.Stderr = demo.Stdout // one log, of which the guide is a part
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.AfterFunc(20*gate.Patience, func() { syscall.Kill(-demo.Process.Pid, syscall.SIGKILL) })
	defer deadline.Stop()
	var log strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		log.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), `"msg":"listening"`) {
			syscall.Kill(-demo.Process.Pid, syscall.SIGINT)
		}
	}
	demo.Wait() // make's own status says that it was interrupted
	for _, want := range []string{"https://example1.localhost:", `"msg":"drained"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("make demo prints\n%s\nwant %s in it", log.String(), want)
		}
	}
}

// make simulate runs as many seeds as it is told, and shows what happens in one.
func TestMakeSimulate(t *testing.T) {
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	for argument, want := range map[string]string{"SEEDS=10": "ok", "SEED=4711": "4711"} {
		simulate := exec.Command("make", "simulate", argument)
		simulate.Dir = root
		if out := succeed(t, simulate); !strings.Contains(out, want) {
			t.Errorf("make simulate %s prints\n%s\nwant %q in it", argument, out, want)
		}
	}
}

// make year prints the table of its simulation.
func TestMakeYear(t *testing.T) {
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	year := exec.Command("make", "year", "NAMES=1", "DAYS=14")
	year.Dir = root
	if out, want := succeed(t, year), "orders for each name, least possible"; !strings.Contains(out, want) {
		t.Errorf("make year prints\n%s\nwant %q in it", out, want)
	}
}

// isRequest reports whether TestDocumentRequests makes a command.
func isRequest(command string) bool {
	return strings.HasPrefix(command, "curl ") && (strings.Contains(command, ":5291/") || strings.Contains(command, ":9291/"))
}

// requestSite starts a gate that curl finds.
func requestSite(t *testing.T, more string) *gate.Site {
	t.Helper()
	site := gate.NewSite(t, movingNames...)
	tellCurl(t, site, site.Start(t, toUpstream("ws://127.0.0.1:5290/")+more))
	return site
}

// tellCurl writes a .curlrc that leads the documents' addresses to the gate.
func tellCurl(t *testing.T, site *gate.Site, g *gate.Gate) {
	t.Helper()
	site.Write(t, "ca.pem", site.CA.RootPEM())
	site.Write(t, ".curlrc", fmt.Appendf(nil, "silent\nshow-error\nfail\ncacert = %q\nconnect-to = \"example1.com:5291:%s\"\nconnect-to = \"127.0.0.1:9291:%s\"\n",
		filepath.Join(site.Dir, "ca.pem"), g.Addr("wss"), g.Addr("admin")))
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

// nginx as docs/discovery.md has it, with a certificate for the domain, hands a
// request on to a gate as it is there, and the answer is the one that stands there.
func TestDiscoveryBehindNginx(t *testing.T) {
	d := document(t, "docs/discovery.md")
	_, section, _ := strings.Cut(d.text, "\n## When another server has port 443")
	_, command, _ := strings.Cut(section, "\n    $ ")
	command, rest, _ := strings.Cut(command, "\n    ")
	want, _, _ := strings.Cut(rest, "\n")
	locations := d.blocks("nginx")
	var config string
	for _, f := range d.blocks("toml") {
		if strings.Contains(f.text, "8280") {
			config = f.text
		}
	}
	if len(locations) != 1 || config == "" || !strings.HasPrefix(command, "curl ") {
		t.Fatalf("docs/discovery.md has %d nginx blocks, %q and %q; want a location, a configuration and a request", len(locations), config, command)
	}
	plain := gate.FreeAddr(t)
	site := gate.NewSite(t, "chat.example1.com")
	config = replaceAll(t, config, `":5291"`, `"127.0.0.1:0"`+"\nadmin = \"\"")
	site.Write(t, "config.toml", []byte(replaceAll(t, config, `127\.0\.0\.1:8280`, plain)+toUpstream("ws://127.0.0.1:5290/")))
	g := gate.Start(t, site.Dir)
	pair := site.CA.Issue("example1.com")
	site.Write(t, "chain.pem", pair.ChainPEM())
	site.Write(t, "key.pem", pair.KeyPEM())
	https := gate.FreeAddr(t)
	site.Write(t, "nginx.conf", fmt.Appendf(nil, `events {}
http {
  server {
    listen %s ssl;
    server_name example1.com;
    ssl_certificate chain.pem;
    ssl_certificate_key key.pem;
%s
  }
}
`, https, replaceAll(t, locations[0].text, `127\.0\.0\.1:8280`, plain)))
	startNginxOn(t, site, https)
	site.Write(t, "ca.pem", site.CA.RootPEM())
	site.Write(t, ".curlrc", fmt.Appendf(nil, "silent\nshow-error\nfail\ncacert = \"ca.pem\"\nconnect-to = \"example1.com:443:%s\"\n", https))

	cmd := exec.Command("bash", "-e", "-c", command)
	cmd.Dir, cmd.Env = site.Dir, append(os.Environ(), "CURL_HOME="+site.Dir)
	_, port, _ := net.SplitHostPort(g.Addr("wss"))
	got := strings.Replace(strings.TrimSpace(succeed(t, cmd)), ":"+port+"/", ":5291/", 1)
	if got != want {
		t.Errorf("%s\ngives %s\n want %s", command, got, want)
	}
}

// Each request in the table of docs/reference.md is one that the admin address
// knows.
func TestDocumentEndpoints(t *testing.T) {
	site := gate.NewSite(t, name)
	site.Write(t, "config.toml", []byte("[listen]\nadmin_debug = true\nwss = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n"+toUpstream("ws://127.0.0.1:9/")))
	o := operate(t, gate.Start(t, site.Dir))
	const drain = "POST /drain"
	known := map[string]bool{}
	row := regexp.MustCompile("(?m)^\\| `(GET|POST) ([^`?]+)")
	ask := func(method, path string) {
		if status, body := o.ask(method, path); status == 0 || status == 404 || status == 405 {
			t.Errorf("%s %s: %d %s", method, path, status, body)
		}
	}
	for _, m := range row.FindAllStringSubmatch(document(t, "docs/reference.md").text, -1) {
		if request := m[1] + " " + m[2]; !known[request] {
			known[request] = true
			if request != drain {
				ask(m[1], m[2])
			}
		}
	}
	if !known[drain] {
		t.Errorf("docs/reference.md does not have %s", drain)
	}
	ask("POST", "/drain") // last: it ends the gate
	if len(known) < 8 {
		t.Errorf("docs/reference.md has the requests %v; want eight at least", known)
	}
}
