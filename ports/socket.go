package ports

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// Here reports whether a connection may come from source. It uses a UDP socket, which
// sends nothing; if it can't open one, it returns true.
func Here(source netip.Addr) bool {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0)))
	return !lacksAddress(conn, err)
}

// hasSource reports whether this machine has an address from which it can reach a
// server. TCP's connect reports a missing address and a missing port by the same errno.
func hasSource(to netip.AddrPort) bool {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	return !lacksAddress(conn, err)
}

func lacksAddress(conn *net.UDPConn, err error) bool {
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.EADDRNOTAVAIL)
}
