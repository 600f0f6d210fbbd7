// Package xmpp knows the few words of XMPP that the gate must read and write.
//
// XMPP travels over WebSocket in two framings: that of RFC 7395, in which every
// message is a document of its own and a stream begins with <open/> and ends
// with <close/>, and that of the older draft (draft-ietf-xmpp-websocket-00), in
// which the messages are slices of one <stream:stream> document. Browsers'
// libraries speak the former; Tigase's Halcyon and old Strophes the latter.
//
// What is here, in the order in which a tunnel needs it:
//
//   - [OpenReader] reads the client's first start tag and says which stream
//     error answers a bad one; [NormalDomain] judges its `to`.
//   - [LaterOpens] finds the client's further start tags, wherever they are.
//   - [AnswerReader] reads the upstream's first messages until it is clear
//     whether the stream goes on, was refused, or is redirected to another node.
//   - [FirstWord] tells from the first bytes of any later message whether it
//     opens or closes a stream or makes it resumable. It allocates nothing.
//   - [Stream] writes what the gate itself has to say: an opening, a stream
//     error, a redirect, a close.
//   - [Discovery] writes the documents of XEP-0156.
//
// The package sees payloads: whole or partial contents of WebSocket data
// messages, unmasked. It does no I/O, starts no goroutine, keeps no clock, and
// validates no stanza. A type is for one goroutine at a time unless its comment
// says otherwise; functions and values may be shared.
package xmpp

// Framing is the way in which a stream is cut into WebSocket messages. The zero
// value is [RFC7395]: what to speak where nothing is known yet.
type Framing uint8

const (
	RFC7395    Framing = iota // <open/> … <close/>; every message a document
	OlderDraft                // <stream:stream> … </stream:stream>; one document in slices
)

func (f Framing) String() string {
	if f == OlderDraft {
		return "older draft"
	}
	return "RFC 7395"
}

// The namespaces of the elements that are read or written here.
const (
	nsFraming = "urn:ietf:params:xml:ns:xmpp-framing" // RFC 7395
	nsStreams = "http://etherx.jabber.org/streams"    // RFC 6120, section 4.8.1
	nsErrors  = "urn:ietf:params:xml:ns:xmpp-streams" // RFC 6120, section 4.9.2
	nsClient  = "jabber:client"                       // RFC 6120, section 4.8.2
	nsSM      = "urn:xmpp:sm:"                        // XEP-0198, a version behind it
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

// NotTakenHere is the text of the gate's own [HostUnknown], which tells it from an
// XMPP server's.
const NotTakenHere = "this gate takes no streams to that domain here"

// NotReachableHere is the text of the gate's [RemoteConnectionFailed] where the XMPP
// server sent a stream to a node to which it could not go.
const NotReachableHere = "the XMPP server of this account is not reachable here"

// isName reports whether c looks like a condition's name, and so may be written
// as one. Each name of RFC 6120 is lower-case letters and hyphens.
func (c Condition) isName() bool {
	for i := range len(c) {
		if (c[i] < 'a' || c[i] > 'z') && (c[i] != '-' || i == 0) {
			return false
		}
	}
	return c != ""
}

// StreamError says why a stream can't go on, in words for the peer: nothing that
// only the operator should know, and nothing that the peer itself sent.
type StreamError struct {
	Condition Condition
	Text      string // English
}

func (e *StreamError) Error() string {
	return "stream error " + string(e.Condition) + ": " + e.Text
}
