//go:build !linux

package upstream

import (
	"syscall"
	"time"
)

// limitUnacknowledged does nothing; the system's own limit applies.
func limitUnacknowledged(string, syscall.RawConn, time.Duration) error { return nil }
