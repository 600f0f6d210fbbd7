package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wssgate/demo/minica"
)

var testCA = minica.NewCA("CA")

// configWithCertificates writes the small configuration, what extra adds to
// it, and a folder of certificate files beside it, and returns its name.
func configWithCertificates(t *testing.T, files map[string][]byte, extra ...string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "certs"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		write(filepath.Join("certs", name), data)
	}
	write("config.toml", []byte(smallest+strings.Join(extra, "")))
	return filepath.Join(dir, "config.toml")
}

// fields splits the row of a table that begins with name: columns are two
// blanks or more apart.
func fields(t *testing.T, table, name string) []string {
	t.Helper()
	for line := range strings.Lines(table) {
		var row []string
		for cell := range strings.SplitSeq(strings.TrimSpace(line), "  ") {
			if cell = strings.TrimSpace(cell); cell != "" {
				row = append(row, cell)
			}
		}
		if len(row) > 1 && row[0] == name {
			return row
		}
	}
	t.Fatalf("no row %q in\n%s", name, table)
	return nil
}

// check shows for each name the certificate, its issuer, expiry and key type,
// and the servers behind it.
func TestCheckShowsWhatIsServed(t *testing.T) {
	now := time.Now()
	file := configWithCertificates(t, map[string][]byte{
		"a.pem": testCA.IssueSpec(minica.Spec{Names: []string{"example1.com", "*.example1.com"}, NotAfter: now.Add(30*24*time.Hour + time.Hour)}).PEM(),
		"b.pem": testCA.IssueSpec(minica.Spec{Names: []string{"example2.com"}, RSA: true, NotAfter: now.Add(5*time.Hour + time.Minute)}).PEM(),
		"c.pem": testCA.Issue("other.example").PEM(),
		"d.pem": testCA.Issue("x.example3.com").PEM(),
	}, `
[upstream.cluster]
nodes = [{ name = "t1", url = "ws://127.0.0.1:5001/" }, { name = "t2", url = "ws://127.0.0.1:5002/" }]
[[vhost]]
names = ["Example1.com", "t2.example1.com"]
upstream = "cluster"
node = "t2"
[[vhost]]
names = ["example2.com", "*.example3.com"]
upstream = "tigase"
[[vhost]]
names = "*.example4.com"
upstream = "cluster"
`)
	status, stdout, stderr := wssgate(t, "check", "-offline", "-config", file)
	if status != exitOK {
		t.Fatalf("exit status = %d, standard error %q; want 0", status, stderr)
	}
	dir := filepath.Dir(file)
	a, b := filepath.Join(dir, "certs/a.pem"), filepath.Join(dir, "certs/b.pem")
	for _, want := range [][]string{
		{"example1.com", a, "in 30 days", "ECDSA P-256", "cluster: ws://127.0.0.1:5002/"},
		{"t2.example1.com", a, "in 30 days", "ECDSA P-256", "cluster: ws://127.0.0.1:5002/"},
		{"example2.com", b, "in 5 hours", "RSA 2048", "tigase: ws://127.0.0.1:5290/"},
		{"x.example3.com", filepath.Join(dir, "certs/d.pem"), "in 89 days", "ECDSA P-256", "tigase: ws://127.0.0.1:5290/"},
		{"other.example", filepath.Join(dir, "certs/c.pem"), "in 89 days", "ECDSA P-256", "none: no vhost has this name"},
		{"*.example4.com", "no certificate", "", "-", "cluster: ws://127.0.0.1:5001/, ws://127.0.0.1:5002/"},
	} {
		row := fields(t, stdout, want[0])
		if len(row) != 6 || row[1] != want[1] || !strings.HasSuffix(row[3], want[2]) || row[4] != want[3] || row[5] != want[4] {
			t.Errorf("row %q; want file %q, expiry %q, key %q, upstream %q", row, want[1], want[2], want[3], want[4])
		}
	}
	if !strings.Contains(stdout, "wss on :5291\n") {
		t.Errorf("standard output %q does not say where it would listen", stdout)
	}
	if want := "warning: no certificate for server name \"*.example4.com\"; its clients are refused\n"; stderr != want {
		t.Errorf("standard error = %q, want %q", stderr, want)
	}
	if !strings.HasSuffix(stdout, file+": ok, 1 warning\n") {
		t.Errorf("standard output ends with %q", stdout[max(0, len(stdout)-80):])
	}
}

