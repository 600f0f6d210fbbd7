package admin

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"wssgate/human"
	"wssgate/proxy"
)

// Levels of a Finding.
const (
	LevelError = "error" // clients are refused now or soon: act
	LevelWarn  = "warn"  // to be handled during working hours
)

// maxFindings bounds the list; its last entry then counts the rest.
const maxFindings = 40

// A Finding is a problem that an operator should look at: what is wrong, and what to
// do.
type Finding struct {
	Level string `json:"level"`
	What  string `json:"what"`
	Do    string `json:"do"`
}

// Certificates are renewed with a third of their time left. A certificate with less
// time left than this, or than this share of a short lifetime, was not renewed.
const (
	certificateWarn  = 14 * 24 * time.Hour
	certificateError = 3 * 24 * time.Hour
)

// isShortLived reports whether a certificate is judged by a share of its lifetime.
// Alerts need the beginning of the lifetime only for those; there may be ten thousand
// others.
func (c *Certificate) isShortLived() bool { return c.NotAfter.Sub(c.NotBefore)/6 < certificateWarn }

// judge returns the findings, the worst first. It considers the present state and the
// last five minutes only.
func judge(st *Status, h *history) []Finding {
	j := judgement{now: st.Now}
	j.reload(st.Reload)
	j.vhosts(st.Vhosts)
	j.certificates(st.Certificates)
	for _, p := range st.Files {
		if strings.HasSuffix(p.Err, "; still served") {
			j.warn("replace the file; it is read again automatically or on a reload", "%s", p.Err)
		} else if p.Kept {
			j.warn(cmp.Or(p.Hint, "fix the file; it is read again automatically or on a reload"),
				"%s; its previous contents are still served%s", p.Err, since(p.Since))
		} else {
			j.warn(cmp.Or(p.Hint, "fix the file or remove it; it is read again automatically or on a reload"), "%s%s", p.Err, since(p.Since))
		}
	}
	if w := st.Watch; w != nil && w.Err != "" {
		j.warn(w.Hint, "changed certificates are noticed only by looking at all files every 10 s%s: %s", since(w.Since), w.Err)
	}
	for _, r := range st.Rejected {
		switch {
		case r.Count == 1:
			j.warn(r.Hint, "%s", r.First)
		case r.Count > 1:
			j.warn(r.Hint, "%s; the same is true of %d more", r.First, r.Count-1)
		}
	}
	for _, p := range st.AccessFiles {
		j.warn("fix the file; it is read again automatically or on a reload", "%s; its previous contents are in force%s", p.Err, since(p.Since))
	}
	for _, m := range st.Missing {
		j.error("check DNS, or the mount of the socket's folder; the gate tries again automatically",
			"listen.%s: %q has not been open since %s: %s", m.Name, m.Addr, m.Since.UTC().Format(time.DateTime), m.Err)
	}
	for _, p := range st.ACMEFiles {
		j.error("let the gate write to the folder, or make room; it tries again every 10 minutes", "nothing can be obtained or renewed%s: %s", since(p.Since), p.Err)
	}
	j.ech(st.ECH)
	for _, h := range st.Hanging {
		j.warn("check its mount; what was read of it before stays in use, and it is read again when it answers",
			"%s: %q %s since %s", h.What, h.Path, h.does(), h.Since.UTC().Format(time.DateTime))
	}
	switch {
	case st.Log.Err != "":
		j.warn("check where standard error goes, for instance whether its disk is full",
			"the log has not been writable since %s: %s; %s lost since the start", st.Log.Failing.UTC().Format(time.DateTime), st.Log.Err, human.Count(int(st.Log.Lost), "line"))
	case st.Log.hangs(j.now):
		j.warn("check the process that reads standard error; lines that do not fit into the queue are lost",
			"the log has not been read since %s; %s lost since the start", st.Log.Since.UTC().Format(time.DateTime), human.Count(int(st.Log.Lost), "line"))
	}
	j.acme(st.ACME)
	for _, u := range st.Upstreams {
		j.upstream(u)
		j.ports(u)
		j.lost(u)
	}
	for _, d := range st.Drains {
		if !d.Begins.IsZero() {
			j.warn("stop the drain under Drain if it is a mistake", "%s: a drain begins at %s; until then the gate is not ready and accepts clients", d.Scope, d.Begins.UTC().Format(time.DateTime))
			continue
		}
		j.warn("stop the drain under Drain when the work is done", "%s has been draining since %s: its new clients are refused", d.Scope, d.Since.UTC().Format(time.DateTime))
	}
	j.balancers(&st.Gate)
	j.unserved(st.Unserved)
	j.capacity(st, h)

	slices.SortStableFunc(j.found, func(a, b Finding) int { return cmp.Compare(a.Level, b.Level) }) // "error" < "warn"
	return j.found
}

