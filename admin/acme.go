package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// An ACMERequest is a command for one name of ACME, or about the account.
type ACMERequest struct {
	Do     string // "renew", "retry", "revoke", "rollover" or "dns-records"
	Name   string // "account" for rollover, "all" for dns-records
	Reason string // for revoke
}

// parseACME reads the query of POST /acme: renew=NAME, retry=NAME, revoke=NAME with
// reason=REASON, rollover=account, or dns-records=all.
func parseACME(query url.Values) (r ACMERequest, err error) {
	for key, values := range query {
		switch {
		case len(values) != 1 || values[0] == "":
			return r, fmt.Errorf("%q is required once, with a value", key)
		case key == "reason":
			r.Reason = values[0]
		case !slices.Contains([]string{"renew", "retry", "revoke", "rollover", "dns-records"}, key):
			return r, fmt.Errorf("unknown parameter %q, want renew, retry, revoke, rollover, dns-records or reason", key)
		case key == "rollover" && values[0] != "account":
			return r, fmt.Errorf("rollover=%q, want rollover=account", values[0])
		case key == "dns-records" && values[0] != "all":
			return r, fmt.Errorf("dns-records=%q, want dns-records=all", values[0])
		case r.Do != "":
			return r, errors.New("one of renew, retry, revoke, rollover and dns-records is required")
		default:
			r.Do, r.Name = key, values[0]
		}
	}
	switch {
	case r.Do == "":
		return r, errors.New("renew=NAME, retry=NAME, revoke=NAME, rollover=account or dns-records=all is required")
	case (r.Do == "revoke") != (r.Reason != ""):
		return r, errors.New("revoke takes a reason, and nothing else does")
	}
	return r, nil
}

func (s *Server) serveACME(w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	var req ACMERequest
	if err == nil {
		req, err = parseACME(query)
	}
	if err != nil {
		writeJSON(w, http.StatusBadRequest, outcome{Result: err.Error()})
		return
	}
	said, err := "", ErrNotSupported
	if s.options.ACME != nil {
		s.log.Info("acme "+req.Do+" requested", "client", r.RemoteAddr, "scope", req.Name)
		said, err = s.options.ACME(r.Context(), req)
	}
	if err != nil {
		writeJSON(w, failureStatus(err, http.StatusUnprocessableEntity), outcome{Result: err.Error()})
		return
	}
	writeJSON(w, http.StatusAccepted, outcome{OK: true, Result: said})
}
