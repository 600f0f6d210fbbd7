package certstore

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"
)

// An Ignored is a file or folder in the directory that is not used, although it
// has no fault.
type Ignored struct {
	File string // file or folder
	Why  string
	Hint string // may be empty
}

const (
	maxIgnored       = 1000 // entries that are listed; the rest is only counted
	maxIgnoredFolder = 100  // of these in one folder
	maxStray         = 50   // of these with an unknown kind, which may be very many
)

// passed is an entry of a folder that is not used. If why is empty, the
// extension is the reason.
type passed struct{ name, why, hint string }

// Ignored returns the entries of the directory that are not used, ordered by
// path. It lists at most 1,000 in all and 100 in each folder; more counts the
// rest.
func (s *Store) Ignored() (list []Ignored, more int) {
	s.swap.Lock()
	defer s.swap.Unlock()
	list, more = s.ignored()
	return slices.Clone(list), more
}

// ignored is Ignored for callers that hold swap. The list must not change.
func (s *Store) ignored() (list []Ignored, more int) {
	if s.tree == nil {
		return nil, 0
	}
	have := s.tree.ignored.Load()
	if have == nil {
		return nil, 0
	}
	return have.list, have.more
}

// ignored lists what a tree does not use. It never changes.
type ignored struct {
	list []Ignored
	more int
}

// pass records an entry of the folder that is not used.
func (f *folder) pass(p passed) {
	stray := p.why == "" && !isKnownForeign(p.name) || p.why == whyNotPEM || p.why == whyMany || p.why == whyLarge
	if len(f.foreign) >= maxIgnoredFolder || stray && f.stray >= maxStray {
		f.more++
		return
	}
	if slices.ContainsFunc(f.foreign, func(have passed) bool { return have.name == p.name }) {
		return
	}
	if stray {
		f.stray++
	}
	f.foreign = append(f.foreign, p)
}

// gather lists what the tree does not use.
func (t *tree) gather() *ignored {
	out := new(ignored)
	paths := make([]string, 0, len(t.folders))
	for path, f := range t.folders {
		out.more += f.more
		if len(f.foreign)+len(f.idle) > 0 {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths) // so that each list has the same ones
	for _, path := range paths {
		f := t.folders[path]
		for _, list := range [...][]passed{f.foreign, f.idle} {
			for i, p := range list {
				if len(out.list) >= maxIgnored {
					out.more += len(list) - i
					break
				}
				out.list = append(out.list, p.in(f.path))
			}
		}
	}
	slices.SortFunc(out.list, func(a, b Ignored) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Why, b.Why)) })
	return out
}

func (p passed) in(dir string) Ignored {
	i := Ignored{File: filepath.Join(dir, p.name), Why: p.why, Hint: p.hint}
	if p.why == "" {
		i.Why, i.Hint = extensionWhy(i.File)
	}
	return i
}

// isKnownForeign reports whether a file's name is enough to leave it out.
func isKnownForeign(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".p12", ".pfx", ".der", ".p7b", ".p7c", ".jks", ".keystore":
		return true
	}
	return false
}

// extensionWhy explains why a file with this extension is ignored.
func extensionWhy(path string) (why, hint string) {
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".p12", ".pfx":
		return "PKCS #12, not PEM", convert(path, "pkcs12 -nodes")
	case ".der":
		return "DER, not PEM", convert(path, "x509 -inform der")
	case ".p7b", ".p7c":
		return "PKCS #7, not PEM", convert(path, "pkcs7 -print_certs")
	case ".jks", ".keystore":
		return "a Java keystore", "export it with keytool -importkeystore and -deststoretype PKCS12, and that with openssl pkcs12"
	case ".sctl":
		return "signed certificate timestamps, which are not used", ""
	case ".csr", ".req":
		return whyRequest, ""
	case ".json", ".conf", ".txt", ".md", ".log":
		return "files that end in " + ext + " are not read", ""
	default:
		return "files that end in " + printable(ext) + " are not read", "if it is a certificate or a key in PEM, give it the extension .pem"
	}
}

const (
	whyRequest   = "a certificate signing request"
	whyEncrypted = "an encrypted private key"
	whyAccount   = "the account key of an ACME client"
	whyAuthority = "the private key of a CA"
	whyDeep      = "too deep: folders more than 8 levels below the directory are not read"
	whyHidden    = "hidden folders are not read"
	whyCertbot   = "a folder of certbot; its certificates are read in live"
	whyNotPEM    = "no extension, and not PEM"
	whyLarge     = "no extension, and larger than 128 KiB"
	whyMany      = "no extension; 1,024 others without one in this folder, or 65,536 in all, are not PEM, so it is not opened"
	whyLost      = "a folder of the file system"
)

// convert returns the openssl command that converts a file to PEM. command is
// its verb with the options.
func convert(path, command string) string {
	verb, options, _ := strings.Cut(command, " ")
	in := path
	if strings.ContainsFunc(in, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-@+=:,", r))
	}) || strings.HasPrefix(in, "-") {
		in = "FILE"
	}
	out := strings.TrimSuffix(in, filepath.Ext(in)) + ".pem"
	if out == in {
		out = strings.TrimSuffix(in, ".pem") + "-converted.pem"
	}
	return strings.TrimSpace("openssl "+verb+" -in "+in+" "+options) + " -out " + out + ", and remove this file"
}
