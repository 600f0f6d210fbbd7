package interop

import (
	"bufio"
	"encoding/json"
	"path/filepath"
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
}

// login starts a client of the kind, one of client.mjs's, and waits until it is
// logged in. more adds to its task.
func login(t *testing.T, site *gate.Site, kind, service, jid string, more map[string]any) (c *client, full string) {
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
	s := startScript(t, "client.mjs", task, "NODE_EXTRA_CA_CERTS="+filepath.Join(site.Dir, "root.pem"))
	c = &client{t: t, name: kind + " " + jid, script: s, events: make(chan event, 1000)}
	go c.follow(s.lines)
	t.Cleanup(func() {
		s.stdin.Close()
		for e := range c.events {
			c.seen = append(c.seen, e)
		}
		if t.Failed() {
			for _, e := range c.seen {
				t.Logf("%s: %+v", c.name, e)
			}
			t.Logf("%s: %s", c.name, s.stderr.String())
		}
	})
	return c, c.online(false)
}

// follow reads until the script ends.
func (c *client) follow(lines *bufio.Scanner) {
	defer close(c.events)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			e = event{What: "garbage", Data: lines.Text()}
		}
		c.events <- e
	}
}

// want returns the next event of the kind that match, which may be nil,
// accepts. Those before it are passed over.
func (c *client) want(what string, match func(event) bool) event {
	c.t.Helper()
	late := time.After(patience)
	for {
		select {
		case e, ok := <-c.events:
			if !ok {
				c.t.Fatalf("%s: ended, without %q", c.name, what)
			}
			c.seen = append(c.seen, e)
			if e.What == what && (match == nil || match(e)) {
				return e
			}
		case <-late:
			c.t.Fatalf("%s: no %q within %v", c.name, what, patience)
		}
	}
}

// online waits until the client is logged in, and returns its full JID.
func (c *client) online(resumed bool) string {
	c.t.Helper()
	e := c.want("online", nil)
	if e.Resumed != resumed {
		c.t.Errorf("%s: logged in as %s, resumed %v; want %v", c.name, e.JID, e.Resumed, resumed)
	}
	return e.JID
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
