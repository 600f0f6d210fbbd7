// Package listen opens the addresses of [listen]: TCP and unix sockets, sockets that
// systemd has opened for this process (sd_listen_fds(3)), and sockets that another
// wssgate still has open. It also parses these addresses.
package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"wssgate/files"
	"wssgate/panics"
	"wssgate/ports"
)

// An Address is an address of the configuration, with its key.
type Address struct{ Key, Addr string }

// Sockets opens the addresses in [listen]: it uses the sockets that systemd has opened,
// and opens the others itself. Its methods belong to one goroutine, the gate's. The
// zero value has no sockets from systemd.
//
// On Linux, TCP sockets get SO_REUSEPORT, so that another process of the same user can
// open the same address before this one closes it. A second process that was started by
// mistake would silently take a share of the clients. So an address in use is refused,
// unless Beside is set.
type Sockets struct {
	Beside    bool // another process, which is about to end, may listen on the same addresses
	Inherited []*Inherited
	hosts     Hosts             // resolved so far
	Ready     map[Address]Ready // opened or tried in advance; Open removes them
	leaving   []string          // ports of TCP listeners of this process that Open is about to replace
}

// Open opens one address of the configuration. key is its key there: "wss", "http" or
// "admin". The caller closes the listener.
func (s *Sockets) Open(key, addr string) (net.Listener, error) {
	if i := s.Find(key, addr); i != nil {
		return net.FileListener(i.file)
	}
	network, address, err := ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		if r, ok := s.Ready[Address{key, addr}]; ok {
			delete(s.Ready, Address{key, addr})
			if r.Err != nil {
				return nil, r.Err
			}
			return r.Listener, nil
		}
		ln, err := s.listenUnix(key, address)
		if err != nil {
			return nil, err // of the interface's type
		}
		return ln, nil
	}
	return s.listenTCP(address)
}

// Replace records which listeners are about to be closed, so that Open may use their
// ports as well. It omits the port of a listener that stays, because the two would
// share its clients.
func (s *Sockets) Replace(leaving []net.Listener) {
	s.leaving = nil
	for _, ln := range leaving {
		if _, port, err := net.SplitHostPort(ln.Addr().String()); err == nil {
			s.leaving = append(s.leaving, port)
		}
	}
}

func (s *Sockets) listenTCP(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host, err = s.hosts.address(host); err != nil {
		return nil, err
	}
	// It does not block, because the address is an IP address.
	ln, err := listenConfig(s.Beside || slices.Contains(s.leaving, port)).Listen(context.Background(), "tcp", net.JoinHostPort(host, port))
	switch {
	case ports.IsErrno(err, syscall.EADDRINUSE):
		return nil, &inUse{err}
	case ports.IsErrno(err, syscall.EACCES):
		return nil, &lowPort{err}
	}
	return ln, err
}

// listenerPatience is how long resolving the host names of listeners may take. Opening
// a listener waits for nothing else.
const listenerPatience = 2 * time.Second

// Hosts are the addresses of listeners' host names. They are resolved before the
// listeners are opened, all at once, and outside the gate's loop.
type Hosts map[string]hostAddress

type hostAddress struct {
	addr string
	err  error
}

// LookUpHosts resolves the host names in addresses, for at most listenerPatience.
func LookUpHosts(addresses map[string][]string) Hosts {
	ctx, cancel := context.WithTimeout(context.Background(), listenerPatience)
	defer cancel()
	found := Hosts{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, addr := range slices.Concat(slices.Collect(maps.Values(addresses))...) {
		network, address, err := ParseAddress(addr)
		if err != nil || network != "tcp" {
			continue
		}
		host, _, _ := net.SplitHostPort(address)
		if isAddress(host) || host == "localhost" {
			continue
		}
		asking.Go(func() {
			var a hostAddress
			if err := panics.Catch(panics.DNS, func() { a = lookUpHost(ctx, host) }); err != nil {
				a.err = err
			}
			mu.Lock()
			defer mu.Unlock()
			found[host] = a
		})
	}
	asking.Wait()
	return found
}

func lookUpHost(ctx context.Context, host string) hostAddress {
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return hostAddress{err: fmt.Errorf("host name %q: %w", host, err)}
	}
	i := max(0, slices.IndexFunc(found, func(a netip.Addr) bool { return a.Unmap().Is4() })) // preferred by package net
	return hostAddress{addr: found[i].Unmap().String()}
}