// tally counts findings by level.
func tally(found []Finding) map[string]int {
	n := map[string]int{LevelError: 0, LevelWarn: 0}
	for _, f := range found {
		n[f.Level]++
	}
	return n
}

// bound truncates the list.
func bound(found []Finding) []Finding {
	if more := len(found) - maxFindings; more > 0 {
		found = append(found[:maxFindings], Finding{found[maxFindings].Level, fmt.Sprintf("and %d more", more), "fix these first"})
	}
	fill(&found)
	return found
}

type judgement struct {
	now   time.Time
	found []Finding
}

func (j *judgement) error(do, format string, args ...any) {
	j.found = append(j.found, Finding{LevelError, fmt.Sprintf(format, args...), do})
}

func (j *judgement) warn(do, format string, args ...any) {
	j.found = append(j.found, Finding{LevelWarn, fmt.Sprintf(format, args...), do})
}

func (j *judgement) reload(r Reload) {
	if !r.At.IsZero() && !r.OK {
		n := 0
		for _, line := range r.Errors {
			if !strings.HasPrefix(line, " ") { // other lines are hints
				n++
			}
		}
		j.error("fix the mistakes listed under Reload, then reload again",
			"the last reload changed nothing: %s at %s", human.Count(n, "error"), r.At.UTC().Format(time.DateTime))
	}
}

func (j *judgement) vhosts(vhosts []Vhost) {
	for _, v := range vhosts {
		if v.lacksCertificate() {
			j.error("put its certificate and key into the certificate directory", "vhost %q has no certificate: its clients are refused", v.Name)
		}
	}
}

func (j *judgement) certificates(certificates []Certificate) {
	for _, c := range certificates {
		life, left := c.NotAfter.Sub(c.NotBefore), c.NotAfter.Sub(j.now)
		do := "replace it; a reload is not needed where certificates are watched"
		if c.Source == "acme" {
			do = "see the CA's message under ACME"
		}
		switch {
		case left <= 0:
			j.error(do, "the certificate of %q expired %s ago", c.Name, human.Duration(-left))
		case j.now.Before(c.NotBefore):
			j.error(do, "the certificate of %q is not valid before %s", c.Name, c.NotBefore.UTC().Format(time.DateTime))
		case left < min(certificateError, life/12):
			j.error(do, "the certificate of %q expires in %s", c.Name, human.Duration(left))
		case left < min(certificateWarn, life/6):
			j.warn(do, "the certificate of %q expires in %s", c.Name, human.Duration(left))
		}
	}
}

// somePeers is the number of connections of a load balancer that make a finding: a
// scanner may send anything once.
const somePeers = 3

func (j *judgement) balancers(g *Gate) {
	if t := g.ProxyHeader; t.Count >= somePeers {
		j.error(proxy.ProxyHeaderHint, "%s from networks of listen.proxy_protocol had no valid PROXY header since %s and were closed, most recently one from %s: %s",
			human.Count(t.Count, "connection"), t.First.UTC().Format(time.DateTime), t.Peer, t.Err)
	}
	if t := g.ProxyUnexpected; t.Count >= somePeers {
		j.warn(proxy.ProxyUnexpectedHint, "%s from outside listen.proxy_protocol began with a PROXY header since %s and were closed, most recently one from %s",
			human.Count(t.Count, "connection"), t.First.UTC().Format(time.DateTime), t.Peer)
	}
}

