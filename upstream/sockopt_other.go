//go:build !linux

package upstream

import (
	"syscall"
	"time"
)

// limitUnacknowledged leaves it to the system's own limit.
func limitUnacknowledged(string, syscall.RawConn, time.Duration) error { return nil }
