//go:build !linux

package systemd

import "time"

// monotonic is only used with systemd, which does not exist here.
func monotonic() time.Duration { return 0 }
