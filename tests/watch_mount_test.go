//go:build linux

package tests

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
)

// A volume that is mounted over the folder is noticed at once, and so
// is its end.
func TestWatchMount(t *testing.T) {
	const inside = "WSSGATE_TEST_MOUNTS"
	if os.Getenv(inside) == "" {
		inNamespace(t, "mount", inside)
		return
	}
	w := watch(t, func(*gate.Site) {})
	certs := filepath.Join(w.site.Dir, "certs")
	under, over, changed := w.site.CA.Issue(name), w.site.CA.Issue(name), w.site.CA.Issue(name)
	w.site.Certify(t, name, under)
	w.serves("what is below", under)

	must(t, syscall.Mount("tmpfs", certs, "tmpfs", 0, ""))
	t.Cleanup(func() { syscall.Unmount(certs, syscall.MNT_DETACH) })
	w.site.Certify(t, "other.test", w.site.CA.Issue("other.test"))
	w.site.Certify(t, name, over)
	w.serves("what is mounted over it", over)
	w.site.Certify(t, name, changed)
	w.serves("a change in it", changed)
	must(t, syscall.Unmount(certs, syscall.MNT_DETACH)) // whoever reads in it
	w.serves("what was below, when that is gone", under)
	w.site.Certify(t, name, over)
	w.serves("a change below", over)
}
