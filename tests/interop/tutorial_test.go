package interop

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// Every command of docs/tutorial.md, in its order, leads to a browser that is logged
// in. Prosody stands in for Tigase; ports are free ones, and make and sudo are left to
// TestMake and TestInstall.
func TestTutorial(t *testing.T) {
	const domain = "example1.com"
	upstream := startProsody(t, domain)
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs/tutorial.md"))
	if err != nil {
		t.Fatal(err)
	}
	binary, err := gate.Build(false)
	if err != nil {
		t.Fatal(err)
	}
	site := gate.NewSite(t)
	pair := site.CA.Issue(domain)
	site.Write(t, "fullchain.pem", pair.ChainPEM())
	site.Write(t, "privkey.pem", pair.KeyPEM())
	site.Write(t, "root.pem", site.CA.RootPEM())
	if err := os.Symlink(binary, filepath.Join(site.Dir, "wssgate")); err != nil {
		t.Fatal(err)
	}
	run := func(script string) string {
		cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", script)
		cmd.Dir = site.Dir
		cmd.Env = append(os.Environ(), "PATH="+site.Dir+":"+os.Getenv("PATH"), "SSL_CERT_FILE="+filepath.Join(site.Dir, "root.pem"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s\nof\n%s", err, out, script)
		}
		return string(out)
	}

	var port string
	said := ""
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
		script := strings.ReplaceAll(block[1], "ws://127.0.0.1:5290/", upstream)
		script = strings.Replace(script, "[upstream.tigase]\n", "[listen]\nwss = \"127.0.0.1:0\"\nadmin = \"\"\n[upstream.tigase]\n", 1)
		script = regexp.MustCompile(`(?m)^(make|sudo) .*\n`).ReplaceAllString(script, "")
		if script == "wssgate serve -config gate/config.toml &\n" {
			g := gate.Start(t, filepath.Join(site.Dir, "gate"))
			_, port, err = net.SplitHostPort(g.Addr("wss"))
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		if port != "" {
			script = strings.ReplaceAll(script, ":5291", ":"+port)
			script = strings.ReplaceAll(script, "wss://"+domain+"/", "wss://"+domain+"/xmpp-websocket")
		}
		said += run(script)
	}
	if port == "" {
		t.Fatal("the tutorial does not start wssgate")
	}
	for _, want := range []string{domain, "wssgate test root", "ok, no warnings", "features"} {
		if !strings.Contains(said, want) {
			t.Errorf("the commands print\n%s\nwant %q in it", said, want)
		}
	}
	got := browse(t, site.CA.RootPEM(), browserClient{
		Page:     "https://" + net.JoinHostPort(domain, port) + "/",
		Service:  "wss://" + net.JoinHostPort(domain, port) + "/xmpp-websocket",
		JID:      "alice@" + domain,
		Password: passwordOf(domain),
	})[0]
	if got.Certificate.SubjectName != domain || !strings.HasPrefix(got.JID, "alice@"+domain+"/") {
		t.Errorf("the browser sees a certificate for %q and is %q; want %s and alice", got.Certificate.SubjectName, got.JID, domain)
	}
}
