// Package setup looks for an XMPP server and certificates on this machine, and writes a
// first configuration for a gate in front of them. It makes no connections, and leaves out
// what it can't read. It is for "wssgate init".
package setup

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"wssgate/config"
)

// A server is an XMPP server whose configuration was found.
type server struct {
	name, title string // name is the upstream's
	file        string
	domains     []string
	url         string
	serverName  string   // for wss
	why         string   // where the URL comes from
	notes       []string // what to change on the server
	certs       string   // its folder of certificates
}

// A Plan is a first configuration.
type Plan struct {
	Text string // of config.toml
	// Found lists what was found, Missing what the operator still has to do; a line each.
	Found, Missing []string
	// Folder is the default folder of certificates, if there was no other; it may not
	// exist yet.
	Folder string
}

// Write writes a first configuration to a file that must not exist yet, or else the error
// is fs.ErrExist, and makes the folder for certificates if there is none.
func Write(file string) (p Plan, err error) {
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return p, err
	}
	p = Look("/", dir)
	if _, err := config.Parse(file, []byte(p.Text)); err != nil {
		return p, err // a name that TOML can't hold
	}
	w, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return p, err
	}
	_, err = w.WriteString(p.Text)
	if e := w.Close(); err == nil {
		err = e
	}
	if err == nil && p.Folder != "" {
		err = os.MkdirAll(p.Folder, 0o750)
	}
	return p, err
}

// Look searches below root, which is "/" except in tests, for a configuration in the folder dir.
func Look(root, dir string) Plan {
	l := looker{root}
	servers := slices.Concat(l.tigase(), l.prosody(), l.ejabberd())
	p := Plan{}
	var domains []string
	for i, s := range servers {
		line := s.title + ": " + s.file
		if len(s.domains) > 0 {
			line += ", for " + strings.Join(s.domains, ", ")
		}
		p.Found = append(p.Found, line)
		if i == 0 {
			domains = s.domains
			p.Missing = append(p.Missing, s.notes...)
		}
	}
	if len(servers) == 0 {
		servers = append(servers, server{name: "xmpp", title: "No XMPP server found", url: "ws://127.0.0.1:5290/", why: "the port of a Tigase on this machine"})
		p.Missing = append(p.Missing, "no configuration of Tigase, Prosody or ejabberd was found: change nodes to the URL of your XMPP server")
	}
	folder, names := l.certificates(dir, servers, domains)
	switch {
	case folder == "":
		p.Folder = filepath.Join(dir, "certs")
		p.Missing = append(p.Missing, "no certificates were found: put certificates and keys into "+quoted(p.Folder))
	default:
		p.Found = append(p.Found, "certificates: "+folder+", for "+strings.Join(names, ", "))
		for _, d := range domains {
			if !covered(d, names) {
				p.Missing = append(p.Missing, "no certificate for "+d)
			}
		}
		if info, err := os.Stat(l.path(folder)); err == nil && info.Mode()&0o005 == 0 {
			p.Missing = append(p.Missing, "only root, or a group, may read "+quoted(folder)+": let the user of the gate read it, or copy renewed certificates with a hook; see docs/acme.md")
		}
	}
	if folder == l.own(dir) {
		folder = "" // the default
	}
	p.Text = text(p, servers, folder)
	return p
}

func text(p Plan, servers []server, folder string) string {
	var b strings.Builder
	b.WriteString("# Written by \"wssgate init\". config.toml.example has every key, and \"wssgate check\"\n# shows what this file does.\n")
	list := func(title string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "#\n# %s:\n", title)
		}
		for _, line := range lines {
			fmt.Fprintf(&b, "# - %s\n", line)
		}
	}
	list("Found", p.Found)
	list("To do", p.Missing)
	b.WriteString("\n[certificates]\n")
	if folder == "" {
		b.WriteString("# Certificates and keys in PEM, in this folder beside this file.\n#directory = \"certs\"\n")
	} else {
		fmt.Fprintf(&b, "# wssgate reads the names from the certificates, and notices renewed ones.\ndirectory = %s\n", quoted(folder))
	}
	for i, s := range servers {
		off := ""
		if i > 0 {
			off = "#"
		}
		fmt.Fprintf(&b, "\n# %s: %s.\n", s.title, s.why)
		if i > 0 {
			b.WriteString("# With two upstreams, [[vhost]] tables say which one a name is for.\n")
		}
		fmt.Fprintf(&b, "%s[upstream.%s]\n%snodes = [%s]\n", off, s.name, off, quoted(s.url))
		if s.serverName != "" {
			fmt.Fprintf(&b, "%sserver_name = %s\n", off, quoted(s.serverName))
		}
	}
	return b.String()
}

// quoted is a string of TOML.
func quoted(s string) string { return strconv.QuoteToGraphic(s) }

type looker struct{ root string }

func (l looker) path(name string) string { return filepath.Join(l.root, name) }

// maxFile bounds the configurations of servers that are read, in bytes.
const maxFile = 4 << 20

// read returns the text of a regular file, "" if it can't be read.
func (l looker) read(name string) string {
	info, err := os.Stat(l.path(name))
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
		return ""
	}
	data, err := os.ReadFile(l.path(name))
	if err != nil {
		return ""
	}
	return string(data)
}

// glob returns the names that match, without root.
func (l looker) glob(patterns ...string) (names []string) {
	for _, pattern := range patterns {
		found, _ := filepath.Glob(l.path(pattern))
		for _, name := range found {
			if rel, err := filepath.Rel(l.root, name); err == nil {
				names = append(names, string(filepath.Separator)+rel)
			}
		}
	}
	return names
}

// certificates returns the folder to take certificates from and the names in it: the first
// with one for a domain, or else the first with any.
func (l looker) certificates(dir string, servers []server, domains []string) (folder string, names []string) {
	candidates := []string{l.own(dir), "/etc/letsencrypt/live"}
	for _, s := range servers {
		if s.certs != "" {
			candidates = append(candidates, s.certs)
		}
	}
	for _, c := range candidates {
		in := l.names(c)
		fits := slices.ContainsFunc(domains, func(d string) bool { return covered(d, in) })
		if fits || folder == "" && len(in) > 0 {
			folder, names = c, in
		}
		if fits {
			break
		}
	}
	return folder, names
}

// own is the default folder of certificates, seen from root.
func (l looker) own(dir string) string {
	dir = filepath.Join(dir, "certs")
	name, err := filepath.Rel(l.root, dir)
	if err != nil {
		return dir
	}
	return string(filepath.Separator) + name
}

// names returns the names of the certificates that a gate would serve from a folder.
func (l looker) names(folder string) (names []string) {
	if info, err := os.Stat(l.path(folder)); err != nil || !info.IsDir() {
		return nil
	}
	c, err := config.Parse("config.toml", fmt.Appendf(nil, "[certificates]\ndirectory = %s\n[upstream.x]\nnodes = [\"ws://127.0.0.1:1/\"]\n", quoted(l.path(folder))))
	if err != nil {
		return nil
	}
	store, err := c.OpenCertificates(false, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil
	}
	defer store.Close()
	for e := range store.Certificates() {
		if !slices.Contains(names, e.Name) {
			names = append(names, e.Name)
		}
	}
	return names
}

// covered reports whether a name is among others, or below a wildcard.
func covered(name string, names []string) bool {
	_, parent, _ := strings.Cut(name, ".")
	return slices.Contains(names, name) || slices.Contains(names, "*."+parent)
}
