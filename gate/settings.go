package gate

import (
	"net/netip"
	"runtime"

	"wssgate/config"
	"wssgate/proxy"
)

// handshakesPerProcessor is used for limits.handshakes = 0.
const handshakesPerProcessor = 8

// framesPerSecond is used for limits.frames_per_second = 0. At this rate, the
// cheapest frames use well under 1 % of a processor.
const framesPerSecond = 5000

func proxySettings(c *config.Config) proxy.Settings {
	s := proxy.Settings{
		Connections:      c.Limits.Connections,
		PerClient:        c.Limits.PerClient,
		Handshakes:       c.Limits.Handshakes,
		FramesPerSecond:  c.Limits.FramesPerSecond,
		Message:          int64(c.Limits.Message),
		ClientBacklog:    int(c.Limits.ClientBacklog),
		HandshakeTimeout: c.Timeouts.Handshake,
		RequestTimeout:   c.Timeouts.Request,
		Ping:             c.Timeouts.Ping,
		Pong:             c.Timeouts.Pong,
		LogSample:        c.Log.Sample,
		LoginFailures:    proxy.LoginFailures(c.Limits.LoginFailures),
	}
	for _, network := range c.Listen.ProxyProtocol {
		s.ProxyProtocol = append(s.ProxyProtocol, netip.MustParsePrefix(network)) // config has checked it
	}
	if s.FramesPerSecond == 0 {
		s.FramesPerSecond = framesPerSecond
	}
	if s.Handshakes == 0 {
		s.Handshakes = handshakesPerProcessor * runtime.GOMAXPROCS(0)
	}
	return s
}
