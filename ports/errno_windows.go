package ports

import (
	"errors"
	"syscall"

	"golang.org/x/sys/windows"
)

// winsock are the numbers that Windows has for the errors of sockets. Package syscall
// has numbers of its own for the names of POSIX, which no call returns.
var winsock = map[syscall.Errno]syscall.Errno{
	syscall.EACCES:       windows.WSAEACCES,
	syscall.EADDRINUSE:   windows.WSAEADDRINUSE,
	syscall.ECONNREFUSED: windows.WSAECONNREFUSED,
	syscall.ECONNRESET:   windows.WSAECONNRESET,
	syscall.EHOSTUNREACH: windows.WSAEHOSTUNREACH,
	syscall.ENETUNREACH:  windows.WSAENETUNREACH,
}

// IsErrno reports whether err is errno, an error of a socket, on each system.
func IsErrno(err error, errno syscall.Errno) bool {
	number, ok := winsock[errno]
	return errors.Is(err, errno) || ok && errors.Is(err, number)
}
