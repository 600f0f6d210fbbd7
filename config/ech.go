package config

import (
	"log/slog"
	"net/netip"
	"strings"

	"wssgate/ech"
)

// On reports whether ECH is configured.
func (e *ECH) On() bool { return e.PublicName != "" }

func (e *ECH) check(ms *mistakes, p keyPath) {
	if !e.On() {
		return
	}
	name, err := domainName(e.PublicName)
	_, notAddress := netip.ParseAddr(e.PublicName)
	switch {
	case err != nil:
		ms.add(p.key("public_name"), nameHint(e.PublicName, domainName), "%q %v", e.PublicName, err)
	case notAddress == nil, !strings.Contains(name, "."):
		ms.add(p.key("public_name"), `write a name of yours, such as "gate.example.net"`, "%q is not a name that clients accept there", e.PublicName)
	default:
		e.PublicName = name
	}
	if e.Keys == "" {
		ms.add(p.key("keys"), "", "is empty")
	}
}

// ECHOptions must be asked for only while ECH is on.
func (c *Config) ECHOptions(log *slog.Logger) ech.Options {
	return ech.Options{PublicName: c.ECH.PublicName, Folder: c.ECH.Keys, Log: log}
}
