package proxy

import "sync/atomic"

// A shortage records whether memory is short. It may be read at any time.
type shortage struct {
	on    atomic.Bool // new clients are refused
	brake brake
}

// A brake keeps backlogs from growing while it is on.
type brake struct {
	on    atomic.Bool
	ended atomic.Int64 // tunnels
}
