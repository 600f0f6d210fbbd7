package proxy

import (
	"encoding/binary"

	"wssgate/xmpp"
)

// Status codes of Close frames (RFC 6455, section 7.4.1, and IANA's registry).
const (
	codeNormal   = 1000
	codeAway     = 1001
	codeProtocol = 1002
	codeNone     = 1005 // no status code; never on the wire
	codeAbnormal = 1006 // no Close frame; never on the wire
	codePolicy   = 1008
	codeNotUTF8  = 1007
	codeTooBig   = 1009
	codeRestart  = 1012 // service restart: reconnect
	codeGateway  = 1014 // bad gateway
)

// A reason says why a tunnel ended. The table below maps it to the client's Close
// frame, the log and the metrics.
type reason uint8

const (
	reasonNone           reason = iota // still open
	reasonClientClose                  // the client began the closing handshake
	reasonUpstreamClose                // the upstream began it
	reasonClientGone                   // the client disconnected without a closing handshake
	reasonUpstreamGone                 // the upstream did
	reasonClientProtocol               // the client broke RFC 6455
	reasonNotUTF8                      // the client's text was not UTF-8
	reasonFlood                        // the client sent more frames than limits.frames_per_second
	reasonTooBig                       // the client's message was over limits.message
	reasonBadGateway                   // the upstream broke RFC 6455
	reasonSlowClient                   // the client read too slowly for limits.client_backlog
	reasonUpstreamStuck                // the upstream took nothing for stallTimeout
	reasonPong                         // the client did not answer our Ping
	reasonDrain                        // drain or shutdown
	reasonBadStream                    // the client's first words do not start a stream
	reasonNoStream                     // it sent none within greetingTimeout
	reasonHostUnknown                  // its `to` is not among the vhost's domains
	reasonRedirect                     // it was redirected
	reasonRedirectLost                 // its XMPP server redirected it to a node that can't be reached
	reasonDialFailed                   // no upstream accepted its stream
	reasonPanic                        // a bug in the gate
	reasonLoginFailures                // too many logins failed from the client's address
	reasonOperator                     // the operator closed it
	reasonCount
)

// reasons is the table: the status code for the client (0: none from us), the word in
// logs and metrics, the text in the Close frame, and the stream error before it if
// there is an XMPP stream.
var reasons = [reasonCount]struct {
	code   uint16
	word   string
	text   string
	stream xmpp.Condition
}{
	reasonNone:           {0, "open", "", ""},
	reasonClientClose:    {0, "client_close", "", ""},
	reasonUpstreamClose:  {0, "upstream_close", "", ""},
	reasonClientGone:     {0, "client_gone", "", ""},
	reasonUpstreamGone:   {codeRestart, "upstream_gone", "the XMPP server closed the connection", xmpp.RemoteConnectionFailed},
	reasonClientProtocol: {codeProtocol, "client_protocol", "protocol error", ""},
	reasonNotUTF8:        {codeNotUTF8, "client_not_utf8", "text is not UTF-8", ""},
	reasonFlood:          {codePolicy, "flood", "too many frames", xmpp.PolicyViolation},
	reasonTooBig:         {codeTooBig, "message_too_big", "message too big", xmpp.PolicyViolation},
	reasonBadGateway:     {codeGateway, "upstream_protocol", "the XMPP server broke the WebSocket protocol", xmpp.RemoteConnectionFailed},
	reasonSlowClient:     {codePolicy, "slow_client", "too slow", xmpp.PolicyViolation},
	reasonUpstreamStuck:  {codeGateway, "upstream_stuck", "the XMPP server does not read", xmpp.RemoteConnectionFailed},
	reasonPong:           {codeAway, "pong_timeout", "no answer to a Ping", xmpp.ConnectionTimeout},
	reasonDrain:          {codeAway, "drain", "going away", xmpp.SystemShutdown},
	reasonBadStream:      {codeNormal, "bad_stream", "", ""},
	reasonNoStream:       {codeNormal, "no_stream", "", ""},
	reasonHostUnknown:    {codeNormal, "host_unknown", xmpp.NotTakenHere, ""},
	reasonRedirect:       {codeNormal, "redirect", "", ""},
	reasonPanic:          {0, "panic", "", ""},
	reasonRedirectLost:   {codeGateway, "redirect_lost", xmpp.NotReachableHere, ""},
	reasonDialFailed:     {codeGateway, "dial_failed", "the XMPP server is not reachable", ""},
	reasonLoginFailures:  {codePolicy, "login_failures", "too many failed logins", xmpp.PolicyViolation},
	// 1001 would mean that the gate is going away, and send the client to another one.
	// Only this tunnel must end.
	reasonOperator: {codePolicy, "operator", "closed by the operator", xmpp.PolicyViolation},
}

func (r reason) String() string { return reasons[r].word }

// closePayload is the payload of a Close frame; code 0 or 1005 gives an empty one.
func closePayload(code uint16, text string) []byte {
	if code == 0 || code == codeNone {
		return nil
	}
	return append(binary.BigEndian.AppendUint16(nil, code), text...)
}
