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
	// boshRequests is the default of Options.BOSHRequests. Each request costs about 60
	// KiB.
	boshRequests = 2048

	// Beyond its first bytes, a body takes chunks of this size. All chunks together are
	// 16 MiB.
	boshChunk  = 16 << 10
	boshChunks = 1024

	// bodyPatience is how long a body may take while others wait for its slot.
	bodyPatience = time.Second

	// readingShare: an address may use one in this many slots for incomplete bodies.
	// Beyond that, one of its slots is freed at once.
	readingShare = 8
)

// errGivenUp is the error of a request that lost its slot to another one.
var errGivenUp = errors.New("closed to make room for another client")

// boshSlots bounds the requests of a Site's BOSH and the memory of their bodies. When
// either runs out, it closes a request whose body has not arrived; otherwise the client
// address with the most loses its oldest request, unless that request is the one
// asking.
type boshSlots struct {
	most int // requests

	mu       sync.Mutex
	requests fair.Set[*boshSlot]
	reading  fair.Set[*boshSlot] // requests with an incomplete body
	chunks   fair.Set[*boshSlot] // a request appears once per chunk of its body
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
// block.
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

// room makes room in the set for one more entry of a request. It returns false if no
// request can be closed for that. The caller holds p.mu.
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

// free releases everything that a request holds. The caller holds slots.mu.
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

// dropBody releases the memory of the body.
func (p *boshSlot) dropBody() {
	p.slots.mu.Lock()
	defer p.slots.mu.Unlock()
	p.freeBody()
}

// whole records that the body is complete.
func (p *boshSlot) whole() {
	p.slots.mu.Lock()
	defer p.slots.mu.Unlock()
	p.slots.reading.Remove(p.reading)
}

// grow takes the chunks for a body of size bytes, and reports whether enough were free.
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

// read reads a body to its end. Memory grows with what has arrived, regardless of the
// declared length.
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
