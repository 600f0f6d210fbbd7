package proxy

import "runtime"

// A Reserve divides the descriptors that are not for clients of the wss listeners. Each
// share is a separate bound, so that one user cannot exhaust another one's share.
type Reserve struct {
	HTTP  int // connections to the plain listeners, all together
	Admin int // connections to the operator's
	BOSH  int // connections to BOSH servers that are kept idle; others belong to a client's request
}

const (
	ownFiles   = 32 // listeners, the first event loops, log, certificates, watches, probes
	minReserve = 64
	maxReserve = ownFiles + 256 + 64 + 64
)

// DescriptorReserve returns the shares. The wss listeners get the rest: two for each
// connection, because a tunnel needs two, and so does a BOSH request.
func DescriptorReserve() Reserve {
	others := reserve(openFiles()) - ownFiles
	return Reserve{HTTP: others * 2 / 3, Admin: others / 6, BOSH: others / 6}
}

// reserve is an eighth of the descriptors, within bounds.
func reserve(files int) int { return min(max(files/8, minReserve), maxReserve) }

// An event loop has an epoll instance, an eventfd and a ring. There is at most one for each
// processor; ownFiles contains those of the first.
const (
	loopFiles    = 3
	countedLoops = 4
)

// descriptorLimit returns how many connections to the wss listeners the process's
// descriptors allow.
func descriptorLimit() int {
	files := openFiles()
	loops := max(runtime.GOMAXPROCS(0)-countedLoops, 0) * loopFiles
	return max((files-reserve(files)-loops)/2, 1)
}

// smallRoom is the number of connections below which the operator of a public server
// should know the limit.
const smallRoom = 2000

// FewDescriptors reports whether the file descriptors allow fewer connections than most
// servers need and limits.connections does not set the number. A soft limit of 1,024
// that the hard one does not exceed allows 448. The Go runtime has raised the soft
// limit to the hard one before main.
func FewDescriptors(wanted int) (allowed int, few bool) {
	allowed = descriptorLimit()
	return allowed, allowed < smallRoom && wanted <= 0
}

// DescriptorHint is the hint for too few descriptors.
const DescriptorHint = "raise the hard limit of open files to two for each connection and 400 more: LimitNOFILE= in systemd, --ulimit nofile= for a container, ulimit -Hn in a shell"

// ConnectionLimit returns the maximum number of connections to the wss listeners: the
// wanted number, if the descriptors allow it, or for 0 as many as they allow.
func ConnectionLimit(wanted int) int {
	if allowed := descriptorLimit(); wanted <= 0 || wanted > allowed {
		return allowed
	}
	return wanted
}
