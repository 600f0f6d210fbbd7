package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

	"wssgate/config"
	"wssgate/demo"
	"wssgate/gate"
	"wssgate/listen"
	"wssgate/ports"
)

// demoCommand is "wssgate demo": the gate, and all that it needs around it.
func demoCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := newFlags("demo", "[-listen ADDR] [-upstream URL] [-dir DIR]",
		`Serves https://example1.localhost:5291/ and https://example2.localhost:5291/ on
loopback, with its own CA and its own small XMPP server. Runs offline with no setup.
Prints what to try.`)
	addr := f.String("listen", "127.0.0.1:5291", "the gate's `ADDR`ess; port 0 takes any")
	upstreamURL := f.String("upstream", "", "forward to a real XMPP server, such as ws://127.0.0.1:5280/xmpp-websocket (`URL`)")
	dir := f.String("dir", "", "keep CA, certificates and configuration in `DIR` (default: a temporary one)")
	if status, done := f.parse(args, stdout, stderr); done {
		return status
	}
	listenAddr, err := demo.FreeAddress(*addr)
	if err != nil {
		fmt.Fprintf(stderr, "wssgate demo: -listen: %v\n", err)
		if ports.IsErrno(err, syscall.EADDRINUSE) {
			fmt.Fprintln(stderr, "  hint: something listens there already; choose another with -listen 127.0.0.1:5292")
			return exitFailed
		}
		return exitUsage
	}
	d, err := demo.Start(demo.Options{Listen: listenAddr, Upstream: *upstreamURL, Dir: *dir})
	if err != nil {
		fmt.Fprintf(stderr, "wssgate demo: %v\n", err)
		return exitFailed
	}
	defer d.Close()
	cfg, err := config.Load(ctx, d.Config)
	if err != nil { // what can be wrong in it is the -upstream
		return printConfigError(stderr, err)
	}
	fmt.Fprintln(stdout, d.Guide(os.Args[0]))
	return gate.Serve(ctx, cfg, gate.Serving{Pages: demo.Page(), Sockets: new(listen.Sockets)}, stderr)
}
