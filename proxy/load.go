package proxy

import "sync/atomic"

// A load is what the loops have done. Others may read it at any time.
type load struct {
	bytesIn, bytesOut   atomic.Int64 // of WebSocket, from and to clients
	framesIn, framesOut atomic.Int64
	lag                 histogram // how long it was busy with one batch of events
}

// traffic is what went through in a turn, or in a batch of them: plain numbers
// of the loop's own, so that a frame costs no atomic operation.
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

// into adds m to the load, and makes it zero again.
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
