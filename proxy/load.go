package proxy

import "sync/atomic"

// A load counts the work of the loops. It may be read at any time.
type load struct {
	bytesIn, bytesOut   atomic.Int64 // of WebSocket, from and to clients
	framesIn, framesOut atomic.Int64
	lag                 histogram // how long a loop was busy with one batch of events
}

// traffic counts what passed in a turn, or in a batch of them. It belongs to one loop and
// has plain numbers, so that a frame costs no atomic operation.
type traffic struct {
	bytesIn, bytesOut   int64
	framesIn, framesOut int64
}

func (m *traffic) add(fromClient bool, bytes, frames int64) {
	if fromClient {
		m.bytesIn += bytes
		m.framesIn += frames
	} else {
		m.bytesOut += bytes
		m.framesOut += frames
	}
}

// into adds m to the load and resets m.
func (m *traffic) into(l *load) {
	if *m == (traffic{}) {
		return
	}
	l.bytesIn.Add(m.bytesIn)
	l.bytesOut.Add(m.bytesOut)
	l.framesIn.Add(m.framesIn)
	l.framesOut.Add(m.framesOut)
	*m = traffic{}
}
