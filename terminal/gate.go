// Package terminal implements the operator's commands for a running gate: they show its
// state, list and close tunnels, and drain and reload it.
//
// It knows only what package admin answers: a [Gate] is the client of its admin
// listener. It prints text that clients send, such as names, with human.Cell, so that
// clients can't send control characters to the terminal.
package terminal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"wssgate/ports"
)

// Time limits for the gate's answer. A reload reads files.
const (
	patience       = 10 * time.Second
	reloadPatience = 60 * time.Second
)

// maxAnswer is the maximum size of an answer in bytes: ten thousand vhosts need a
// tenth.
const maxAnswer = 64 << 20

// An Error has the cause, and a hint.
type Error struct {
	Text, Hint string
	Usage      bool // the arguments or the configuration are wrong
}

func (e *Error) Error() string { return e.Text }

// HintText returns the hint, or "".
func (e *Error) HintText() string { return e.Hint }

// A Gate is a client of a gate's admin listener. Its methods are safe for concurrent
// use.
type Gate struct {
	address, token, file string
	client               *http.Client
}

// Reach returns the gate of a configuration file. Its admin listener has the address of
// listen.admin, and requires the token unless that is "". Reach does not connect yet.
func Reach(file, address, token string) (*Gate, error) {
	if address == "" {
		return nil, &Error{fmt.Sprintf("%s: listen.admin is \"\": this gate has no admin listener", file),
			`set admin = "127.0.0.1:9291" or "unix:/run/wssgate.sock" in [listen] and reload`, true}
	}
	network, where := "tcp", address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, where = "unix", path
	} else if strings.HasSuffix(address, ":0") {
		return nil, &Error{fmt.Sprintf("%s: listen.admin is %q: its port changes with each start", file, address),
			`set a port, such as "127.0.0.1:9291"`, true}
	}
	var dialer net.Dialer
	transport := &http.Transport{ // no proxy: the listener is on this machine
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, where)
		},
	}
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Gate{address: address, token: token, file: file, client: &http.Client{Transport: transport, CheckRedirect: refuse}}, nil
}

// Close closes idle connections.
func (g *Gate) Close() { g.client.CloseIdleConnections() }

// ask sends a request. The caller closes the body of the answer.
func (g *Gate) ask(ctx context.Context, method, path string, query url.Values) (*http.Response, error) {
	// The listener accepts only an address or localhost as the host.
	u := url.URL{Scheme: "http", Host: "localhost", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if g.token != "" {
		req.Header.Set("Authorization", "Bearer "+g.token)
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return nil, g.unreachable(err)
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusMisdirectedRequest:
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		if isJSON(resp) {
			return resp, nil
		}
	default:
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, g.refused(resp)
}

func isJSON(resp *http.Response) bool {
	return strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json")
}

// unreachable explains why the gate did not answer.
func (g *Gate) unreachable(err error) error {
	why, hint := err, fmt.Sprintf(`is the gate running with this file? "wssgate serve -config %s" starts it`, g.file)
	if urlError, ok := errors.AsType[*url.Error](err); ok {
		why = urlError.Err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		why, hint = errors.New("no answer in time"), "does a gate listen there? its log may show why it hangs"
	case errors.Is(err, context.Canceled):
		why, hint = errors.New("interrupted"), ""
	case errors.Is(err, fs.ErrPermission):
		why, hint = syscall.EACCES, "run this as the gate's user or group, or as root"
	case ports.IsErrno(err, syscall.ECONNREFUSED):
		why = syscall.ECONNREFUSED
	case errors.Is(err, fs.ErrNotExist):
		why = syscall.ENOENT
	}
	return &Error{fmt.Sprintf("no gate at %q: %v", g.address, why), hint, false}
}

// refused explains why the gate refused a request.
func (g *Gate) refused(resp *http.Response) error {
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized && g.token == "":
		return &Error{fmt.Sprintf("the gate at %q requires a token, and %s has none", g.address, g.file),
			"name its configuration with -config FILE, or set listen.admin_token_file", false}
	case status == http.StatusUnauthorized:
		return &Error{fmt.Sprintf("the gate at %q rejects the token of listen.admin_token_file", g.address),
			"if the token is new, send SIGHUP to the gate; otherwise another gate listens there", false}
	case status == http.StatusNotFound || status == http.StatusMethodNotAllowed:
		return &Error{fmt.Sprintf("the server at %q does not support this request", g.address),
			"is it a gate of this version?", false}
	default:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return &Error{fmt.Sprintf("the gate at %q: %s", g.address, strings.Join(strings.Fields(string(body)), " ")), "", false}
	}
}

// get requests JSON.
func (g *Gate) get(ctx context.Context, path string, query url.Values, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := g.ask(ctx, http.MethodGet, path, query)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return g.decode(resp, http.StatusOK, answer)
}

// An outcome is the gate's answer to a command, or to an invalid request.
type outcome struct {
	Result string   `json:"result"`
	Scope  string   `json:"scope"` // of a drain
	Errors []string `json:"errors"`
}

// decode decodes an answer with the status into answer. Any other one is an error.
func (g *Gate) decode(resp *http.Response, status int, answer any) error {
	if !isJSON(resp) {
		return &Error{fmt.Sprintf("the server at %q answered %s, and is not a gate", g.address, resp.Status),
			"does another program use this port?", false}
	}
	body := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode != status {
		var o outcome
		if err := body.Decode(&o); err != nil {
			return g.unreachable(err)
		}
		return &Error{strings.Join(append([]string{o.Result}, o.Errors...), "\n"), "", resp.StatusCode == http.StatusBadRequest}
	}
	if err := body.Decode(answer); err != nil {
		return g.unreachable(err)
	}
	return nil
}

// order sends a command to the gate and returns its result.
func (g *Gate) order(ctx context.Context, path string, query url.Values) (string, error) {
	o, err := g.post(ctx, path, query)
	return o.Result, err
}

// post is order, but returns the complete answer.
func (g *Gate) post(ctx context.Context, path string, query url.Values) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, reloadPatience)
	defer cancel()
	resp, err := g.ask(ctx, http.MethodPost, path, query)
	if err != nil {
		return outcome{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusAccepted { // a drain has begun
		resp.StatusCode = http.StatusOK
	}
	var o outcome
	if err := g.decode(resp, http.StatusOK, &o); err != nil {
		return outcome{}, err
	}
	return o, nil
}
