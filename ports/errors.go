package ports

import (
	"errors"
	"net/netip"
	"os"
)

// Hint says what to do when ports are used up.
const Hint = `add source addresses with "source" of the upstream, widen net.ipv4.ip_local_port_range, or add a node on another address or port`

// A UsedUpError means that no source address has a port left for the server. The
// server is not at fault.
type UsedUpError struct {
	Err error // the kernel's error; nil if it was not asked again
}

func (e *UsedUpError) Error() string { return "no source port is left" }

func (e *UsedUpError) Unwrap() error { return e.Err }
func (e *UsedUpError) Hint() string  { return Hint }

// A ForeignError means that no source address belongs to this machine: a mistake in
// the configuration, like a FamilyError.
type ForeignError struct {
	Err error // the kernel's error; nil if it was not asked again
}

func (e *ForeignError) Error() string { return "no source address belongs to this machine" }
func (e *ForeignError) Unwrap() error { return e.Err }
func (e *ForeignError) Hint() string {
	return `add the addresses of "source" to an interface, or correct them`
}

// A FamilyError means that no source address is of the server's family.
type FamilyError struct{ Server netip.Addr }

func (e *FamilyError) Error() string {
	family := "IPv6"
	if e.Server.Is4() {
		family = "IPv4"
	}
	return "no source address is " + family
}

func (e *FamilyError) Hint() string { return `add one to "source" of the upstream` }

// isBind reports whether binding to a source address failed, as opposed to finding a
// port.
func isBind(err error) bool {
	call, ok := errors.AsType[*os.SyscallError](err)
	return ok && call.Syscall == "bind"
}
