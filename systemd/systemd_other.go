//go:build !linux

package systemd

import "time"

// monotonic is for systemd, which there is none of here.
func monotonic() time.Duration { return 0 }
