package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"time"
)

// A busyError is the error for a dial that a limit refused.
type busyError struct {
	error
	wait time.Duration // until a turn may be free; 0: unknown
}

func (e *busyError) Unwrap() error { return e.error }

// retryAfter is the minimum wait for a refused client. The actual one is up to twice as
// long, so that not all clients return in the same second.
const retryAfter = 5 * time.Second

// failure collects the errors of one Dial.
type failure struct {
	group  *group
	parent context.Context // the caller's
	causes []error
	wait   time.Duration // the longest that a limit requires
}

func (f *failure) add(n *Node, err error) {
	var busy *busyError
	if errors.As(err, &busy) {
		f.wait = max(f.wait, busy.wait)
	}
	if len(f.group.nodes) > 1 {
		err = fmt.Errorf("node %q: %w", n.name, err)
	}
	f.causes = append(f.causes, err)
}

// err makes the DialError. An answer other than 101 is the most specific (502), then a
// node that does not answer (504); otherwise no node can be reached (503).
func (f *failure) err() error {
	e := &DialError{Upstream: f.group.name, Causes: f.causes, Status: http.StatusServiceUnavailable}
	if len(e.Causes) == 0 { // there was no time for a try
		e.Causes = []error{fmt.Errorf("dial: %w", cmp.Or(context.Cause(f.parent), errTimeout))}
	}
	e.Ours = slices.ContainsFunc(e.Causes, isOurs) // otherwise that node might have accepted the stream
	for _, err := range e.Causes {
		h, answered := errors.AsType[*HandshakeError](err)
		switch {
		case errors.Is(err, ErrNoAddress): // even if DNS was slow
		case errors.Is(err, errRequest):
			e.Status = http.StatusBadRequest
			e.Ours = false
			return e
		case e.Ours:
		case answered && !isTimeout(h) && h.Status != http.StatusServiceUnavailable && h.Status != http.StatusTooManyRequests:
			e.Status = http.StatusBadGateway
		case isTimeout(err) && e.Status != http.StatusBadGateway:
			e.Status = http.StatusGatewayTimeout
		}
	}
	if e.Status == http.StatusServiceUnavailable {
		e.RetryAfter = max(f.wait, time.Duration(float64(retryAfter)*(1+f.group.env.random())))
	}
	return e
}

var errTimeout = os.ErrDeadlineExceeded

func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// bare removes package net's prefix "dial tcp 10.0.0.1:5290: connect:", because our
// message already names the address.
func bare(err error) error {
	var ours interface { // errors of package ports, which are more specific than the kernel's
		error
		Hint() string
	}
	if errors.As(err, &ours) {
		return ours
	}
	var op *net.OpError
	if errors.As(err, &op) && !isAlert(op) {
		err = op.Err
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	return err
}

// roughly rounds a duration to two digits, or to milliseconds, so that the same timeout
// always has the same text: the admin page and people count equal lines.
func roughly(d time.Duration) time.Duration {
	unit := time.Millisecond
	for d >= 100*unit {
		unit *= 10
	}
	return d.Round(unit)
}
