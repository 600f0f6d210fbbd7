// Package hang mounts a directory that can be made to hang, as a network mount does
// whose server is gone.
//
// It is a FUSE file system, read-only, that shows another directory. While it hangs
// it takes no requests out of /dev/fuse: whoever calls for a file in it sleeps in the
// kernel. A process that is killed there ends, as with NFS.
package hang

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wssgate/tests/internal/gate"
)

// A Mount is a mounted file system. Hang and Resume may be called from any
// goroutine.
type Mount struct {
	Dir  string // where it is mounted
	show string // what it shows
	fd   int

	mu    sync.Mutex // held while a request is taken and answered
	hangs bool
	alone string        // what hangs by itself, below show; empty: nothing
	taken [][]byte      // requests for it, not answered yet
	delay time.Duration // before each answer
	ended bool
	nodes []string       // paths below show, by node number less 1
	ids   map[string]int // the reverse
}

// New mounts show on a directory of its own until the test ends. It needs root, or
// fusermount3.
func New(tb testing.TB, show string) *Mount {
	tb.Helper()
	m := &Mount{Dir: tb.TempDir(), show: show, nodes: []string{""}, ids: map[string]int{"": 1}}
	if err := m.mount(); err != nil {
		gate.Missing(tb, "cannot mount a FUSE file system (%v); to run this test: be root, or sudo apt-get install fuse3", err)
	}
	if err := unix.SetNonblock(m.fd, true); err != nil {
		tb.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		m.serve()
	}()
	tb.Cleanup(func() {
		m.mu.Lock()
		m.ended = true
		m.mu.Unlock()
		<-served
		unix.Close(m.fd) // ends what hangs
		if unix.Unmount(m.Dir, unix.MNT_DETACH) != nil {
			exec.Command("fusermount3", "-u", "-z", m.Dir).Run()
		}
	})
	return m
}

// Shows is the directory that it shows.
func (m *Mount) Shows() string { return m.show }

// Hang makes it hang: no call that begins from now on returns.
func (m *Mount) Hang() { m.set(true) }

// Resume ends Hang.
func (m *Mount) Resume() { m.set(false) }

// HangAlone has a file hang by itself: its attributes are known, but who opens it waits
// until Resume. The process can be killed only when the test ends.
func (m *Mount) HangAlone(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.alone = path
}

// Delay has each answer take so long from now on; there are several for one call.
func (m *Mount) Delay(each time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay = each
}

func (m *Mount) set(hangs bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hangs = hangs
	if !hangs {
		m.alone = ""
		for _, request := range m.taken {
			m.answer(request)
		}
		m.taken = nil
	}
}

func (m *Mount) mount() (err error) {
	if os.Geteuid() == 0 {
		if m.fd, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("/dev/fuse: %w", err)
		}
		return unix.Mount("hang", m.Dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", m.fd))
	}
	// fusermount3 opens /dev/fuse, mounts, and sends the descriptor.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "fusermount3")
	cmd := exec.Command("fusermount3", "-o", "nosuid,nodev", "--", m.Dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	out, err := cmd.CombinedOutput()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, 0)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("fusermount3 sent %d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("fusermount3 sent %d descriptors, %v", len(fds), err)
	}
	m.fd = fds[0]
	return nil
}

// serve answers until the test ends. It never takes a request while it hangs: a
// process that is killed then would have to wait for the answer.
func (m *Mount) serve() {
	buf := make([]byte, 1<<17+4096)
	for {
		unix.Poll([]unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLIN}}, 10)
		m.mu.Lock()
		if m.ended {
			m.mu.Unlock()
			return
		}
		if m.hangs {
			m.mu.Unlock()
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if n, err := unix.Read(m.fd, buf); err == nil {
			time.Sleep(m.delay)
			m.answer(buf[:n])
		}
		m.mu.Unlock()
	}
}

// Requests (linux/fuse.h), by their opcodes.
const (
	opLookup, opForget, opGetattr, opReadlink = 1, 2, 3, 5
	opOpen, opRead, opStatfs, opRelease       = 14, 15, 17, 18
	opFlush, opInit, opOpendir, opReaddir     = 25, 26, 27, 28
	opReleasedir, opAccess, opInterrupt       = 29, 34, 36
	opDestroy, opBatchForget                  = 38, 42

	opMknod, opMkdir, opUnlink, opRmdir, opRename, opSetattr, opCreate, opRename2 = 8, 9, 10, 11, 12, 4, 35, 45
)

var le = binary.LittleEndian

