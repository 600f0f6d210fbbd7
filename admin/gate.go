package admin

import (
	"time"

	"wssgate/access"
	"wssgate/proxy"
)

// A Gate is the current state of the gate as its owner describes it: its configuration,
// with the state of each part. Its names may become labels of metrics, so they come
// from the configuration.
type Gate struct {
	Version   string    `json:"version"`
	Go        string    `json:"go"`
	Revision  string    `json:"revision"`
	Host      string    `json:"host"` // host name of the machine
	Started   time.Time `json:"started"`
	Config    string    `json:"config"` // the configuration file
	Listeners []string  `json:"listeners"`

	Vhosts       []Vhost       `json:"vhosts"`
	Certificates []Certificate `json:"certificates"` // in use, ordered by name and key type
	Files        []FileProblem `json:"file_problems"`
	Rejected     []Rejected    `json:"certificate_warnings"` // one for each rule
	Ignored      Ignored       `json:"ignored_files"`
	Watch        *Watch        `json:"certificate_watch"`    // nil: certificates.watch is off
	AccessFiles  []FileProblem `json:"access_file_problems"` // of access lists
	ACME         []ACMEName    `json:"acme"`
	ACMEFiles    []FileProblem `json:"acme_file_problems"` // of the cache as a whole
	ECH          *ECH          `json:"ech"`                // nil: off
	Upstreams    []Upstream    `json:"upstreams"`
	Logins       Logins        `json:"logins"`
	Denied       []access.Ban  `json:"denied"` // by the operator, until a time

	// Unserved are the names without a certificate that clients ask for most.
	Unserved []proxy.UnservedName `json:"unserved_names"`

	// The two mismatches between a load balancer and listen.proxy_protocol.
	ProxyHeader     proxy.BalancerTrouble `json:"proxy_header"`     // missing or invalid
	ProxyUnexpected proxy.BalancerTrouble `json:"proxy_unexpected"` // from a network that is not listed

	Reload  Reload            `json:"reload"`
	Hanging []Hang            `json:"hanging"` // file systems that do not answer
	Missing []MissingListener `json:"missing_listeners"`
	Log     Log               `json:"log"`
	Drain   *Drain            `json:"drain"`  // of the whole gate, which ends it; nil: none
	Drains  []Drain           `json:"drains"` // requested ones, of vhosts, nodes or all vhosts
}

// fill replaces nil lists by empty ones, which JSON would show as null.
func (g *Gate) fill() {
	fill(&g.Listeners)
	fill(&g.Vhosts)
	fill(&g.Certificates)
	fill(&g.Files)
	fill(&g.Rejected)
	fill(&g.Ignored.First)
	fill(&g.AccessFiles)
	fill(&g.ACME)
	fill(&g.ACMEFiles)
	fill(&g.Upstreams)
	fill(&g.Logins.Clients)
	fill(&g.Denied)
	fill(&g.Unserved)
	fill(&g.Drains)
	fill(&g.Hanging)
	fill(&g.Missing)
	fill(&g.Reload.Errors)
	for i := range g.Upstreams {
		fill(&g.Upstreams[i].Nodes)
	}
	for i := range g.ACME {
		fill(&g.ACME[i].Names)
	}
}

// fillCounts replaces nil lists by empty ones, like Gate.fill.
func fillCounts(c *proxy.Counts) {
	fill(&c.Handshakes)
	fill(&c.Vhosts)
	fill(&c.Dials)
}

func fill[T any](list *[]T) {
	if *list == nil {
		*list = []T{}
	}
}

// A Vhost is one configured name; "*" if every name is served.
type Vhost struct {
	Name     string `json:"name"`
	Upstream string `json:"upstream"`
	Node     string `json:"node"` // the pinned node, or ""
	Tunnels  int64  `json:"tunnels"`
	Opened   int64  `json:"opened"` // tunnels since the start
	Gone     bool   `json:"gone"`   // no longer configured; its tunnels continue

	// Certificate is the one that clients of this name get, or the first of several to
	// expire. Nil: none, and clients are refused; for "*" see Gate.Certificates.
	Certificate *Certificate `json:"certificate"`
}

// end returns when its clients can no longer connect.
func (v Vhost) end() time.Time {
	if v.Certificate == nil {
		return time.Time{}
	}
	return v.Certificate.NotAfter
}

