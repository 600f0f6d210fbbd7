package config

import (
	"net"
	"net/netip"
	"path/filepath"

	"wssgate/access"
	"wssgate/listen"
	"wssgate/upstream"
)

// A listener is one address to listen on, in the form for net.Listen.
type listener struct {
	key     keyPath
	network string // "tcp" or "unix"
	address string
}

// Addresses returns the listen addresses by key.
func (l *Listen) Addresses() map[string][]string {
	return map[string][]string{"wss": l.WSS, "http": l.HTTP, "admin": {l.Admin}}
}

func (l *Listen) check(ms *mistakes, p keyPath, file string) {
	var all []listener
	addresses := func(key string, list []string) {
		for i, s := range list {
			network, address, err := listen.ParseAddress(s)
			if err != nil {
				ms.add(p.key(key), `write ":5291", "127.0.0.1:5291", "[::1]:5291" or "unix:/path/to/socket"`, "%q %v", s, err)
				continue
			}
			if network == "unix" {
				if !filepath.IsAbs(address) {
					address = filepath.Join(filepath.Dir(file), address)
				}
				list[i] = "unix:" + address
				if err := upstream.CheckSocketPath(address); err != nil {
					ms.add(p.key(key), "", "%q: %v", s, err)
					continue
				}
			}
			this := listener{p.key(key), network, address}
			for _, other := range all {
				if other.collides(this) {
					ms.add(this.key, "", "%q is already used by %s", s, other.key.shown)
					break
				}
			}
			all = append(all, this)
		}
	}
	if len(l.WSS) == 0 {
		ms.add(p.key("wss"), `write wss = ":5291"`, "at least one is required")
	}
	addresses("wss", l.WSS)
	addresses("http", l.HTTP)
	if l.Admin != "" {
		admin := []string{l.Admin}
		addresses("admin", admin)
		l.Admin = admin[0]
		if network, address, err := listen.ParseAddress(l.Admin); err == nil && network == "tcp" && !isLoopback(address) && l.AdminTokenFile == "" {
			ms.add(p.key("admin"), "name a file with a token in admin_token_file, or listen on 127.0.0.1",
				"%q is reachable from other machines, and no token is set", l.Admin)
		}
	}
	if l.AdminTokenFile != "" {
		ms.checkFile(p.key("admin_token_file"), l.AdminTokenFile, CheckToken)
	}
	for i, s := range l.ProxyProtocol {
		prefix, err := access.ParseNetwork(s)
		if err != nil {
			ms.add(p.key("proxy_protocol"), `write "10.0.0.0/8" or "192.0.2.7"`, "%q %v", s, err)
			continue
		}
		l.ProxyProtocol[i] = prefix.String()
	}
}

// collides reports whether the system would refuse b after a. With port 0, the
// kernel always chooses a free port.
func (a listener) collides(b listener) bool {
	if a.network != b.network || a.network == "unix" {
		return a == listener{a.key, b.network, b.address}
	}
	hostA, portA, _ := net.SplitHostPort(a.address)
	hostB, portB, _ := net.SplitHostPort(b.address)
	return portA == portB && portA != "0" && (plainHost(hostA) == plainHost(hostB) || isAnyAddress(hostA) || isAnyAddress(hostB))
}

// plainHost gives equal addresses the same form. Go listens on 127.0.0.1 for localhost.
func plainHost(host string) string {
	if host == "localhost" {
		return "127.0.0.1"
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	return host
}

func isAnyAddress(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.IsUnspecified()
}

func isLoopback(hostPort string) bool {
	host, _, _ := net.SplitHostPort(hostPort)
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}
