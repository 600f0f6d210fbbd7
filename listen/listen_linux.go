package listen

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// CanShare reports whether another process can listen on the same addresses beside this
// one.
const CanShare = true

// listenConfig opens sockets that another process of the same user may open as well.
// With beside, another process may already be listening there.
//
// MPTCP, Go's default, is off: on such a socket the kernel supports neither filters nor
// queries of the queue, which a handover needs.
func listenConfig(beside bool) *net.ListenConfig {
	lc := &net.ListenConfig{KeepAlive: -1, Control: func(_, address string, c syscall.RawConn) error {
		return control(c, func(fd int) error {
			if !beside {
				if err := isFree(fd, address); err != nil {
					return err
				}
			}
			if err := keepAlive(fd); err != nil {
				return err
			}
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
	}}
	lc.SetMultipathTCP(false)
	return lc
}

// keepAlive sets Go's keep-alive values on a listener. Accepted sockets inherit them;
// Go would make four system calls for each one instead.
func keepAlive(fd int) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15), // seconds
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9),
	)
}

// isFree returns nil if no socket listens on the address that fd is to be bound to. It
// binds a socket without SO_REUSEPORT, and does not listen, so that no client reaches
// it.
func isFree(fd int, address string) error {
	if address[0] == ':' { // all addresses of the machine
		address = "[::]" + address
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	probe, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(probe)
	if err := unix.SetsockoptInt(probe, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if family == unix.AF_INET {
		sa := &unix.SockaddrInet4{Port: int(to.Port())}
		if ip := to.Addr().Unmap(); ip.Is4() {
			sa.Addr = ip.As4()
		}
		return unix.Bind(probe, sa)
	}
	v6only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(probe, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v6only); err != nil {
		return err
	}
	sa := &unix.SockaddrInet6{Port: int(to.Port())}
	if !to.Addr().IsUnspecified() { // 0.0.0.0 stands for :: there
		sa.Addr = to.Addr().As16()
	}
	if zone := to.Addr().Zone(); zone != "" {
		link, err := net.InterfaceByName(zone)
		if err != nil {
			return err
		}
		sa.ZoneId = uint32(link.Index)
	}
	return unix.Bind(probe, sa)
}

func control(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

// controlListener calls f with the descriptor of a TCP listener. It fails for other
// kinds, and for a closed one.
func controlListener(ln net.Listener, f func(fd int) error) error {
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return syscall.ENOTSUP
	}
	c, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	return control(c, f)
}

// LeaveToOthers makes the kernel drop the SYNs that reach a listener. Clients send them
// again a second later, and then reach another process. TCP handshakes in progress are
// completed.
//
// Connections accepted from now on inherit the filter, without effect: they receive no
// SYN.
func LeaveToOthers(ln net.Listener) error {
	drop := []unix.SockFilter{ // the packet begins with the TCP header
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},                   // its flags
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 0x02, Jt: 0, Jf: 1}, // SYN?
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},                                  // drop it
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},                         // keep all of it
	}
	return controlListener(ln, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(drop)), Filter: &drop[0]})
	})
}

// Waiting returns the number of connections that have not been accepted yet.
func Waiting(ln net.Listener) (n int) {
	controlListener(ln, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = int(info.Unacked) // the length of the queue, on a listener
		}
		return err
	})
	return n
}

// IsShared reports whether another process listens on the port of one of our listeners.
// It returns true if that is unknown.
func IsShared(ln net.Listener, ours []net.Listener) bool {
	tcp, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return false
	}
	port := tcp.AddrPort().Port()
	expected := 0
	for _, o := range ours {
		if tcp, ok := o.Addr().(*net.TCPAddr); ok && tcp.AddrPort().Port() == port {
			expected++
		}
	}
	listening := 0
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		n, err := listenersOn(file, port)
		if err != nil && !os.IsNotExist(err) { // there may be no IPv6
			return true
		}
		listening += n
	}
	return listening != expected
}

// listenersOn counts the listeners on a port in a file of /proc/net (proc_net_tcp(5)).
// The file has listeners first, then all connections, which may be many.
func listenersOn(file string, port uint16) (n int, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan() // the headings
	for lines.Scan() {
		// sl local_address rem_address st …; LISTEN is 0A
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[3] != "0A" {
			break
		}
		_, p, _ := strings.Cut(fields[1], ":")
		if got, err := strconv.ParseUint(p, 16, 16); err == nil && uint16(got) == port {
			n++
		}
	}
	return n, lines.Err()
}
