package xmpp

import "bytes"

// HideLocation blanks the location attribute of each <enabled/> in a payload (XEP-0198,
// section 5): the server's preferred address for resumption, which is internal to its
// own network. White space replaces the attribute, so the payload keeps its length. An
// attribute that the payload cuts short stays.
func HideLocation(payload []byte) {
	for b := payload; ; b = b[1:] {
		i := bytes.IndexByte(b, '<')
		if i < 0 {
			return
		}
		b = b[i:]
		h := parseHead(b)
		if string(h.local) != "enabled" || h.end || !h.mayBe(nsSM) {
			continue
		}
		for rest := h.attrs; ; {
			name, _, next, whole := nextAttr(rest)
			if !whole || name == nil {
				break
			}
			if string(name) == "location" {
				for i := range rest[:len(rest)-len(next)] {
					rest[i] = ' '
				}
			}
			rest = next
		}
	}
}
