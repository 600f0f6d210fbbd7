package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"wssgate/tests/internal/gate"
)

// A browserClient is one account that logs in from one page; see browser.mjs.
type browserClient struct {
	Page     string `json:"page"`
	Service  string `json:"service"`
	JID      string `json:"jid"`
	Password string `json:"password"`
}

// A browserResult is what the browser saw.
type browserResult struct {
	Status      int    `json:"status"`
	Text        string `json:"text"`
	Certificate struct {
		SubjectName string `json:"subjectName"`
		Issuer      string `json:"issuer"`
		Protocol    string `json:"protocol"`
	} `json:"certificate"`
	JID     string `json:"jid"`
	Message struct {
		From string `json:"from"`
		Body string `json:"body"`
	} `json:"message"`
}

// browse runs the clients in one headless Chromium that trusts the root, each
// in a page of its own, and lets each write to the next one.
func browse(t *testing.T, rootPEM []byte, clients ...browserClient) []browserResult {
	t.Helper()
	s := runScript(t, "browser.mjs", rootPEM, map[string]any{"clients": clients})
	var results []browserResult
	s.next(&results)
	s.end()
	if len(results) != len(clients) {
		t.Fatalf("%d results for %d clients", len(results), len(clients))
	}
	return results
}

// A script is a run of one of the .mjs files here, which drive a browser.
type script struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  *bufio.Scanner
	stderr gate.Output
}

// runScript starts a script with a headless Chromium that trusts the root. The
// task goes to the script's standard input, with the browser and its HOME.
//
// The browser checks certificates as it does for its user: the root is in the
// NSS database of that HOME, and no check is turned off.
func runScript(t *testing.T, name string, rootPEM []byte, task map[string]any) *script {
	t.Helper()
	withChromium(t, rootPEM, task)
	s := startScript(t.Context(), t, name, task)
	s.stdin.Close()
	return s
}

// withChromium adds to the task what a script needs to start the browser.
func withChromium(t *testing.T, rootPEM []byte, task map[string]any) {
	t.Helper()
	gate.Program(t, "chromium", "chromium")
	gate.Program(t, "certutil", "libnss3-tools")
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	trust(t, home, rootPEM)
	task["chromium"], task["home"] = chromium, home
}

// startScript starts a script in Node, which is killed when ctx ends, and writes
// it the task, a line. Its standard input stays open.
func startScript(ctx context.Context, t *testing.T, name string, task map[string]any, env ...string) *script {
	t.Helper()
	gate.Program(t, "node", "nodejs")
	for _, module := range []string{"playwright-core", "strophe.js", "@xmpp/client", "ws", "@xmldom/xmldom"} {
		if _, err := os.Stat("../node_modules/" + module); err != nil {
			gate.Missing(t, "%s is not installed; to run this test: npm ci --prefix tests", module)
		}
	}
	s := &script{t: t, name: name, cmd: exec.CommandContext(ctx, "node", name)}
	s.cmd.Env = append(s.cmd.Environ(), env...)
	s.cmd.Stderr = &s.stderr
	var err error
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Wait() })
	s.lines = bufio.NewScanner(stdout)
	s.lines.Buffer(nil, 1<<20)
	s.tell(task)
	return s
}

// tell writes the script a line.
func (s *script) tell(what any) {
	s.t.Helper()
	line, err := json.Marshal(what)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.stdin.Write(append(line, '\n')); err != nil {
		s.t.Fatalf("node %s: %v: %s", s.name, err, s.stderr.String())
	}
}

// next waits for the next line that the script writes, which is JSON.
func (s *script) next(into any) {
	s.t.Helper()
	if !s.lines.Scan() {
		s.cmd.Wait()
		s.t.Fatalf("node %s ended early: %s", s.name, s.stderr.String())
	}
	if err := json.Unmarshal(s.lines.Bytes(), into); err != nil {
		s.t.Fatalf("node %s: %v in %q", s.name, err, s.lines.Bytes())
	}
}

// end waits for the script's good end.
func (s *script) end() {
	s.t.Helper()
	if s.lines.Scan() {
		s.t.Errorf("node %s goes on with %q", s.name, s.lines.Bytes())
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("node %s: %v: %s", s.name, err, s.stderr.String())
	}
}

// trust puts the root into the NSS database below home.
func trust(t *testing.T, home string, rootPEM []byte) {
	t.Helper()
	db := filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(db, 0o700); err != nil {
		t.Fatal(err)
	}
	pem := filepath.Join(home, "root.pem")
	if err := os.WriteFile(pem, rootPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"-N", "--empty-password"},
		{"-A", "-t", "C,,", "-n", "wssgate test root", "-i", pem},
	} {
		cmd := exec.Command("certutil", append([]string{"-d", "sql:" + db}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
}