// since returns the end of a finding, or "" if the time is unknown.
func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " since " + t.UTC().Format(time.DateTime)
}

// MaxUnserved is the number of names without a certificate that are shown.
const MaxUnserved = 10

// oftenUnserved is how often clients must ask for a name before it is a finding.
// Scanners ask for many names, but seldom twice.
const oftenUnserved = 20

func (j *judgement) unserved(names []proxy.UnservedName) {
	for _, n := range names {
		if n.Count >= oftenUnserved {
			j.warn("add a certificate for it, or remove it from DNS; its clients are refused",
				"clients ask for %q, which has no certificate: %s since %s", n.Name, human.Count(n.Count, "handshake"), n.First.UTC().Format(time.DateTime))
		}
	}
}

func (j *judgement) acme(names []ACMEName) {
	const do = "docs/acme.md explains the CA's messages; the gate tries again automatically"
	for _, n := range names {
		switch {
		case n.Revoked && n.Failures > 0:
			j.error(do, "the certificate of %q has been revoked and is still served; ACME could not replace it%s: %s", n.Name, since(n.Since), n.Err)
		case n.State == "expired":
			j.error(do, "ACME could not renew the certificate of %q%s: %s", n.Name, since(n.Since), n.Err)
		case n.Failures > 0 && n.NotAfter.IsZero():
			j.error(do, "ACME has no certificate for %q after %s%s: %s", n.Name, human.Count(n.Failures, "attempt"), since(n.Since), n.Err)
		case n.Failures > 0:
			j.warn(do, "ACME could not renew the certificate of %q yet, after %s%s: %s", n.Name, human.Count(n.Failures, "attempt"), since(n.Since), n.Err)
		}
	}
}

func (j *judgement) ech(e *ECH) {
	if e == nil {
		return
	}
	if !e.Certificate {
		j.error("put a certificate and key of that name into the certificate directory, or add it to acme.names",
			"ech.public_name %q has no certificate: clients whose ECH record is out of date are refused", e.PublicName)
	}
	switch {
	case e.Err != "" && e.Keys == 0:
		j.warn("let the gate read and write the folder; it tries again every 10 seconds", "there is no key for ECH: clients show the server name that they ask for%s: %s", since(e.Since), e.Err)
	case e.Err != "":
		j.warn("let the gate read and write the folder; it tries again every 10 seconds", "the keys of ECH can't be replaced or read, those that were read stay in use%s: %s", since(e.Since), e.Err)
	}
}

func (j *judgement) upstream(u Upstream) {
	var bad []Node
	good := 0
	for _, n := range u.Nodes {
		if n.Works() {
			good++
		} else if n.State != "draining" {
			bad = append(bad, n)
		}
	}
	if good == 0 && len(u.Nodes) > 0 {
		why, hint := "all nodes are draining", ""
		if len(bad) > 0 {
			why, hint = bad[0].trouble(), bad[0].LastHint
		}
		j.error(cmp.Or(hint, "is the XMPP server running, and does it listen where the configuration says?"),
			"upstream %q has no working node: %s", u.Name, why)
		return
	}
	for _, n := range bad {
		j.warn(cmp.Or(n.LastHint, "its clients go to the other nodes; check the XMPP server of this one"),
			"node %q of upstream %q: %s", n.Name, u.Name, n.trouble())
	}
}

// lostRecently is how long a lost redirect remains a finding: the node may have few
// clients.
const lostRecently = time.Hour

func (j *judgement) lost(u Upstream) {
	if l := u.Lost; l.Count > 0 && j.now.Sub(l.Last) < lostRecently {
		j.error(l.Do+"; see docs/tigase.md", "upstream %q redirected %s to addresses that the gate can't reach, most recently to %q, %s: their streams ended",
			u.Name, human.Count(l.Count, "client"), l.Address, l.Why)
	}
}

