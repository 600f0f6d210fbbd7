package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Errors of Options.Drain that callers distinguish.
var (
	ErrNotSupported = errors.New("not supported")
	ErrUnknown      = errors.New("not configured")     // the vhost or node
	ErrConflict     = errors.New("no longer possible") // such as a drain that can't be stopped
)

// A DrainRequest selects what to drain: one vhost, one node, all vhosts at once, or,
// if nothing is set, the whole gate, which then ends.
type DrainRequest struct {
	All bool // every vhost; the gate does not end
	// After is how long the gate continues to accept clients before a drain of all
	// vhosts, while it is not ready, so that a balancer notices first. Only with All;
	// at most maxAfter.
	After          time.Duration
	Vhost          string // its configured name
	Upstream, Node string // both or neither
	Stop           bool   // end that drain, and accept tunnels again
}

// Scope describes the request for people.
func (r DrainRequest) Scope() string {
	switch {
	case r.All:
		return "all vhosts"
	case r.Vhost != "":
		return "vhost " + r.Vhost
	case r.Node != "":
		return "node " + r.Upstream + "/" + r.Node
	}
	return "all"
}

// maxAfter bounds DrainRequest.After.
const maxAfter = 10 * time.Minute

// parseDrain reads the query of POST /drain: vhost=NAME, node=UPSTREAM/NAME, all, or
// none of them; and stop, or after=DURATION with all. It refuses unknown parameters,
// because a mistake in a name would otherwise drain everything.
func parseDrain(query url.Values) (DrainRequest, error) {
	var r DrainRequest
	for key, values := range query {
		if len(values) != 1 {
			return r, fmt.Errorf("%q appears %d times; it may appear once", key, len(values))
		}
		value := values[0]
		switch key {
		case "vhost":
			r.Vhost = value
		case "node":
			// An upstream's name contains no slash. A node's name may be the path of a
			// socket, which does.
			r.Upstream, r.Node, _ = strings.Cut(value, "/")
			if r.Upstream == "" || r.Node == "" {
				return r, fmt.Errorf("node %q is not UPSTREAM/NAME", value)
			}
		case "all", "stop":
			if value != "" && value != "1" && value != "true" {
				return r, fmt.Errorf("%s %q is not 1", key, value)
			}
			if key == "all" {
				r.All = true
			} else {
				r.Stop = true
			}
		case "after":
			after, err := time.ParseDuration(value)
			if err != nil || after < 0 || after > maxAfter {
				return r, fmt.Errorf("after %q is not a duration such as 5s, at most %v", value, maxAfter)
			}
			r.After = after
		default:
			return r, fmt.Errorf("unknown parameter %q, want vhost, node, all, stop or after", key)
		}
	}
	if query.Has("vhost") && r.Vhost == "" {
		return r, errors.New("vhost is empty")
	}
	if r.Vhost != "" && r.Node != "" || r.All && (r.Vhost != "" || r.Node != "") {
		return r, errors.New("one of vhost, node and all is required")
	}
	if query.Has("after") && (!r.All || r.Stop) {
		return r, errors.New("after is for all without stop")
	}
	return r, nil
}

// An outcome is the answer to a command.
type outcome struct {
	OK     bool     `json:"ok"`
	Result string   `json:"result"`
	Scope  string   `json:"scope,omitempty"` // of a drain that has begun
	Errors []string `json:"errors,omitempty"`
}

func (s *Server) serveReload(w http.ResponseWriter, r *http.Request) {
	if s.options.Reload == nil {
		writeJSON(w, http.StatusNotImplemented, outcome{Result: "reload is not supported"})
		return
	}
	s.log.Info("reload requested", "client", r.RemoteAddr)
	if err := s.options.Reload(r.Context()); err != nil {
		writeJSON(w, http.StatusUnprocessableEntity, outcome{Result: "nothing was changed", Errors: strings.Split(err.Error(), "\n")})
		return
	}
	writeJSON(w, http.StatusOK, outcome{OK: true, Result: "reloaded"})
}

// parsePardon reads the query of POST /pardon: client=ADDRESS, which may be a network
// as on the page, or all.
func parsePardon(query url.Values) (netip.Addr, error) {
	if len(query) != 1 || len(query["client"])+len(query["all"]) != 1 {
		return netip.Addr{}, errors.New("client=ADDRESS or all is required")
	}
	if query.Has("all") {
		if v := query.Get("all"); v != "" && v != "1" && v != "true" {
			return netip.Addr{}, fmt.Errorf("all %q is not 1", v)
		}
		return netip.Addr{}, nil
	}
	client := query.Get("client")
	if network, err := netip.ParsePrefix(client); err == nil {
		return network.Addr(), nil
	}
	addr, err := netip.ParseAddr(client)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("client %q is not an address", client)
	}
	return addr, nil
}

func (s *Server) servePardon(w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	var client netip.Addr
	if err == nil {
		client, err = parsePardon(query)
	}
	switch {
	case err != nil:
		writeJSON(w, http.StatusBadRequest, outcome{Result: err.Error()})
		return
	case s.options.Pardon == nil:
		writeJSON(w, http.StatusNotImplemented, outcome{Result: ErrNotSupported.Error()})
		return
	}
	n := s.options.Pardon(client)
	scope := "all"
	if client.IsValid() {
		scope = client.String()
	}
	s.log.Info("pardon", "client", r.RemoteAddr, "scope", scope, "addresses", n)
	if n == 0 && client.IsValid() {
		writeJSON(w, http.StatusNotFound, outcome{Result: scope + ": it has no failed logins"})
		return
	}
	writeJSON(w, http.StatusOK, outcome{OK: true, Result: fmt.Sprintf("%s: %d pardoned", scope, n)})
}

func (s *Server) serveDrain(w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		writeJSON(w, http.StatusBadRequest, outcome{Result: err.Error()})
		return
	}
	req, err := parseDrain(query)
	if err != nil {
		writeJSON(w, http.StatusBadRequest, outcome{Result: err.Error()})
		return
	}
	err = ErrNotSupported
	if s.options.Drain != nil {
		s.log.Info("drain requested", "client", r.RemoteAddr, "scope", req.Scope(), "stop", req.Stop)
		err = s.options.Drain(req)
	}
	switch {
	case err == nil && req.Stop:
		writeJSON(w, http.StatusOK, outcome{OK: true, Result: req.Scope() + ": accepts clients again"})
	case err == nil:
		result := req.Scope() + ": drain begun"
		if req.After > 0 {
			result = fmt.Sprintf("%s: not ready; the drain begins within %v", req.Scope(), req.After)
		}
		writeJSON(w, http.StatusAccepted, outcome{OK: true, Result: result, Scope: req.Scope()})
	default:
		writeJSON(w, failureStatus(err, http.StatusInternalServerError), outcome{Result: err.Error()})
	}
}

// failureStatus returns the HTTP status for the error of an action; other for an
// unknown error.
func failureStatus(err error, other int) int {
	switch {
	case errors.Is(err, ErrNotSupported):
		return http.StatusNotImplemented
	case errors.Is(err, ErrUnknown):
		return http.StatusNotFound
	case errors.Is(err, ErrConflict):
		return http.StatusConflict
	}
	return other
}
