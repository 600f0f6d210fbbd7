package config

import (
	"cmp"
	"path"
	"strings"
	"time"

	"wssgate/upstream"
)

// The checks go through the Config in the order of its structs. They replace
// names and addresses with their normal form, fill in references that default
// to the only candidate, and report everything that another package would
// refuse in its options. Errors about a value come from the code that parses
// it: addresses in package listen, names in names.go, files in files.go, URLs
// and origins in package upstream. [acme], upstreams and vhosts have files of
// their own.

func (c *Config) check(ms *mistakes) {
	root := keyPath{}
	c.Listen.check(ms, root.key("listen"), c.File)
	if c.Certificates.Directory == "" {
		ms.add(root.key("certificates").key("directory"), "", "is empty")
	}
	c.ACME.check(ms, root.key("acme"))
	c.ECH.check(ms, root.key("ech"))
	c.checkUpstreams(ms, root.key("upstream"))
	c.checkVhosts(ms, root.key("vhost"))
	c.checkAccess(ms, root)
	c.Limits.check(ms, root.key("limits"))
	c.Timeouts.check(ms, root.key("timeouts"))
	c.Drain.check(ms, root.key("drain"))
	ms.notNegative(root.key("log").key("sample"), c.Log.Sample)
}

// No real stream works below these bounds.
const (
	minMessage       = 10_000   // bytes; the smallest stanza limit that a server may set (RFC 6120, section 13.12)
	minClientBacklog = 16 << 10 // bytes; one TLS record
	maxBuffer        = 1 << 30  // bytes; a single client could use that much
	minMemory        = 32 << 20 // bytes; an idle gate uses half of that
)

func (l *Limits) check(ms *mistakes, p keyPath) {
	ms.notNegative(p.key("connections"), l.Connections)
	ms.notNegative(p.key("per_client"), l.PerClient)
	ms.notNegative(p.key("handshakes"), l.Handshakes)
	ms.notNegative(p.key("frames_per_second"), l.FramesPerSecond)
	if l.Message < minMessage {
		ms.add(p.key("message"), "", "%v is less than the %d bytes that XMPP requires (RFC 6120, section 13.12)", l.Message, minMessage)
	}
	if l.ClientBacklog < minClientBacklog {
		ms.add(p.key("client_backlog"), "", "%v is less than %v, one TLS record", l.ClientBacklog, Size(minClientBacklog))
	}
	if l.Memory > 0 && l.Memory < minMemory {
		ms.add(p.key("memory"), `"" is 80 % of the memory available, "off" is no limit`, "%v is less than %v; a gate without clients uses half of that", Size(l.Memory), Size(minMemory))
	}
	for key, size := range map[string]Size{"message": l.Message, "client_backlog": l.ClientBacklog} {
		if size > maxBuffer {
			ms.add(p.key(key), "", "%v is more than %v", size, Size(maxBuffer))
		}
	}
}

func (t *Timeouts) check(ms *mistakes, p keyPath) {
	ms.positive(p.key("handshake"), t.Handshake)
	ms.positive(p.key("request"), t.Request)
	ms.positive(p.key("pong"), t.Pong)
	if t.Ping != 0 && t.Ping < time.Second {
		ms.add(p.key("ping"), "", "%v is less than a second", t.Ping)
	}
}

func (d *Drain) check(ms *mistakes, p keyPath) {
	ms.notNegative(p.key("pace"), d.Pace)
	for i, target := range d.Redirect {
		if target == "nodes" {
			continue
		}
		d.Redirect[i] = ms.publicURL(p.key("redirect"), `write "wss://HOST:5291/", or "nodes" for the public URLs of the other nodes`, target, "wss")
	}
}

// publicURL checks a URL for clients and returns its normal form.
func (ms *mistakes) publicURL(p keyPath, hint, s string, schemes ...string) string {
	u, err := upstream.ParseURL(s, schemes...)
	if err != nil {
		hint = cmp.Or(hint, urlHint(s, schemes[len(schemes)-1], func(s string) error { _, err := upstream.ParseURL(s, schemes...); return err }))
		ms.add(p, hint, "%q: %v", s, err)
		return s
	}
	return u.String()
}

func (ms *mistakes) positive(p keyPath, d time.Duration) {
	if d <= 0 {
		ms.add(p, "", "is 0, but this timeout can't be turned off")
	}
}

func (ms *mistakes) notNegative(p keyPath, n int) {
	if n < 0 {
		ms.add(p, "", "%d is negative", n)
	}
}

// eitherBoth requires both of two keys, or neither.
func (ms *mistakes) eitherBoth(p keyPath, key1, value1, key2, value2 string) {
	switch {
	case value1 != "" && value2 == "":
		ms.add(p.key(key2), "", "is required, because %s is set", key1)
	case value1 == "" && value2 != "":
		ms.add(p.key(key1), "", "is required, because %s is set", key2)
	}
}

// checkPath checks the path of a URL, which may be empty.
func (ms *mistakes) checkPath(p keyPath, s string) {
	switch {
	case s == "":
	case s[0] != '/':
		ms.add(p, "", "%q does not begin with a slash", s)
	case strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '?' || c == '#' }):
		ms.add(p, "", "%q has a character that is not allowed in a path", s)
	case strings.Contains(s, "//"), path.Clean(s) != s && path.Clean(s)+"/" != s:
		ms.add(p, "", "%q is not in its shortest form, %q", s, path.Clean(s))
	}
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
