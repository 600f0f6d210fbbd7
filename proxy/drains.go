package proxy

import (
	"slices"
	"sync"

	"wssgate/upstream"
)

// drains are the drains that turn new clients away, and the number of clients that were
// admitted before or outside them. One lock guards both: once a drain of everything is
// active, the number only falls, so Shutdown misses no client. Methods are safe for
// concurrent use.
type drains struct {
	emptied chan struct{} // closed once end was called and no admitted client is left

	mu       sync.Mutex
	active   []*activeDrain // the newest first
	admitted int            // open connections of admitted clients
	ending   bool           // end was called
	empty    bool           // emptied is closed
}

// A Target selects the tunnels to drain: those of a vhost, by its configured name,
// those on one node, or, with the zero value, all.
type Target struct {
	Vhost          string
	Upstream, Node string
}

// An activeDrain turns new clients of a target away. redirect may be nil; see Pacing.
type activeDrain struct {
	target   Target
	redirect func(v *upstream.Vhost, host string) string
}

// start makes a drain turn new clients away until stop is called.
func (d *drains) start(target Target, redirect func(v *upstream.Vhost, host string) string) (stop func()) {
	a := &activeDrain{target, redirect}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active = slices.Insert(d.active, 0, a)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.active = slices.DeleteFunc(d.active, func(other *activeDrain) bool { return other == a })
	}
}

// admit counts a new client of a vhost as admitted, until left. If a drain turns it
// away, admit does not count it, and elsewhere is the URL to redirect it to, if any;
// host is the host that the client requested. The drain of a node turns no client away:
// the upstream chooses another node.
func (d *drains) admit(vhost *upstream.Vhost, host string) (admitted bool, elsewhere string) {
	d.mu.Lock()
	a := d.turningAway(vhost)
	if a == nil {
		d.admitted++
	}
	d.mu.Unlock()
	if a != nil && a.redirect != nil {
		elsewhere = a.redirect(vhost, host)
	}
	return a == nil, elsewhere
}

// left uncounts an admitted client.
func (d *drains) left() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.admitted--
	d.closeIfEmpty()
}

// end makes the end of the last admitted client close emptied.
func (d *drains) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ending = true
	d.closeIfEmpty()
}

// closeIfEmpty closes emptied when that is due. The caller holds mu.
func (d *drains) closeIfEmpty() {
	if d.ending && d.admitted == 0 && !d.empty {
		d.empty = true
		close(d.emptied)
	}
}

// turnsAway reports whether a drain turns away new clients of a vhost.
func (d *drains) turnsAway(vhost *upstream.Vhost) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.turningAway(vhost) != nil
}

// turningAway returns the newest drain that turns away new clients of a vhost, or nil.
// The caller holds mu.
func (d *drains) turningAway(vhost *upstream.Vhost) *activeDrain {
	for _, a := range d.active {
		if a.target == (Target{}) || a.target.Vhost == vhost.Name() {
			return a
		}
	}
	return nil
}
