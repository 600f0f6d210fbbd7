//go:build !linux

package watch

// mounts are not reported here.
type mounts struct{}

func openMounts() *mounts                  { return nil }
func (*mounts) changed() <-chan struct{}   { return nil }
func (*mounts) close()                     {}
func (*mounts) concern(_, _ []string) bool { return false }

// Mounts returns nil: the system does not tell.
func Mounts() []Mount { return nil }
