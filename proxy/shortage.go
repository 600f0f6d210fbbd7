package proxy

import "sync/atomic"

// A shortage is what the Server knows of one. Both may be read at any time.
type shortage struct {
	on    atomic.Bool // nobody new is let in
	brake brake
}

// A brake keeps backlogs from growing while it is on.
type brake struct {
	on    atomic.Bool
	ended atomic.Int64 // tunnels
}
