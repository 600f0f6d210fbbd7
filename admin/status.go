package admin

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"wssgate/proxy"
)

// maxRows bounds the lists of certificates, vhosts and failed logins in an answer
// without "all": a page of ten thousand rows is useless.
const maxRows = 200

// Status is the answer to GET /status.
type Status struct {
	Now      time.Time `json:"now"`
	Ready    bool      `json:"ready"`
	NotReady []string  `json:"not_ready"`
	Findings []Finding `json:"findings"` // worst first
	Gate
	FindingsTotal     map[string]int `json:"findings_total"` // by level
	VhostsTotal       int            `json:"vhosts_total"`
	CertificatesTotal int            `json:"certificates_total"`
	Tunnels           int64          `json:"tunnels"`
	Memory            Memory         `json:"memory"`
	Counts            proxy.Counts   `json:"counts"`
	Warnings          []Warning      `json:"warnings"` // newest first
	History           *History       `json:"history,omitempty"`
}

// serveStatus answers with JSON. "?history" adds the last hour, "?all" lists all
// vhosts, certificates and failed logins, not only the first.
func (s *Server) serveStatus(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	st := s.status(time.Now())
	if query.Has("history") {
		st.History = s.history.rows()
	}
	// Problems come first, because the end may be cut off. Vhosts keep their own order
	// if all of them are shown.
	slices.SortStableFunc(st.Certificates, func(a, b Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	if len(st.Vhosts) > maxRows {
		slices.SortStableFunc(st.Vhosts, func(a, b Vhost) int { return a.end().Compare(b.end()) })
	}
	if !query.Has("all") {
		st.Certificates = st.Certificates[:min(len(st.Certificates), maxRows)]
		st.Vhosts = st.Vhosts[:min(len(st.Vhosts), maxRows)]
		st.Logins.Clients = st.Logins.Clients[:min(len(st.Logins.Clients), maxRows)]
	}
	writeJSON(w, http.StatusOK, st)
}

func (s *Server) status(now time.Time) Status {
	counts := s.options.Counts()
	st := Status{
		Now: now, NotReady: s.notReady(), Gate: s.options.Gate(), Counts: counts,
		Tunnels: counts.Tunnels(), Memory: s.memory().among(counts.Tunnels()), Warnings: []Warning{},
	}
	st.Ready = len(st.NotReady) == 0
	st.Gate.fill()
	fillCounts(&st.Counts)
	if s.options.Warnings != nil {
		st.Warnings = s.options.Warnings.Last()
	}
	st.VhostsTotal, st.CertificatesTotal = len(st.Vhosts), len(st.Certificates)
	found := judge(&st, s.history)
	st.FindingsTotal, st.Findings = tally(found), bound(found)
	return st
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.Encode(v)
}
