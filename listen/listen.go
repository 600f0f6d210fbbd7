// Package listen opens the addresses of [listen]: TCP and unix sockets, those that
// systemd has opened for this process (sd_listen_fds(3)), and those that another
// wssgate still has. It also says what an address of the configuration means.
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
)

// An Address is an address of the configuration, with the key that has it.
type Address struct{ Key, Addr string }

// Sockets opens what [listen] names: it takes the sockets that systemd has
// opened already, and opens the others itself. Its methods belong to one
// goroutine, the gate's. The zero value has nothing from systemd.
//
// On Linux TCP sockets get SO_REUSEPORT, so that another process of the same
// user can open the same address and this one can then leave. A
// second process that was started by mistake would silently get a part of the
// clients; so an address where somebody listens is refused as ever, unless
// Beside is set.
type Sockets struct {
	Beside    bool // another process may listen there: it is about to leave
	Inherited []*Inherited
	hosts     Hosts             // that are known
	Ready     map[Address]Ready // opened already, or tried; Open takes them out
	leaving   []string          // ports of TCP listeners of this process that those opened next replace
}

// Open opens one address of the configuration. Key is where it stands there:
// "wss", "http" or "admin".
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

// Replace notes which listeners are about to be closed: their ports may be opened
// beside them. Those of one that stays may not, or its clients would be shared
// out between the two.
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
	// Of an address, which waits for nothing.
	ln, err := listenConfig(s.Beside || slices.Contains(s.leaving, port)).Listen(context.Background(), "tcp", net.JoinHostPort(host, port))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, &inUse{err}
	case errors.Is(err, syscall.EACCES):
		return nil, &lowPort{err}
	}
	return ln, err
}

// listenerPatience is how long the host names of listeners may take to be resolved.
// To open a listener waits for nothing else.
const listenerPatience = 2 * time.Second

// Hosts are the addresses of listeners' host names. They are looked up before the
// listeners are opened, all at once, and not by the loop.
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
	i := max(0, slices.IndexFunc(found, func(a netip.Addr) bool { return a.Unmap().Is4() })) // as package net prefers
	return hostAddress{addr: found[i].Unmap().String()}
}

// isAddress reports whether a host needs no look-up.
func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil || host == ""
}

// address returns what to listen on for a host.
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

// Know adds to what is known. A name that is not found any more is known by its last
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

// Errors are those of names that were not found, in the order of the names. Each says
// which name it is.
func (h Hosts) Errors() (errs []error) {
	for _, host := range slices.Sorted(maps.Keys(h)) {
		if err := h[host].err; err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// listenUnix is the function of that name in a job of the place of the socket's
// folder. A socket that is made when nobody waits for it any more is closed.
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

// A Ready is what OpenUnix made of an address.
type Ready struct {
	Listener *UnixListener
	Err      error // instead
}

// OpenUnix opens those unix sockets of a configuration that are neither open nor
// systemd's, all at once. It is for a goroutine beside the gate's, which meanwhile
// changes nothing of s.
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

// CloseReady closes what OpenUnix has opened and Open has not taken.
func CloseReady(opened map[Address]Ready) {
	for _, r := range opened {
		if r.Listener != nil {
			r.Listener.Close()
		}
	}
}

// IsPending reports whether an address could not be opened because DNS or a file system
// does not answer, or DNS can't at the moment: it is to be tried again. A name that DNS
// says does not exist is not.
func IsPending(err error) bool {
	if files.IsHang(err) {
		return true
	}
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && !dns.IsNotFound
}

// inUse is the error of an address where somebody listens.
type inUse struct{ error }

func (e *inUse) Unwrap() error { return e.error }

func (*inUse) HintText() string {
	return "stop the process that listens there; to replace a running wssgate without refusing clients, start this one with -beside, then stop the old one"
}

// lowPort is the error of a port that only root may open.
type lowPort struct{ error }

func (e *lowPort) Unwrap() error { return e.error }

func (*lowPort) HintText() string {
	return "ports below 1024 need CAP_NET_BIND_SERVICE: AmbientCapabilities= in the unit, setcap cap_net_bind_service=+ep on the program, or a port forward to a higher one"
}

// A UnixListener owns the name of its socket only until another process has
// taken it.
type UnixListener struct {
	*net.UnixListener
	path  string
	place *files.Place
	made  fs.FileInfo
	late  func() bool // see sockets.listenUnix
	close sync.Once
}

// listenUnix opens a socket. Where somebody answers on one of that name, it
// takes the name if beside is set: clients then come here, and those who were on
// their way there stay there.
// It is for a job of place.
func listenUnix(place *files.Place, path string, beside bool) (*UnixListener, error) {
	name := path
	if info, err := place.Stat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		var conn net.Conn
		err := place.Call(path, func() (err error) { conn, err = net.Dial("unix", path); return err })
		switch {
		case errors.Is(err, syscall.ECONNREFUSED): // left over from a process that was killed
			place.Remove(path)
		case beside: // somebody listens, be it that no more fit into the queue
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
	if errors.Is(err, syscall.EADDRINUSE) {
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

// Addr returns the name that clients know.
func (u *UnixListener) Addr() net.Addr { return &net.UnixAddr{Name: u.path, Net: "unix"} }

// IsOurs reports whether the name still leads to this socket, or may do so: ctx bounds
// how long that is looked at.
func (u *UnixListener) IsOurs(ctx context.Context) bool {
	ours, err := files.Do(ctx, u.place, func() (bool, error) { return u.hasName(), nil })
	return ours || err != nil
}

func (u *UnixListener) hasName() bool {
	info, err := u.place.Stat(u.path)
	return err == nil && os.SameFile(info, u.made)
}

// removals are names of sockets that are being taken away.
var removals sync.WaitGroup

// RemovalPatience is how long the end of the program waits for removals. A name that
// stays is taken away by the next start.
const RemovalPatience = 300 * time.Millisecond

// AwaitRemovals returns when no name is being taken away, or after RemovalPatience, or
// after most where that is less.
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

// Close waits for no file system: the name is taken away beside it, where it is still
// this socket's.
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
