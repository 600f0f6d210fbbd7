//go:build !linux

package proxy

import "net"

func deferAccept(net.Listener) {}
