// Package xmpp implements the small part of XMPP that the gate reads and writes.
//
// XMPP uses WebSocket in two framings. In that of RFC 7395, every message is a document
// of its own, and a stream begins with <open/> and ends with <close/>. In that of the
// older draft (draft-ietf-xmpp-websocket-00), the messages are slices of one
// <stream:stream> document. Browser libraries use the former; Tigase's Halcyon and old
// versions of Strophe use the latter.
//
// The parts, in the order in which a tunnel needs them:
//
//   - [OpenReader] reads the client's first start tag and returns the stream
//     error for a bad one; [NormalDomain] checks its `to`.
//   - [LaterOpens] finds the client's further start tags anywhere in its messages.
//   - [AnswerReader] reads the upstream's first messages until it is clear
//     whether the stream continues, was refused, or is redirected to another node.
//   - [FirstWord] reports from the first bytes of any later message whether it
//     opens or closes a stream or makes it resumable. It allocates nothing.
//   - [Stream] writes the gate's own messages: an opening, a stream
//     error, a redirect, a close.
//   - [Discovery] writes the documents of XEP-0156.
//
// The package handles payloads: whole or partial contents of WebSocket data messages,
// unmasked. It does no I/O, starts no goroutines, uses no clock, and does not validate
// stanzas. A type is for one goroutine at a time unless its comment says otherwise;
// functions and values may be shared.
package xmpp

// Framing is how a stream is divided into WebSocket messages. The zero value is
// [RFC7395], the default while the framing is unknown.
type Framing uint8

const (
	RFC7395    Framing = iota // <open/> … <close/>; each message is a document
	OlderDraft                // <stream:stream> … </stream:stream>; one document in slices
)

func (f Framing) String() string {
	if f == OlderDraft {
		return "older draft"
	}
	return "RFC 7395"
}

// Namespaces of the elements that this package reads or writes.
const (
	nsFraming = "urn:ietf:params:xml:ns:xmpp-framing" // RFC 7395
	nsStreams = "http://etherx.jabber.org/streams"    // RFC 6120, section 4.8.1
	nsErrors  = "urn:ietf:params:xml:ns:xmpp-streams" // RFC 6120, section 4.9.2
	nsClient  = "jabber:client"                       // RFC 6120, section 4.8.2
	nsSM      = "urn:xmpp:sm:"                        // XEP-0198, followed by a version
	nsSASL    = "urn:ietf:params:xml:ns:xmpp-sasl"    // RFC 6120, section 6
	nsIQAuth  = "jabber:iq:auth"                      // XEP-0078
	nsSASL2   = "urn:xmpp:sasl:2"                     // XEP-0388
	nsBOSH    = "http://jabber.org/protocol/httpbind" // XEP-0124
	nsXML     = "http://www.w3.org/XML/1998/namespace"
	nsXMLNS   = "http://www.w3.org/2000/xmlns/"
)

// Condition is the element name of a stream error (RFC 6120, section 4.9.3).
type Condition string

// The conditions that the gate sends. An upstream may send others.
const (
	BadFormat              Condition = "bad-format"
	ConnectionTimeout      Condition = "connection-timeout"
	HostUnknown            Condition = "host-unknown"
	ImproperAddressing     Condition = "improper-addressing"
	InternalServerError    Condition = "internal-server-error"
	InvalidNamespace       Condition = "invalid-namespace"
	NotAuthorized          Condition = "not-authorized" // the gate only reads it
	NotWellFormed          Condition = "not-well-formed"
	PolicyViolation        Condition = "policy-violation"
	RemoteConnectionFailed Condition = "remote-connection-failed"
	ResourceConstraint     Condition = "resource-constraint"
	RestrictedXML          Condition = "restricted-xml"
	SeeOtherHost           Condition = "see-other-host"
	SystemShutdown         Condition = "system-shutdown"
	UndefinedCondition     Condition = "undefined-condition"
	UnsupportedEncoding    Condition = "unsupported-encoding"
)

// NotTakenHere is the text of the gate's own [HostUnknown], to distinguish it from that
// of an XMPP server.
const NotTakenHere = "this gate does not accept streams to that domain here"

// NotReachableHere is the text of the gate's [RemoteConnectionFailed] after the XMPP
// server redirected a stream to a node that the gate could not reach.
const NotReachableHere = "the XMPP server of this account is not reachable here"

// isName reports whether c has the form of a condition's name, so that it may be
// written as one. The names in RFC 6120 have only lower-case letters and hyphens.
func (c Condition) isName() bool {
	for i := range len(c) {
		if (c[i] < 'a' || c[i] > 'z') && (c[i] != '-' || i == 0) {
			return false
		}
	}
	return c != ""
}

// StreamError is the reason why a stream can't continue, for the peer. It contains
// nothing that only the operator should know, and nothing that the peer itself sent.
type StreamError struct {
	Condition Condition
	Text      string // English
}

func (e *StreamError) Error() string {
	return "stream error " + string(e.Condition) + ": " + e.Text
}
