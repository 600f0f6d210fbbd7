package web

import (
	"errors"
	"io"
	"net/netip"
	"sync"

	"wssgate/fair"
)

const (
	// boshRequests is how many requests one vhost's BOSH has under way at once:
	// two for each of a thousand clients. Each costs about 60 KiB here.
	boshRequests = 2048

	// A body takes a chunk for each so many bytes after the first so many, and
	// a vhost has so many chunks: 16 MiB.
	boshChunk  = 16 << 10
	boshChunks = 1024
)

// errGivenUp is why a request ends whose place somebody else gets.
var errGivenUp = errors.New("its place was given to another client")

// boshPlaces are the requests of one vhost's BOSH, and the memory of their
// bodies. Where either is all taken, the client address that has most of it
// loses its oldest request, unless that is the one that wants more.
// The zero value is empty.
type boshPlaces struct {
	mu       sync.Mutex
	requests fair.Set[*boshPlace]
	chunks   fair.Set[*boshPlace] // a request as often as its body has chunks
}

// A boshPlace is one request's.
type boshPlace struct {
	places *boshPlaces
	owner  netip.Addr
	giveUp func() // ends the request

	request *fair.Entry[*boshPlace]
	chunks  []*fair.Entry[*boshPlace]
}

// take returns a place for a request, or nil. giveUp must not wait.
func (p *boshPlaces) take(client string, giveUp func()) *boshPlace {
	place := &boshPlace{places: p, owner: fair.OwnerOf(client), giveUp: giveUp}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.room(&p.requests, boshRequests, place.owner) {
		return nil
	}
	place.request = p.requests.Add(place.owner, place)
	return place
}

// room sees to it that the set can take one more of an owner's, and reports
// false where that owner has most itself; p.mu is held.
func (p *boshPlaces) room(set *fair.Set[*boshPlace], most int, owner netip.Addr) bool {
	if set.Len() < most {
		return true
	}
	if set.Most() <= set.Of(owner)+1 {
		return false
	}
	out := set.Worst().Value
	out.free()
	out.giveUp()
	return true
}

// free gives back all that a request has; places.mu is held.
func (p *boshPlace) free() {
	p.places.requests.Remove(p.request)
	p.freeBody()
}

func (p *boshPlace) freeBody() {
	for _, e := range p.chunks {
		p.places.chunks.Remove(e)
	}
	p.chunks = nil
}

// leave ends the request.
func (p *boshPlace) leave() {
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	p.free()
}

// dropBody gives back what the body takes.
func (p *boshPlace) dropBody() {
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	p.freeBody()
}

// grow takes what a body of size bytes takes, and reports whether that is there.
func (p *boshPlace) grow(size int) bool {
	s := p.places
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(p.chunks) < size/boshChunk {
		if !s.room(&s.chunks, boshChunks, p.owner) {
			return false
		}
		p.chunks = append(p.chunks, s.chunks.Add(p.owner, p))
	}
	return true
}

// read reads a body to its end. Memory grows with what has come, whatever length
// was declared.
func (p *boshPlace) read(r io.Reader) ([]byte, error) {
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
			return body, nil
		default:
			return nil, err
		}
	}
}
