package proxy

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// The PROXY protocol (HAProxy's doc/proxy-protocol.txt, sections 2.1 and 2.2): a header
// before all other bytes, in which a load balancer in front of the gate names the client.
// It is read to the exact byte, because the event loop gets the bare socket later: a
// buffer could take bytes of the ClientHello. Libraries read with a buffer.

const (
	maxProxyV1 = 107     // bytes of a v1 line, CRLF included
	minProxy   = 15      // bytes; no valid header is shorter
	maxProxyV2 = 4 << 10 // bytes of addresses and TLVs in a v2 header
)

var proxyV2Signature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// A proxyHeaderError is a missing or invalid PROXY header.
type proxyHeaderError string

func (e proxyHeaderError) Error() string { return "PROXY header: " + string(e) }

// readProxyHeader reads a PROXY header of either version from r, and nothing after it.
// Both addresses are zero if the header has none (UNKNOWN, LOCAL, or unix sockets): the
// connection is then the balancer's own.
func readProxyHeader(r io.Reader) (client, local netip.AddrPort, err error) {
	head := make([]byte, minProxy, maxProxyV1)
	if _, err := io.ReadFull(r, head); err != nil {
		return client, local, fmt.Errorf("PROXY header: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte("PROXY ")):
		for head[len(head)-1] != '\n' {
			if len(head) == maxProxyV1 {
				return client, local, proxyHeaderError("line over 107 bytes")
			}
			head = head[:len(head)+1]
			if _, err := io.ReadFull(r, head[len(head)-1:]); err != nil {
				return client, local, fmt.Errorf("PROXY header: %w", err)
			}
		}
		return parseProxyV1(string(head))
	case bytes.HasPrefix(head, proxyV2Signature):
		return readProxyV2(r, head)
	}
	return client, local, proxyHeaderError("missing")
}

func parseProxyV1(line string) (client, local netip.AddrPort, err error) {
	bad := proxyHeaderError(fmt.Sprintf("%q is not a version 1 line", line))
	line, ok := strings.CutSuffix(line, "\r\n")
	words := strings.Split(line, " ")
	switch {
	case !ok || len(words) < 2:
		return client, local, bad
	case words[1] == "UNKNOWN":
		return client, local, nil
	case len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6":
		return client, local, bad
	}
	var ends [2]netip.AddrPort
	for i := range ends {
		ip, err := netip.ParseAddr(words[2+i])
		port, err2 := strconv.ParseUint(words[4+i], 10, 16)
		if err != nil || err2 != nil || ip.Zone() != "" || ip.Is4() != (words[1] == "TCP4") {
			return client, local, bad
		}
		ends[i] = netip.AddrPortFrom(ip.Unmap(), uint16(port))
	}
	return ends[0], ends[1], nil
}

// readProxyV2 reads the rest of a header that begins with head.
func readProxyV2(r io.Reader, head []byte) (client, local netip.AddrPort, err error) {
	head = head[:16]
	if _, err := io.ReadFull(r, head[minProxy:]); err != nil {
		return client, local, fmt.Errorf("PROXY header: %w", err)
	}
	command, family, length := head[12], head[13], int(binary.BigEndian.Uint16(head[14:]))
	if command>>4 != 2 || command&0xf > 1 {
		return client, local, proxyHeaderError(fmt.Sprintf("unknown version and command %#x", command))
	}
	if length > maxProxyV2 {
		return client, local, proxyHeaderError(fmt.Sprintf("%d bytes of addresses, want at most %d", length, maxProxyV2))
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return client, local, fmt.Errorf("PROXY header: %w", err)
	}
	size := map[byte]int{0x11: 4, 0x21: 16}[family] // TCP over IPv4 and IPv6
	if command&0xf == 0 || size == 0 {
		return client, local, nil // LOCAL, or another kind of address
	}
	if length < 2*size+4 {
		return client, local, proxyHeaderError("truncated")
	}
	from, _ := netip.AddrFromSlice(body[:size])
	to, _ := netip.AddrFromSlice(body[size : 2*size])
	ports := body[2*size:]
	return netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(ports)),
		netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(ports[2:])), nil
}

// proxied reads the PROXY header if the peer must send one, and takes the client's
// addresses from it. Any other peer is the client itself. A header from such a peer is
// not TLS and ends the connection.
func (c *clientConn) proxied() error {
	if !c.config.sendsProxyHeader(c.client.Addr()) {
		return nil
	}
	client, local, err := readProxyHeader(headerReader{&c.early})
	switch {
	case err != nil:
		return err
	case !client.IsValid(): // the balancer's own connection
		c.unnamed = true
	default:
		c.client, c.local = client, local
	}
	if c.key, err = c.in.admission.rekey(&c.visit, c.config, c.client.Addr(), c.key); err != nil {
		return err
	}
	c.early.heard = false // the header came from the balancer
	return nil
}

const textProxyUnexpected = "PROXY header from a network that listen.proxy_protocol does not contain"

// beginsProxyHeader reports whether a failed handshake began with a PROXY header.
func beginsProxyHeader(handshake error) bool {
	record, ok := errors.AsType[tls.RecordHeaderError](handshake)
	return ok && (string(record.RecordHeader[:]) == "PROXY" || bytes.HasPrefix(proxyV2Signature, record.RecordHeader[:]))
}