// ports reports nodes with few source ports left, or none.
func (j *judgement) ports(u Upstream) {
	const do = `add addresses of this machine to "source" of the upstream, or widen net.ipv4.ip_local_port_range; see docs/troubleshooting.md`
	for _, n := range u.Nodes {
		switch {
		case !n.PortsUsedUp.IsZero() && j.now.Sub(n.PortsUsedUp) < recently:
			j.error(do, "node %q of upstream %q: no source port was left at %s: clients were refused", n.Name, u.Name, n.PortsUsedUp.UTC().Format(time.DateTime))
		case n.Ports >= nearlyUsedUp:
			j.warn(do, "node %q of upstream %q: %.0f %% of the source ports for one of its addresses are in use", n.Name, u.Name, n.Ports*100)
		}
	}
}

func (n Node) trouble() string {
	if n.LastError != "" {
		return n.LastError
	}
	return n.State
}

// Shares of a limit above which there is a finding.
const (
	nearlyFull = 0.9
	nearlyBusy = 0.8

	nearlyUsedUp = 0.8 // of source ports
	recently     = 5 * time.Minute
)

func (j *judgement) capacity(st *Status, h *history) {
	c := st.Counts
	if limit := c.Limit; limit > 0 && float64(c.Connections) >= nearlyFull*float64(limit) {
		say := j.warn
		if c.Connections >= limit {
			say = j.error
		}
		say("raise limits.connections, and the limit of open files (ulimit -n, LimitNOFILE)",
			"%d of at most %d connections are open", c.Connections, limit)
	}
	j.memory(st.Memory)
	then, now, ok := h.since(recently)
	if !ok {
		return
	}
	took := now.at.Sub(then.at)
	if busy := share(now.busy-then.busy, took); busy >= nearlyBusy {
		j.warn("messages are delayed; move clients to another gate",
			"the event loops are busy %.0f %% of the time", busy*100)
	}
	if n := now.noPlace - then.noPlace; n > 0 {
		j.warn("this passes when many clients reconnect at once; if it persists, raise limits.handshakes or add processors",
			"%s waited too long for a handshake slot in the last %s", human.Count(int(n), "TLS handshake"), minutes(took))
	}
}

func (j *judgement) memory(m Memory) {
	const do = "give the gate more memory and raise limits.memory, or lower limits.connections or limits.client_backlog"
	switch {
	case m.Short && m.Since != nil:
		j.error(do, "memory has been short since %s: %d MiB are in use and limits.memory is %d MiB; new clients are refused, and the largest consumers are closed (%s and %s since the start)",
			m.Since.UTC().Format(time.DateTime), m.Used>>20, m.Max>>20, human.Count(m.ShedTunnels, "tunnel"), human.Count(m.ShedRequests, "BOSH request"))
	case m.Until != nil && j.now.Sub(*m.Until) < recently:
		j.warn(do, "memory was short from %s to %s: new clients were refused, and the largest consumers were closed (%s and %s since the start)",
			m.Since.UTC().Format(time.DateTime), m.Until.UTC().Format(time.DateTime), human.Count(m.ShedTunnels, "tunnel"), human.Count(m.ShedRequests, "BOSH request"))
	case m.Limit > 0 && float64(m.Bytes) >= nearlyFull*float64(m.Limit):
		j.warn(do, "Go uses %d MiB of the %d MiB of memory that it may use", m.Bytes>>20, m.Limit>>20)
	case m.Max > 0 && float64(m.Used) >= nearlyFull*float64(m.Max):
		j.warn(do, "%d MiB of memory are in use, and limits.memory is %d MiB: above it new clients are refused", m.Used>>20, m.Max>>20)
	}
}

func minutes(d time.Duration) string {
	return human.Count(max(int(d.Round(time.Minute)/time.Minute), 1), "minute")
}
