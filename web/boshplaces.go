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

	// bodyPatience is how long a body may take beside others that want the place.
	bodyPatience = time.Second

	// readingShare is which part of all places one address may have for bodies that are
	// not whole, before it makes place at once.
	readingShare = 8
)

// errGivenUp is why a request ends whose place somebody else gets.
var errGivenUp = errors.New("closed to make room for another client")

// boshPlaces are the requests of a Site's BOSH, and the memory of their bodies. Where
// either is all taken, a request whose body does not come makes place; else the client
// address that has most of it loses its oldest request, unless that is the one that
// wants more.
type boshPlaces struct {
	most int // requests

	mu       sync.Mutex
	requests fair.Set[*boshPlace]
	reading  fair.Set[*boshPlace] // those whose body is not whole
	chunks   fair.Set[*boshPlace] // a request as often as its body has chunks
}

// A boshPlace is one request's.
type boshPlace struct {
	places *boshPlaces
	owner  netip.Addr
	giveUp func() // ends the request

	request, reading *fair.Entry[*boshPlace]
	chunks           []*fair.Entry[*boshPlace]
}

// take returns a place for a request whose body is to be read, or nil. giveUp must not
// wait.
func (p *boshPlaces) take(client string, giveUp func()) *boshPlace {
	place := &boshPlace{places: p, owner: fair.OwnerOf(client), giveUp: giveUp}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.room(&p.requests, p.most, place) {
		return nil
	}
	place.request = p.requests.Add(place.owner, place)
	place.reading = p.reading.Add(place.owner, place)
	return place
}

// room sees to it that the set can take one more for a request, and reports false where
// nobody has to make place for that; p.mu is held.
func (p *boshPlaces) room(set *fair.Set[*boshPlace], most int, wants *boshPlace) bool {
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

// free gives back all that a request has; places.mu is held.
func (p *boshPlace) free() {
	p.places.requests.Remove(p.request)
	p.places.reading.Remove(p.reading)
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

// whole notes that the body has come.
func (p *boshPlace) whole() {
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	p.places.reading.Remove(p.reading)
}

// grow takes what a body of size bytes takes, and reports whether that is there.
func (p *boshPlace) grow(size int) bool {
	s := p.places
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
			p.whole()
			return body, nil
		default:
			return nil, err
		}
	}
}
