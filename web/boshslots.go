package web

import (
	"errors"
	"io"
	"net/netip"
	"sync"
	"time"

	"wssgate/fair"
)

const (
	// boshRequests is how many requests of BOSH are under way at once where Options do
	// not say. Each costs about 60 KiB here.
	boshRequests = 2048

	// A body takes a chunk for each so many bytes after the first so many, and
	// there are so many chunks: 16 MiB.
	boshChunk  = 16 << 10
	boshChunks = 1024

	// bodyPatience is how long a body may take beside others that want the slot.
	bodyPatience = time.Second

	// readingShare is which part of all slots one address may have for bodies that are
	// not whole, before it gives one up at once.
	readingShare = 8
)

// errGivenUp is why a request ends whose slot another request gets.
var errGivenUp = errors.New("closed to make room for another client")

// boshSlots are the requests of a Site's BOSH, and the memory of their bodies. Where
// either is all taken, a request whose body does not come is given up; else the client
// address that has most of it loses its oldest request, unless that is the one that
// wants more.
type boshSlots struct {
	most int // requests

	mu       sync.Mutex
	requests fair.Set[*boshSlot]
	reading  fair.Set[*boshSlot] // those whose body is not whole
	chunks   fair.Set[*boshSlot] // a request as often as its body has chunks
}

// A boshSlot is the slot of one request.
type boshSlot struct {
	slots  *boshSlots
	owner  netip.Addr
	giveUp func() // ends the request

	request, reading *fair.Entry[*boshSlot]
	chunks           []*fair.Entry[*boshSlot]
}

// take returns a slot for a request whose body is to be read, or nil. giveUp must not
// wait.
func (p *boshSlots) take(client string, giveUp func()) *boshSlot {
	slot := &boshSlot{slots: p, owner: fair.OwnerOf(client), giveUp: giveUp}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.room(&p.requests, p.most, slot) {
		return nil
	}
	slot.request = p.requests.Add(slot.owner, slot)
	slot.reading = p.reading.Add(slot.owner, slot)
	return slot
}

// room sees to it that the set can take one more for a request, and reports false where
// nobody has to give one up for that; p.mu is held.
func (p *boshSlots) room(set *fair.Set[*boshSlot], most int, wants *boshSlot) bool {
	for set.Len() >= most {
		out := p.reading.GivesWay(wants.owner, p.most/readingShare, bodyPatience)
		if out == nil {
			out = set.GivesWay(wants.owner, 0, fair.Never)
		}
		if out == nil || out.Value == wants {
			return false
		}
		out.Value.free()
		out.Value.giveUp()
	}
	return true
}

// free gives back all that a request has; slots.mu is held.
func (p *boshSlot) free() {
	p.slots.requests.Remove(p.request)
	p.slots.reading.Remove(p.reading)
	p.freeBody()
}

func (p *boshSlot) freeBody() {
	for _, e := range p.chunks {
		p.slots.chunks.Remove(e)
	}
	p.chunks = nil
}

// leave ends the request.
func (p *boshSlot) leave() {
	p.slots.mu.Lock()
	defer p.slots.mu.Unlock()
	p.free()
}

// dropBody gives back what the body takes.
func (p *boshSlot) dropBody() {
	p.slots.mu.Lock()
	defer p.slots.mu.Unlock()
	p.freeBody()
}

// whole notes that the body has come.
func (p *boshSlot) whole() {
	p.slots.mu.Lock()
	defer p.slots.mu.Unlock()
	p.slots.reading.Remove(p.reading)
}

// grow takes what a body of size bytes takes, and reports whether that is there.
func (p *boshSlot) grow(size int) bool {
	s := p.slots
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(p.chunks) < size/boshChunk {
		if !s.room(&s.chunks, boshChunks, p) {
			return false
		}
		p.chunks = append(p.chunks, s.chunks.Add(p.owner, p))
	}
	return true
}

// read reads a body to its end. Memory grows with what has come, whatever length
// was declared.
func (p *boshSlot) read(r io.Reader) ([]byte, error) {
	var body []byte
	for {
		if len(body) == cap(body) {
			size := max(1<<10, 2*cap(body))
			if !p.grow(size) {
				p.giveUp()
				return nil, errGivenUp
			}
			body = append(make([]byte, 0, size), body...)
		}
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch err {
		case nil:
		case io.EOF:
			p.whole()
			return body, nil
		default:
			return nil, err
		}
	}
}
