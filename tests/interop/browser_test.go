package interop

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
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
//
// The browser checks certificates as it does for its user: the root is in the
// NSS database of a HOME of its own, and no check is turned off.
func browse(t *testing.T, rootPEM []byte, clients ...browserClient) []browserResult {
	t.Helper()
	need(t, "chromium", "chromium")
	need(t, "certutil", "libnss3-tools")
	need(t, "node", "nodejs")
	if _, err := os.Stat("../node_modules/strophe.js"); err != nil {
		missing(t, "strophe.js is not installed; to run this test: npm ci --prefix tests")
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal(err)
	}

	home := t.TempDir()
	trust(t, home, rootPEM)
	task, err := json.Marshal(map[string]any{"chromium": chromium, "home": home, "clients": clients})
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	node := exec.CommandContext(t.Context(), "node", "browser.mjs")
	node.Stdin, node.Stdout, node.Stderr = bytes.NewReader(task), &stdout, &stderr
	if err := node.Run(); err != nil {
		t.Fatalf("node browser.mjs: %v\n%s", err, stderr.Bytes())
	}
	var results []browserResult
	if err := json.Unmarshal(stdout.Bytes(), &results); err != nil {
		t.Fatalf("node browser.mjs: %v in %q", err, stdout.Bytes())
	}
	if len(results) != len(clients) {
		t.Fatalf("%d results for %d clients", len(results), len(clients))
	}
	return results
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