// A name with an ECDSA and an RSA certificate has a row for each; one that
// stands back for another has none.
func TestCheckShowsEachKeyType(t *testing.T) {
	now := time.Now()
	file := configWithCertificates(t, map[string][]byte{
		"ecdsa.pem": testCA.Issue("example1.com").PEM(),
		"old.pem":   testCA.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotAfter: now.Add(24 * time.Hour)}).PEM(),
		"rsa.pem":   testCA.IssueSpec(minica.Spec{Names: []string{"*." + "com"}, RSA: true}).PEM(),
	}, "[[vhost]]\nnames = \"example1.com\"\n")
	_, stdout, _ := wssgate(t, "check", "-offline", "-config", file)
	if n := strings.Count(stdout, "\nexample1.com "); n != 2 {
		t.Errorf("%d rows for example1.com, want one for ECDSA and one for RSA:\n%s", n, stdout)
	}
	if strings.Contains(stdout, "old.pem") || !strings.Contains(stdout, "rsa.pem") {
		t.Errorf("want ecdsa.pem and rsa.pem and not old.pem in\n%s", stdout)
	}
}

// What is wrong with certificates is a warning: the others are served.
func TestCheckWarnsAboutCertificates(t *testing.T) {
	past := time.Now().Add(-72*time.Hour - time.Minute)
	file := configWithCertificates(t, map[string][]byte{
		"expired.pem": testCA.IssueSpec(minica.Spec{Names: []string{"example1.com"}, NotBefore: past.Add(-time.Hour), NotAfter: past}).PEM(),
		"junk.pem":    []byte("junk"),
	})
	status, stdout, stderr := wssgate(t, "check", "-offline", "-config", file)
	if status != exitOK {
		t.Errorf("exit status = %d, want 0", status)
	}
	if row := fields(t, stdout, "example1.com"); !strings.HasSuffix(row[3], "3 days ago") {
		t.Errorf("row %q; want 3 days ago", row)
	}
	if n := strings.Count(stderr, "warning: "); n != 2 {
		t.Errorf("%d warnings, want one for each file:\n%s", n, stderr)
	}
	for _, want := range []string{
		`certs/expired.pem": expired ` + past.UTC().Format(time.DateOnly),
		`certs/junk.pem": has no PEM block`,
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("standard error %q does not say %q", stderr, want)
		}
	}
}

func TestCheckWithoutCertificates(t *testing.T) {
	status, _, stderr := wssgate(t, "check", "-offline", "-config", configWithCertificates(t, nil))
	if want := "warning: no certificate is available; every client would be refused\n"; status != exitOK || stderr != want {
		t.Errorf("status %d, standard error %q; want 0, %q", status, stderr, want)
	}
}

// A folder of certificates that is not there keeps serve from starting, so it
// is a mistake of the configuration.
func TestCheckWithoutDirectory(t *testing.T) {
	file := configWithCertificates(t, nil, "[certificates]\ndirectory = \"none\"\n")
	for _, command := range []string{"check", "certs"} {
		status, _, stderr := wssgate(t, command, "-config", file)
		want := file + `: certificates.directory: "` + filepath.Join(filepath.Dir(file), "none") + `": no such file or directory` + "\n"
		if status != exitUsage || !strings.HasPrefix(stderr, want) {
			t.Errorf("%s: status %d, standard error %q; want 2, %q", command, status, stderr, want)
		}
	}
}

