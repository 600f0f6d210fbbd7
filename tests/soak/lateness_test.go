package soak

import (
	"slices"
	"sync"
	"time"
)

// A meter measures how late the machine runs what is due: where it is busy, a rule about
// the last moments of a tunnel must not take the machine's pauses for the gate's.
type meter struct {
	mu   sync.Mutex
	last []time.Duration // the worst of each of the latest seconds
}

var lateness meter

const (
	meterTick = 20 * time.Millisecond
	meterSpan = 30 // seconds
)

// measure runs until done is closed.
func (m *meter) measure(done <-chan struct{}) {
	var worst time.Duration
	began := time.Now()
	for {
		due := time.Now().Add(meterTick)
		select {
		case <-done:
			return
		case <-time.After(meterTick):
		}
		worst = max(worst, time.Since(due))
		m.mu.Lock()
		if time.Since(began) >= time.Second || len(m.last) == 0 {
			m.last = append(m.last[max(len(m.last)-meterSpan+1, 0):], worst)
			worst, began = 0, time.Now()
		}
		m.last[len(m.last)-1] = max(m.last[len(m.last)-1], worst)
		m.mu.Unlock()
	}
}

// worst returns the longest delay of the latest meterSpan seconds.
func (m *meter) worst() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.last) == 0 {
		return 0
	}
	return slices.Max(m.last)
}
