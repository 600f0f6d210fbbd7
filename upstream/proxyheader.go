package upstream

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Versions of the PROXY protocol that a group may send.
const (
	proxyV1 = "v1"
	proxyV2 = "v2"
)

// proxyV2Signature begins every header of version 2.
const proxyV2Signature = "\r\n\r\n\x00\r\nQUIT\n"

// appendProxyHeader appends the PROXY header for a connection from src to dst
// (https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt). If the families
// differ, the IPv4 address is mapped. If one is unknown, as with unix sockets at both
// ends, the header says UNKNOWN or LOCAL.
func appendProxyHeader(b []byte, version string, src, dst netip.AddrPort) []byte {
	s, d := src.Addr().Unmap().WithZone(""), dst.Addr().Unmap().WithZone("")
	known := s.IsValid() && d.IsValid()
	if known && s.Is4() != d.Is4() {
		s, d = netip.AddrFrom16(s.As16()), netip.AddrFrom16(d.As16())
	}
	switch version {
	case proxyV1:
		if !known {
			return append(b, "PROXY UNKNOWN\r\n"...)
		}
		family := "TCP6"
		if s.Is4() {
			family = "TCP4"
		}
		return fmt.Appendf(b, "PROXY %s %s %s %d %d\r\n", family, s, d, src.Port(), dst.Port())
	case proxyV2:
		const (
			local = 0x20 // version 2
			proxy = 0x21
			tcp4  = 0x11
			tcp6  = 0x21
		)
		b = append(b, proxyV2Signature...)
		switch {
		case !known:
			return append(b, local, 0, 0, 0)
		case s.Is4():
			b = append(b, proxy, tcp4, 0, 4+4+2+2)
		default:
			b = append(b, proxy, tcp6, 0, 16+16+2+2)
		}
		b = append(b, s.AsSlice()...)
		b = append(b, d.AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, src.Port())
		return binary.BigEndian.AppendUint16(b, dst.Port())
	}
	return b
}