// lacksCertificate reports whether the vhost's clients are refused.
func (v Vhost) lacksCertificate() bool { return v.Certificate == nil && v.Name != "*" && !v.Gone }

// A Certificate is the certificate of one name.
type Certificate struct {
	Name      string    `json:"name"`
	Source    string    `json:"source"` // "directory" or "acme"
	File      string    `json:"file"`
	Issuer    string    `json:"issuer"`
	KeyType   string    `json:"key_type"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// A FileProblem is a certificate's file or an access list that can't be used as it is.
type FileProblem struct {
	File  string    `json:"file"`
	Err   string    `json:"error"`
	Hint  string    `json:"hint,omitempty"` // what to do
	Since time.Time `json:"since"`
	Kept  bool      `json:"kept"` // the previous contents are still served
}

// Watch is how changed certificates are noticed: at once, unless there is an error, or by
// polling.
type Watch struct {
	Err   string    `json:"error,omitempty"`
	Hint  string    `json:"hint,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Ignored are the files and folders in the directory of certificates that are not used,
// although nothing is wrong with them.
type Ignored struct {
	Count int           `json:"count"`
	First []IgnoredFile `json:"first"`
}

// An IgnoredFile is one of Ignored.
type IgnoredFile struct {
	File string `json:"file"`
	Why  string `json:"why"`
}

// Rejected counts the certificates that some clients reject for one reason.
type Rejected struct {
	Rule  string `json:"rule"`
	Count int    `json:"count"`
	First string `json:"first"` // names one of them, and the reason
	Hint  string `json:"hint"`
}

// A Hang is a file or folder whose file system does not answer. The gate does not wait
// for it, and reads it again when it answers.
type Hang struct {
	What  string    `json:"what"` // its purpose
	Path  string    `json:"path"`
	Since time.Time `json:"since"`
	Slow  bool      `json:"slow,omitempty"` // it answers, but is partly unread
}

func (h Hang) does() string {
	if h.Slow {
		return "has been slow and is partly unread"
	}
	return "has not answered"
}

// A MissingListener is configured, but could not be opened yet, because DNS or a file
// system does not answer. The gate tries again.
type MissingListener struct {
	Name  string    `json:"name"` // "wss", "http" or "admin"
	Addr  string    `json:"addr"` // as configured
	Err   string    `json:"error"`
	Since time.Time `json:"since"`
}

// Log is the state of the log's output.
type Log struct {
	Lost    int64     `json:"lost"`             // lines dropped since the start
	Since   time.Time `json:"since,omitzero"`   // start of the current write; zero: none
	Err     string    `json:"error,omitempty"`  // error of the last write; empty: it succeeded
	Failing time.Time `json:"failing,omitzero"` // start of the current series of failed writes
}

// logHangs is how long a write of the log may take before the reader counts as
// stopped.
const logHangs = 10 * time.Second

// hangs reports whether the log's reader has stopped.
func (l Log) hangs(now time.Time) bool { return !l.Since.IsZero() && now.Sub(l.Since) >= logHangs }

// An ACMEName is a certificate that is obtained from a CA, called by its first name.
type ACMEName struct {
	Name     string    `json:"name"`  // the first of Names
	Names    []string  `json:"names"` // of the certificate
	State    string    `json:"state"` // one of ACMEStates
	NotAfter time.Time `json:"not_after"`
	CA       string    `json:"ca"`      // directory URL of the CA that it is from; empty: not known
	Revoked  bool      `json:"revoked"` // an operator had it revoked at this gate, and there is no other yet
	NextTry  time.Time `json:"next_try"`
	Failures int       `json:"failures"` // since the last success
	Since    time.Time `json:"since"`    // when the first failure was; zero: unknown
	Err      string    `json:"error"`    // the last error, in the CA's words

	Renewal ACMERenewal `json:"renewal"`
}

// An ACMERenewal is the CA's information about the renewal of a certificate (RFC 9773).
type ACMERenewal struct {
	Start       time.Time `json:"start,omitzero"` // start of the window for renewal; zero: unknown
	End         time.Time `json:"end,omitzero"`
	Explanation string    `json:"explanation,omitempty"` // http or https URL of an explanation
	Err         string    `json:"error,omitempty"`       // why the last request for it failed
}

// ECH is the state of Encrypted Client Hello (RFC 9849).
type ECH struct {
	PublicName  string    `json:"public_name"`
	Certificate bool      `json:"certificate"`    // the public name has one
	Folder      string    `json:"folder"`         // of the keys
	Keys        int       `json:"keys"`           // that clients may use
	Current     string    `json:"current"`        // the file of the one to publish; empty: none
	Made        time.Time `json:"made,omitzero"`  // when that was made
	Err         string    `json:"error"`          // what is wrong with the folder
	Since       time.Time `json:"since,omitzero"` // of Err
}

// ACMEStates are the possible states of a name.
var ACMEStates = []string{"waiting", "ordering", "elsewhere", "valid", "expired"}

// An Upstream is a group of nodes.
type Upstream struct {
	Name    string `json:"name"`
	Balance string `json:"balance"`
	Nodes   []Node `json:"nodes"`

	// Lost is the last redirect of the XMPP server to an unknown node; zero: there was
	// none, or the configuration has the node now.
	Lost LostRedirect `json:"lost_redirect"`
}

// A LostRedirect is a redirect that ended its client's stream.
type LostRedirect struct {
	Address string    `json:"address"` // as in the redirect
	Why     string    `json:"why"`     // continues a sentence after "to ADDRESS, "
	Do      string    `json:"do"`      // what to configure or check
	Count   int       `json:"count"`   // of all lost redirects since the start
	Last    time.Time `json:"last"`
}

// A Node is one XMPP server.
type Node struct {
	Name      string        `json:"name"`
	URL       string        `json:"url"`
	State     string        `json:"state"` // one of NodeStates
	Tunnels   int           `json:"tunnels"`
	Dialing   int           `json:"dialing"`
	Dials     uint64        `json:"dials"`    // since the start
	Failures  uint64        `json:"failures"` // of dials and probes
	LastDial  time.Duration `json:"last_dial_ns"`
	LastError string        `json:"last_error"` // of a dial or probe; may be old
	LastHint  string        `json:"last_hint"`  // what to check, or ""
	LastFail  time.Time     `json:"last_fail"`

	// Ports is the largest share of source ports in use for one of its addresses.
	// PortsUsedUp is when a dial last found none free.
	Ports       float64   `json:"source_ports_used"`
	PortsUsedUp time.Time `json:"source_ports_used_up,omitzero"`
}

// NodeStates are the possible states of a node, the good ones first.
var NodeStates = []string{"up", "warming", "draining", "out", "no address"}

// Works reports whether the node accepts streams, or would.
func (n Node) Works() bool { return n.State == "up" || n.State == "warming" }

// Logins describe failed logins.
type Logins struct {
	Limit   string    `json:"limit"`   // as configured; "": none
	Clients []Suspect `json:"clients"` // addresses with failures that have not expired, worst first
}

// A Suspect is a client address with failed logins.
type Suspect struct {
	Network  string    `json:"network"`  // an IPv4 address, or the /64 of an IPv6 one
	Failures int       `json:"failures"` // that have not expired
	Total    int       `json:"total"`    // since the first of these
	Last     time.Time `json:"last"`
	Refused  bool      `json:"refused"` // until Until
	Until    time.Time `json:"until"`   // when all failures have expired
}

// Reload describes the reloads since the start.
type Reload struct {
	At       time.Time `json:"at"` // of the last one; zero: none yet
	OK       bool      `json:"ok"` // also true without a reload
	Errors   []string  `json:"errors"`
	LastGood time.Time `json:"last_good"` // initially the start
	Good     int64     `json:"good"`
	Bad      int64     `json:"bad"`
}

// A Drain is a drain in progress.
type Drain struct {
	Scope    string    `json:"scope"` // as DrainRequest.Scope
	Query    string    `json:"query"` // query of POST /drain
	Since    time.Time `json:"since"`
	Begins   time.Time `json:"begins,omitzero"` // the gate is not ready, and accepts clients until then
	Deadline time.Time `json:"deadline"`        // when open connections are closed; zero: never
	Total    int       `json:"total"`           // connections when it began
	Left     int       `json:"left"`
}
