package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"wssgate/files"
)

// sockets opens what [listen] names: it takes the sockets that systemd has
// opened already, and opens the others itself. Its methods belong to one
// goroutine, the gate's. The zero value has nothing from systemd.
//
// On Linux TCP sockets get SO_REUSEPORT, so that another process of the same
// user can open the same address and this one can then leave (handover.go). A
// second process that was started by mistake would silently get a part of the
// clients; so an address where somebody listens is refused as ever, unless
// beside is set.
type sockets struct {
	beside    bool // another process may listen there: it is about to leave
	inherited []*inherited
	leaving   []string // ports of TCP listeners of this process that those opened next replace
}

// listen opens one address of the configuration. Key is where it stands there:
// "wss", "http" or "admin".
func (s *sockets) listen(key, addr string) (net.Listener, error) {
	if i := s.find(key, addr); i != nil {
		return net.FileListener(i.file)
	}
	network, address, err := listenAddress(addr)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		return s.listenUnix(address)
	}
	return s.listenTCP(address)
}

// replace notes which listeners are about to be closed: their ports may be opened
// beside them. Those of one that stays may not, or its clients would be shared
// out between the two.
func (s *sockets) replace(leaving []net.Listener) {
	s.leaving = nil
	for _, ln := range leaving {
		if _, port, err := net.SplitHostPort(ln.Addr().String()); err == nil {
			s.leaving = append(s.leaving, port)
		}
	}
}

func (s *sockets) listenTCP(address string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), listenerPatience)
	defer cancel()
	ln, err := listenConfig(s.beside || slices.Contains(s.leaving, port)).Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &inUse{err}
	}
	return ln, err
}

// listenerPatience is how long the host name of a listener may take to be resolved.
// To open a listener waits for nothing else.
const listenerPatience = 2 * time.Second

// socketFiles is where unix sockets are.
var socketFiles = files.New("listeners", nil)

// listenUnix is the function of that name in a job of socketFiles. A socket that is
// made when nobody waits for it any more is closed.
func (s *sockets) listenUnix(path string) (net.Listener, error) {
	ctx, cancel := context.WithCancel(context.Background())
	ln, err := files.Do(ctx, socketFiles, func() (*unixListener, error) {
		ln, err := listenUnix(path, s.beside)
		if err == nil {
			ln.late = context.AfterFunc(ctx, func() { ln.Close() })
		}
		return ln, err
	})
	if err != nil {
		cancel()
		return nil, err
	}
	ln.late()
	cancel()
	return ln, nil
}

// inUse is the error of an address where somebody listens.
type inUse struct{ error }

func (e *inUse) Unwrap() error { return e.error }

func (*inUse) HintText() string {
	return "end what listens there; to take over from a wssgate without refusing anyone, start this one with -beside, then end the other"
}

// A unixListener owns the name of its socket only until another process has
// taken it.
type unixListener struct {
	*net.UnixListener
	path string
	made fs.FileInfo
	late func() bool // see sockets.listenUnix
}

// listenUnix opens a socket. Where somebody answers on one of that name, it
// takes the name if beside is set: clients then come here, and those who were on
// their way there stay there.
func listenUnix(path string, beside bool) (*unixListener, error) {
	name := path
	if info, err := socketFiles.Stat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		var conn net.Conn
		err := socketFiles.Call(path, func() (err error) { conn, err = net.Dial("unix", path); return err })
		switch {
		case errors.Is(err, syscall.ECONNREFUSED): // left over from a process that was killed
			socketFiles.Remove(path)
		case beside: // somebody listens, be it that no more fit into the queue
			name = path + ".new"
			socketFiles.Remove(name)
		}
		if err == nil {
			conn.Close()
		}
	}
	var ln *net.UnixListener
	err := socketFiles.Call(name, func() (err error) {
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
	u := &unixListener{UnixListener: ln, path: path}
	if u.made, err = socketFiles.Stat(name); err == nil && name != path {
		err = socketFiles.Rename(name, path)
	}
	if err != nil {
		ln.Close()
		socketFiles.Remove(name)
		return nil, err
	}
	return u, nil
}

// Addr returns the name that clients know.
func (u *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: u.path, Net: "unix"} }

// isOurs reports whether the name still leads to this socket.
func (u *unixListener) isOurs() bool {
	ours, _ := files.Do(context.Background(), socketFiles, func() (bool, error) { return u.hasName(), nil })
	return ours
}

func (u *unixListener) hasName() bool {
	info, err := socketFiles.Stat(u.path)
	return err == nil && os.SameFile(info, u.made)
}

// Close takes the name away where it is still this socket's, and the file system
// answers.
func (u *unixListener) Close() error {
	files.Do(context.Background(), socketFiles, func() (struct{}, error) {
		if u.hasName() {
			socketFiles.Remove(u.path)
		}
		return struct{}{}, nil
	})
	return u.UnixListener.Close()
}
