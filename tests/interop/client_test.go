package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wssgate/tests/internal/gate"
)

// A client is one run of client.mjs: a real XMPP client that is logged in and
// comes back by itself.
type client struct {
	t      *testing.T
	name   string
	script *script
	events chan event
	seen   []event
}

// An event is what client.mjs says has happened.
type event struct {
	What    string
	URL     string // connecting
	Data    string // received
	Code    int    // closed
	Clean   bool
	JID     string // online
	Resumed bool
	From    string // message
	Body    string

	line string
}

// login starts a client of the kind, one of client.mjs's, and waits until it is
// logged in. more adds to its task.
func login(t *testing.T, site *gate.Site, kind, service, jid string, more map[string]any) (c *client, full string) {
	t.Helper()
	c = visit(t, site, kind, service, jid, more)
	return c, c.online()
}

// visit is login without the wait.
func visit(t *testing.T, site *gate.Site, kind, service, jid string, more map[string]any) (c *client) {
	t.Helper()
	_, domain, _ := strings.Cut(jid, "@")
	task := map[string]any{"with": kind, "service": service, "jid": jid, "password": passwordOf(domain)}
	for k, v := range more {
		task[k] = v
	}
	if kind == "chromium" {
		withChromium(t, site.CA.RootPEM(), task)
		base, _, _ := strings.Cut(strings.TrimPrefix(service, "wss://"), "/")
		task["page"] = "https://" + base + "/"
	}
	site.Write(t, "root.pem", site.CA.RootPEM())
	// A script that is not killed ends its browser.
	ctx, kill := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(kill)
	s := startScript(ctx, t, "client.mjs", task, "NODE_EXTRA_CA_CERTS="+filepath.Join(site.Dir, "root.pem"))
	c = &client{t: t, name: kind + " " + jid, script: s, events: make(chan event, 1000)}
	go c.follow(s.lines)
	t.Cleanup(func() {
		s.stdin.Close()
		defer time.AfterFunc(patience, kill).Stop()
		for e := range c.events {
			c.seen = append(c.seen, e)
		}
		if t.Failed() {
			for _, e := range c.seen {
				t.Logf("%s: %s", c.name, e.line)
			}
			t.Logf("%s: %s", c.name, s.stderr.String())
		}
	})
	return c
}

// follow reads until the script ends.
func (c *client) follow(lines *bufio.Scanner) {
	defer close(c.events)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			e.What = err.Error()
		}
		e.line = lines.Text()
		c.events <- e
	}
}

// next waits for the next event; what names what it is waited for.
func (c *client) next(what string) event {
	c.t.Helper()
	select {
	case e, ok := <-c.events:
		if !ok {
			c.t.Fatalf("%s: ended, without %q", c.name, what)
		}
		c.seen = append(c.seen, e)
		return e
	case <-time.After(patience):
		c.t.Fatalf("%s: no %q: nothing within %v", c.name, what, patience)
		panic("not reached")
	}
}

// want returns the next event of the kind that match, which may be nil,
// accepts. Those before it are passed over.
func (c *client) want(what string, match func(event) bool) event {
	c.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if e := c.next(what); e.What == what && (match == nil || match(e)) {
			return e
		}
	}
	c.t.Fatalf("%s: no %q within %v", c.name, what, patience)
	panic("not reached")
}

// online waits until the client is logged in to a new session, and returns its
// full JID.
func (c *client) online() string {
	c.t.Helper()
	e := c.want("online", nil)
	if e.Resumed {
		c.t.Errorf("%s: resumed as %s; want a new session", c.name, e.JID)
	}
	return e.JID
}

// resumes waits until the client is back in the session of its full JID, and
// has heard what was kept for it there, in whatever order it says so. What it had
// heard already comes again if the connection ended before the server knew (XEP-0198,
// section 5).
func (c *client) resumes(jid, from, body string) {
	c.t.Helper()
	before := slices.Clone(c.seen)
	var online, message *event
	for online == nil || message == nil {
		switch e := c.next("online and message"); e.What {
		case "online":
			online = &e
		case "message":
			if !slices.ContainsFunc(before, func(b event) bool { return b.What == e.What && b.From == e.From && b.Body == e.Body }) {
				message = &e
			}
		}
	}
	if !online.Resumed || online.JID != jid {
		c.t.Errorf("%s: back as %s, resumed %v; want %s, resumed", c.name, online.JID, online.Resumed, jid)
	}
	if message.From != from || message.Body != body {
		c.t.Errorf("%s: heard %q from %q; want %q from %q", c.name, message.Body, message.From, body, from)
	}
}

// hears waits for the next message.
func (c *client) hears(from, body string) {
	c.t.Helper()
	if e := c.want("message", nil); e.From != from || e.Body != body {
		c.t.Errorf("%s: heard %q from %q; want %q from %q", c.name, e.Body, e.From, body, from)
	}
}

func (c *client) says(to, body string) {
	c.t.Helper()
	c.script.tell(map[string]any{"say": []string{to, body}})
}

// goodbye waits for the Close that a drain sends, and returns the messages that
// came before it, from the last event that was asked for.
func (c *client) goodbye() (words string) {
	c.t.Helper()
	from := len(c.seen)
	e := c.want("closed", nil)
	if e.Code != 1001 || !e.Clean {
		c.t.Errorf("%s: closed with %d, clean %v; want 1001, clean", c.name, e.Code, e.Clean)
	}
	for _, e := range c.seen[from:] {
		words += e.Data
	}
	return words
}
