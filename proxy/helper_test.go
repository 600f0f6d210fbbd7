package proxy

import (
	"strings"
	"sync"
	"time"
)

// patience is how long a test waits on the real clock for an expected event. It does not
// measure speed: only a broken gate makes a test wait that long.
const patience = 30 * time.Second

// logLines keeps the lines of a log.
type logLines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
