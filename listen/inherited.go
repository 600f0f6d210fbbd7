package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// firstInherited is the descriptor of the first socket.
const firstInherited = 3

// An Inherited socket belongs to systemd, which keeps it open independently of this
// process: clients wait in its queue for the next process. This process keeps it open,
// too, so that a reload may release it and use it again.
type Inherited struct {
	file *os.File
	name string // FileDescriptorName=, by default the name of the socket unit
	addr net.Addr
}

// Inherit returns the sockets that were passed to this process, and removes the
// environment variables that describe them. getenv and unsetenv are os's.
func Inherit(getenv func(string) string, unsetenv func(string) error) ([]*Inherited, error) {
	pid, count, names := getenv("LISTEN_PID"), getenv("LISTEN_FDS"), strings.Split(getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		unsetenv(name)
	}
	if count == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil // none, or for another process
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 1000 {
		return nil, fmt.Errorf("systemd: LISTEN_FDS is %q, want a number", count)
	}
	var all []*Inherited
	for i := range n {
		fd := firstInherited + i
		file, err := inheritedFile(fd)
		if err != nil {
			return nil, fmt.Errorf("systemd: socket %d: %w", fd, err)
		}
		s := &Inherited{file: file}
		if i < len(names) {
			s.name = names[i]
		}
		ln, err := net.FileListener(s.file)
		if err != nil {
			return nil, fmt.Errorf("systemd: socket %d, %q: not a listening socket: %w", fd, s.name, err)
		}
		s.addr = ln.Addr()
		ln.Close() // a duplicate
		all = append(all, s)
	}
	return all, nil
}

// Find returns the inherited socket that is bound to an address of the configuration,
// or nil. A socket called "wss", "http" or "admin" is for that key of [listen] only.
func (s *Sockets) Find(key, addr string) *Inherited {
	for _, i := range s.Inherited {
		other := slices.Contains([]string{"wss", "http", "admin"}, i.name) && i.name != key
		if !other && i.isBoundTo(addr, s.hosts) {
			return i
		}
	}
	return nil
}

// Unused returns an error for inherited sockets that a configuration does not use:
// their clients would wait forever.
func (s *Sockets) Unused(configured map[string][]string) error {
	used := map[*Inherited]bool{}
	for key, addrs := range configured {
		for _, addr := range addrs {
			used[s.Find(key, addr)] = true
		}
	}
	var errs []error
	for _, i := range s.Inherited {
		if !used[i] {
			errs = append(errs, fmt.Errorf("systemd: socket %q, %q: matches no address of [listen]", i.name, i.addr))
		}
	}
	return errors.Join(errs...)
}

func (i *Inherited) isBoundTo(addr string, known Hosts) bool {
	network, address, err := ParseAddress(addr)
	if err != nil {
		return false
	}
	switch bound := i.addr.(type) {
	case *net.UnixAddr:
		return network == "unix" && bound.Name == address
	case *net.TCPAddr:
		if network != "tcp" {
			return false
		}
		wanted, err := resolveTCP(address, known)
		switch {
		case err != nil || wanted.Port != bound.Port:
			return false
		case wanted.IP == nil: // all addresses of the machine
			return bound.IP.IsUnspecified()
		}
		return wanted.IP.Equal(bound.IP)
	}
	return false
}

// resolveTCP is net.ResolveTCPAddr with known hosts.
func resolveTCP(address string, known Hosts) (*net.TCPAddr, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host, err = known.address(host); err != nil {
		return nil, err
	}
	return net.ResolveTCPAddr("tcp", net.JoinHostPort(host, port))
}