func (m *Mount) answer(request []byte) {
	opcode, unique, node := le.Uint32(request[4:]), le.Uint64(request[8:]), le.Uint64(request[16:])
	body := request[40:]
	var path string
	if 0 < node && node <= uint64(len(m.nodes)) {
		path = m.nodes[node-1]
	}
	if m.alone != "" && path == m.alone && opcode == opOpen {
		m.taken = append(m.taken, bytes.Clone(request))
		return
	}
	var out []byte
	var err error
	switch opcode {
	case opForget, opBatchForget, opInterrupt:
		return // they get no answer
	case opInit:
		out = make([]byte, 64)
		le.PutUint32(out[0:], 7)
		le.PutUint32(out[4:], 31)
		le.PutUint32(out[8:], le.Uint32(body[8:]))
		le.PutUint32(out[20:], 1<<17) // max_write
	case opLookup:
		name := string(bytes.TrimRight(body, "\x00"))
		out, err = m.entry(filepath.Join(path, name))
	case opGetattr:
		var attr []byte
		if attr, err = m.attr(path); err == nil {
			out = append(make([]byte, 16), attr...)
		}
	case opReadlink:
		var link string
		link, err = os.Readlink(filepath.Join(m.show, path))
		out = []byte(link)
	case opOpen, opOpendir:
		out = make([]byte, 16)
	case opRead:
		var data []byte
		data, err = os.ReadFile(filepath.Join(m.show, path))
		out = part(data, le.Uint64(body[8:]), le.Uint32(body[16:]))
	case opReaddir:
		var entries []os.DirEntry
		entries, err = os.ReadDir(filepath.Join(m.show, path))
		out = list(entries, le.Uint64(body[8:]), le.Uint32(body[16:]))
	case opStatfs:
		out = make([]byte, 80)
	case opRelease, opReleasedir, opFlush, opAccess, opDestroy:
	case opMknod, opMkdir, opUnlink, opRmdir, opRename, opSetattr, opCreate, opRename2:
		err = syscall.EROFS
	default:
		err = syscall.ENOSYS
	}
	header := make([]byte, 16)
	if err != nil {
		errno := syscall.EIO
		errors.As(err, &errno)
		le.PutUint32(header[4:], uint32(-int32(errno)))
		out = nil
	}
	le.PutUint32(header, uint32(16+len(out)))
	le.PutUint64(header[8:], unique)
	unix.Write(m.fd, append(header, out...))
}

// entry is what a lookup finds. The kernel may keep none of it: it asks each time.
func (m *Mount) entry(path string) ([]byte, error) {
	attr, err := m.attr(path)
	if err != nil {
		return nil, err
	}
	if m.ids[path] == 0 {
		m.nodes = append(m.nodes, path)
		m.ids[path] = len(m.nodes)
	}
	out := make([]byte, 40)
	le.PutUint64(out, uint64(m.ids[path]))
	return append(out, attr...), nil
}

func (m *Mount) attr(path string) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(m.show, path), &st); err != nil {
		return nil, err
	}
	out := make([]byte, 88)
	for i, v := range []uint64{st.Ino, uint64(st.Size), uint64(st.Blocks), uint64(st.Atim.Sec), uint64(st.Mtim.Sec), uint64(st.Ctim.Sec)} {
		le.PutUint64(out[8*i:], v)
	}
	for i, v := range []uint32{uint32(st.Atim.Nsec), uint32(st.Mtim.Nsec), uint32(st.Ctim.Nsec), st.Mode, uint32(st.Nlink), st.Uid, st.Gid, 0, 4096} {
		le.PutUint32(out[48+4*i:], v)
	}
	return out, nil
}

func part(data []byte, offset uint64, size uint32) []byte {
	if offset >= uint64(len(data)) {
		return nil
	}
	data = data[offset:]
	return data[:min(int(size), len(data))]
}

func list(entries []os.DirEntry, offset uint64, size uint32) []byte {
	var out []byte
	for i, e := range entries {
		if uint64(i) < offset {
			continue
		}
		name := e.Name()
		entry := make([]byte, (24+len(name)+7)/8*8)
		le.PutUint64(entry, uint64(i)+2)
		le.PutUint64(entry[8:], uint64(i)+1)
		le.PutUint32(entry[16:], uint32(len(name)))
		kind := uint32(syscall.DT_REG)
		switch {
		case e.IsDir():
			kind = syscall.DT_DIR
		case e.Type()&os.ModeSymlink != 0:
			kind = syscall.DT_LNK
		}
		le.PutUint32(entry[20:], kind)
		copy(entry[24:], name)
		if len(out)+len(entry) > int(size) {
			break
		}
		out = append(out, entry...)
	}
	return out
}