// isAddress reports whether a host needs no lookup.
func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil || host == ""
}

// address returns the address to listen on for a host.
func (h Hosts) address(host string) (string, error) {
	switch {
	case isAddress(host):
		return host, nil
	case host == "localhost": // plainHost; RFC 6761, section 6.3
		return "127.0.0.1", nil
	}
	a, ok := h[host]
	if !ok {
		return "", fmt.Errorf("host name %q: not looked up", host)
	}
	return a.addr, a.err
}

// Know adds results of a lookup. A name that is no longer found keeps its last
// address.
func (s *Sockets) Know(more Hosts) {
	known := maps.Clone(s.hosts)
	if known == nil {
		known = Hosts{}
	}
	for host, a := range more {
		if a.err == nil || known[host].addr == "" {
			known[host] = a
		}
	}
	s.hosts = known
}

// Errors returns the errors of names that were not found, in the order of the names.
// Each contains its name.
func (h Hosts) Errors() (errs []error) {
	for _, host := range slices.Sorted(maps.Keys(h)) {
		if err := h[host].err; err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// listenUnix calls the function of that name in a job of the Place of the socket's
// folder. If the job ends after its caller has left, it closes the socket.
func (s *Sockets) listenUnix(key, path string) (*UnixListener, error) {
	place := files.At("listeners", filepath.Dir(path), nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ln, err := files.Do(ctx, place, func() (*UnixListener, error) {
		ln, err := listenUnix(place, path, s.Beside)
		if err == nil && key == "admin" { // for the operator and the operator's group
			if err = place.Chmod(path, 0o660); err != nil {
				ln.Close()
				return nil, err
			}
		}
		if err == nil {
			ln.late = context.AfterFunc(ctx, func() { ln.Close() })
		}
		return ln, err
	})
	if err != nil {
		place.Leave()
		return nil, err
	}
	ln.late()
	return ln, nil
}

// A Ready is the result of OpenUnix for one address.
type Ready struct {
	Listener *UnixListener
	Err      error // the error, if there is no listener
}

// OpenUnix opens, all at once, the unix sockets of a configuration that are neither
// open nor systemd's. It may run in another goroutine than the gate's, which does not
// change s meanwhile.
func (s *Sockets) OpenUnix(configured map[string][]string, open map[Address]bool) map[Address]Ready {
	type result struct {
		Address
		Ready
	}
	results := make(chan result)
	asked := map[Address]bool{}
	for key, addrs := range configured {
		for _, addr := range addrs {
			at := Address{key, addr}
			network, path, err := ParseAddress(addr)
			if err != nil || network != "unix" || open[at] || asked[at] || s.Find(key, addr) != nil {
				continue
			}
			asked[at] = true
			go func() {
				ln, err := panics.Do(panics.Listener, func() (*UnixListener, error) { return s.listenUnix(key, path) })
				results <- result{at, Ready{ln, err}}
			}()
		}
	}
	opened := map[Address]Ready{}
	for range asked {
		r := <-results
		opened[r.Address] = r.Ready
	}
	return opened
}

// CloseReady closes the sockets that OpenUnix has opened and Open has not taken.
func CloseReady(opened map[Address]Ready) {
	for _, r := range opened {
		if r.Listener != nil {
			r.Listener.Close()
		}
	}
}

// IsPending reports whether an address could not be opened because DNS or a file
// system does not answer at the moment, so that the caller should try again. It is
// false for a name that does not exist in DNS.
func IsPending(err error) bool {
	if files.IsHang(err) {
		return true
	}
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && !dns.IsNotFound
}

// inUse is the error of an address that is in use.
type inUse struct{ error }

func (e *inUse) Unwrap() error { return e.error }

func (*inUse) HintText() string {
	hint := "stop the process that listens there"
	if CanShare {
		hint += "; to replace a running wssgate without refusing clients, start this one with -beside, then stop the old one"
	}
	return hint
}

// lowPort is the error of a port that requires root.
type lowPort struct{ error }

func (e *lowPort) Unwrap() error { return e.error }

func (*lowPort) HintText() string {
	return "ports below 1024 need CAP_NET_BIND_SERVICE: AmbientCapabilities= in the unit, setcap cap_net_bind_service=+ep on the program, or a port forward to a higher one"
}

// A UnixListener owns the name of its socket until another process takes it.
type UnixListener struct {
	*net.UnixListener
	path  string
	place *files.Place
	made  fs.FileInfo
	late  func() bool // see sockets.listenUnix
	close sync.Once
}

// listenUnix opens a socket. If another process answers on a socket of that name, it
// takes the name if beside is set: new clients then reach this process, and clients in
// the other process's queue stay there. It runs in a job of place.
func listenUnix(place *files.Place, path string, beside bool) (*UnixListener, error) {
	name := path
	if info, err := place.Stat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		var conn net.Conn
		err := place.Call(path, func() (err error) { conn, err = net.Dial("unix", path); return err })
		switch {
		case ports.IsErrno(err, syscall.ECONNREFUSED): // left by a process that was killed
			place.Remove(path)
		case beside: // another process listens, perhaps with a full queue
			name = path + ".new"
			place.Remove(name)
		}
		if err == nil {
			conn.Close()
		}
	}
	var ln *net.UnixListener
	err := place.Call(name, func() (err error) {
		ln, err = net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		return err
	})
	if ports.IsErrno(err, syscall.EADDRINUSE) {
		return nil, &inUse{err}
	}
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	u := &UnixListener{UnixListener: ln, path: path, place: place}
	if u.made, err = place.Stat(name); err == nil && name != path {
		err = place.Rename(name, path)
	}
	if err != nil {
		ln.Close()
		place.Remove(name)
		return nil, err
	}
	return u, nil
}

// Addr returns the name that clients use.
func (u *UnixListener) Addr() net.Addr { return &net.UnixAddr{Name: u.path, Net: "unix"} }

// IsOurs reports whether the name still leads to this socket. If that can't be
// determined before ctx ends, it returns true.
func (u *UnixListener) IsOurs(ctx context.Context) bool {
	ours, err := files.Do(ctx, u.place, func() (bool, error) { return u.hasName(), nil })
	return ours || err != nil
}

func (u *UnixListener) hasName() bool {
	info, err := u.place.Stat(u.path)
	return err == nil && os.SameFile(info, u.made)
}

// removals counts the names of sockets that are being removed.
var removals sync.WaitGroup

// RemovalPatience is how long the end of the program waits for removals. The next start
// removes a remaining name.
const RemovalPatience = 300 * time.Millisecond

// AwaitRemovals returns when all removals have ended, or after the shorter of
// RemovalPatience and most.
func AwaitRemovals(most time.Duration) {
	done := make(chan struct{})
	go func() {
		removals.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(min(RemovalPatience, most)):
	}
}

// Close does not wait for a file system: it removes the name in the background, if that
// still leads to this socket.
func (u *UnixListener) Close() error {
	u.close.Do(func() {
		removals.Go(func() {
			defer u.place.Leave()
			panics.Do(panics.Files, func() (struct{}, error) {
				return files.Await(context.Background(), u.place, func() (struct{}, error) {
					if u.hasName() {
						u.place.Remove(u.path)
					}
					return struct{}{}, nil
				})
			})
		})
	})
	return u.UnixListener.Close()
}