// Of a cluster check says what redirects may call each node, and warns of names
// that are no node's because two have them.
func TestCheckNamesNodes(t *testing.T) {
	file := configWithCertificates(t, nil, `[upstream.one]
nodes = "ws://127.0.0.1:5290/"
[upstream.passed-on]
nodes = ["ws://127.0.0.1:1/", "ws://127.0.0.1:2/"]
redirects = "off"
[upstream.cluster]
nodes = [
  { name = "t1", url = "ws://10.0.0.1:5290/", public_url = "wss://T1.example1.com:5291/" },
  { name = "t2", url = "ws://10.0.0.1:5291/", public_url = "wss://chat.example1.com:5292/" },
  { name = "t3", url = "ws://[fd00::1]:5290/", public_url = "wss://Chat.example1.com./" },
]
[[vhost]]
names = ["example1.com"]
route = "to"
upstream = "cluster"
by_domain = { "a.example" = "one", "b.example" = "passed-on" }
`)
	status, stdout, stderr := wssgate(t, "check", "-offline", "-config", file)
	if status != exitOK {
		t.Fatalf("status %d, standard error %q", status, stderr)
	}
	_, table, _ := strings.Cut(stdout, "KNOWN IN REDIRECTS AS\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var got []string
	for line := range strings.Lines(table) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	if want := []string{
		"cluster t1 t1, 10.0.0.1:5290, t1.example1.com",
		"cluster t2 t2, 10.0.0.1:5291, chat.example1.com:5292",
		"cluster t3 t3, fd00::1, chat.example1.com:443",
	}; !slices.Equal(got, want) {
		t.Errorf("check says %q; want %q", got, want)
	}
	if n := strings.Count(stderr, `another node also has the name "chat.example1.com"`); n != 2 || strings.Contains(stderr, `name "10.0.0.1"`) {
		t.Errorf("standard error %q; want a warning for t2 and one for t3", stderr)
	}
}

// certs ends with 1 when a chosen certificate expires within the time given,
// and says which.
func TestCertsWithin(t *testing.T) {
	now := time.Now()
	file := configWithCertificates(t, map[string][]byte{
		"soon.pem":   testCA.IssueSpec(minica.Spec{Names: []string{"a.example"}, NotAfter: now.Add(10*24*time.Hour + time.Hour)}).PEM(),
		"late.pem":   testCA.Issue("b.example").PEM(),
		"backup.pem": testCA.IssueSpec(minica.Spec{Names: []string{"b.example"}, NotAfter: now.Add(time.Hour)}).PEM(), // not chosen
	})
	for within, want := range map[string]int{"0": exitOK, "9d": exitOK, "11d": exitFailed, "264h": exitFailed} {
		status, stdout, stderr := wssgate(t, "certs", "-config", file, "-within", within)
		if status != want {
			t.Errorf("-within %s: exit status = %d, want %d", within, status, want)
		}
		if said := strings.Contains(stderr, `for "a.example": expires `); said != (want == exitFailed) || strings.Contains(stderr, "b.example") {
			t.Errorf("-within %s: standard error = %q", within, stderr)
		}
		row := fields(t, stdout, "a.example")
		if len(row) != 7 || !strings.HasSuffix(row[3], "in 10 days") || row[5] != "ok" || !strings.HasPrefix(row[6], "chosen: ") {
			t.Errorf("row %q; want seven columns, in 10 days, ok, chosen", row)
		}
		if n := strings.Count(stdout, "\nb.example "); n != 2 || !strings.Contains(stdout, "not chosen: ") {
			t.Errorf("%d rows for b.example, want two, one of them not chosen:\n%s", n, stdout)
		}
	}
}

// An expired certificate counts without -within.
func TestCertsExpired(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	file := configWithCertificates(t, map[string][]byte{
		"a.pem": testCA.IssueSpec(minica.Spec{Names: []string{"a.example"}, NotBefore: past.Add(-time.Hour), NotAfter: past}).PEM(),
	})
	if status, _, _ := wssgate(t, "certs", "-config", file); status != exitFailed {
		t.Errorf("exit status = %d, want %d", status, exitFailed)
	}
}

// What a file or a certificate says of itself draws no rows, and no end is no
// number of days.
func TestCertsRowsAreOurs(t *testing.T) {
	file := configWithCertificates(t, map[string][]byte{
		"a\n.pem": testCA.IssueSpec(minica.Spec{Names: []string{"a.example"}, NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}).PEM(),
	})
	for _, command := range []string{"certs", "check"} {
		_, out, _ := wssgate(t, command, "-config", file)
		row := strings.Join(fields(t, out, "a.example"), " ")
		if !strings.Contains(row, `a\n.pem"`) || !strings.Contains(row, " 9999-12-31 ECDSA") {
			t.Errorf("%s prints %s", command, out)
		}
	}
}

// The JSON has lists, never null, and the same facts.
func TestCertsJSON(t *testing.T) {
	leaf := testCA.Issue("a.example")
	for _, test := range []struct {
		files              map[string][]byte
		certificates, bads int
	}{
		{nil, 0, 0},
		{map[string][]byte{"a.pem": leaf.PEM(), "junk.pem": []byte("junk")}, 1, 1},
	} {
		_, stdout, _ := wssgate(t, "certs", "-json", "-config", configWithCertificates(t, test.files))
		var list map[string][]map[string]any
		if err := json.Unmarshal([]byte(stdout), &list); err != nil {
			t.Fatal(err)
		}
		if list["certificates"] == nil || len(list["certificates"]) != test.certificates || list["problems"] == nil || len(list["problems"]) != test.bads {
			t.Errorf("JSON = %s; want %d certificates, %d problems, as lists", stdout, test.certificates, test.bads)
		}
		for _, c := range list["certificates"] {
			if c["name"] != "a.example" || c["not_after"] != leaf.Cert.NotAfter.UTC().Format(time.RFC3339) || c["chosen"] != true {
				t.Errorf("certificate = %v", c)
			}
		}
		for _, p := range list["problems"] {
			if file, _ := p["file"].(string); !strings.HasSuffix(file, "junk.pem") || p["error"] == "" {
				t.Errorf("problem = %v", p)
			}
		}
	}
}

// check connects to every node and says which of them do not work; that changes no
// exit status. -offline connects to nothing.
func TestCheckTriesNodes(t *testing.T) {
	const down = "127.0.0.1:1"
	up := httptest.NewServer(http.NotFoundHandler())
	defer up.Close()
	file := configWithCertificates(t, nil)
	text := `[upstream.t]
nodes = ["ws://` + down + `/", "ws://` + up.Listener.Addr().String() + `/other",
  { url = "ws://` + down + `/2", name = "drained", drain = true }, "ws+unix:///nowhere/a.sock"]
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	status, _, stderr := wssgate(t, "check", "-config", file)
	for _, want := range []string{
		`warning: upstream "t": node "ws://` + down + `/": dial ` + down + `: connection refused`,
		`warning: upstream "t": node "ws://` + up.Listener.Addr().String() + `/other": answered 404 Not Found to the opening handshake, want 101`,
		`warning: upstream "t": node "ws+unix:///nowhere/a.sock": dial /nowhere/a.sock: no such file or directory`,
	} {
		if !strings.Contains(stderr, want+"\n") {
			t.Errorf("check does not say\n%s\nbut\n%s", want, stderr)
		}
	}
	if status != exitOK || strings.Contains(stderr, "drained") || strings.Contains(stderr, "/2") {
		t.Errorf("status %d; want 0, and no word of the drained node:\n%s", status, stderr)
	}
	if _, _, stderr := wssgate(t, "check", "-offline", "-config", file); strings.Contains(stderr, "node") {
		t.Errorf("check -offline says\n%s", stderr)
	}
}

// A name of 248 bytes leaves the other columns on the screen.
func TestLongNamesInTables(t *testing.T) {
	label := strings.Repeat("a", 61)
	long := strings.Join([]string{label, label, label, label}, ".")
	file := configWithCertificates(t, map[string][]byte{"a.pem": testCA.IssueSpec(minica.Spec{Names: []string{long}}).PEM()})
	for _, command := range [][]string{{"certs", "-config", file}, {"check", "-offline", "-config", file}} {
		_, out, _ := wssgate(t, command...)
		if strings.Contains(out, long) || !strings.Contains(out, "…"+long[len(long)-36:]) {
			t.Errorf("%s prints %s", command[0], out)
		}
	}
}

// Each file of testdata/bad has one mistake, named in its first line. "check" and
// "serve" end with status 2 for that one and for no other.
func TestBadFiles(t *testing.T) {
	t.Chdir("config") // what the files name is relative to it
	files, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil || len(files) < 50 {
		t.Fatalf("%d files in testdata/bad, err %v; want 50 or more", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		firstLine, _, _ := strings.Cut(string(data), "\n")
		want, ok := strings.CutPrefix(firstLine, "# want: config.toml: ")
		if !ok {
			t.Fatalf("first line of %s is %q, want \"# want: config.toml: …\"", file, firstLine)
		}
		for _, command := range [][]string{{"check", "-offline"}, {"serve"}} {
			t.Run(command[0]+" "+filepath.Base(file), func(t *testing.T) {
				var stdout, stderr strings.Builder
				if status := dispatch(t.Context(), append(command, "-config", file), &stdout, &stderr); status != exitUsage {
					t.Errorf("exit status = %d, want %d", status, exitUsage)
				}
				if stdout.Len() > 0 {
					t.Errorf("standard output has %q, want nothing", &stdout)
				}
				var mistakes []string
				for line := range strings.Lines(stderr.String()) {
					if !strings.HasPrefix(line, " ") { // neither hint nor excerpt
						mistakes = append(mistakes, strings.TrimSuffix(line, "\n"))
					}
				}
				if want := []string{file + ": " + want}; !slices.Equal(mistakes, want) {
					t.Errorf("mistakes:\n%q\nwant:\n%q", mistakes, want)
				}
			})
		}
	}
}

// smallest is a configuration with what none can do without.
const smallest = `[upstream.tigase]
nodes = ["ws://127.0.0.1:5290/"]
`
