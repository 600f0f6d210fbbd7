// Package terminal is what an operator does at a terminal with a gate that runs: look at
// it, list and close tunnels, drain and reload it.
//
// It knows nothing of the gate but what package admin answers: a [Gate] here is the
// other end of its admin listener. What comes from clients, such as names, is printed
// by human.Cell, so that nobody outside can send control characters to the terminal.
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
)

// How long a gate may take for an answer. A reload reads files.
const (
	patience       = 10 * time.Second
	reloadPatience = 60 * time.Second
)

// maxAnswer bounds an answer in bytes: ten thousand vhosts take a tenth of it.
const maxAnswer = 64 << 20

// An Error says what is wrong, and what to do.
type Error struct {
	Text, Hint string
	Usage      bool // the command's arguments are, or the configuration
}

func (e *Error) Error() string { return e.Text }

// HintText is empty where nothing is known to help.
func (e *Error) HintText() string { return e.Hint }

// A Gate is a gate's admin listener. Its methods may be called at the same time.
type Gate struct {
	address, token, file string
	client               *http.Client
}

// Reach returns the gate of a configuration file, whose admin listener is at address, as
// in listen.admin, and wants a token, or none. It does not connect yet.
func Reach(file, address, token string) (*Gate, error) {
	if address == "" {
		return nil, &Error{fmt.Sprintf("%s: listen.admin is \"\": this gate has no admin listener", file),
			`set admin = "127.0.0.1:9291" or "unix:/run/wssgate.sock" in [listen] and reload`, true}
	}
	network, where := "tcp", address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, where = "unix", path
	} else if strings.HasSuffix(address, ":0") {
		return nil, &Error{fmt.Sprintf("%s: listen.admin is %q: its port is another one after each start", file, address),
			`set a port, such as "127.0.0.1:9291"`, true}
	}
	var dialer net.Dialer
	transport := &http.Transport{ // no proxy: what it answers is this machine's
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, where)
		},
	}
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Gate{address: address, token: token, file: file, client: &http.Client{Transport: transport, CheckRedirect: refuse}}, nil
}

// Close ends the connections that are kept.
func (g *Gate) Close() { g.client.CloseIdleConnections() }

// ask sends a request. The caller closes the answer's body.
func (g *Gate) ask(ctx context.Context, method, path string, query url.Values) (*http.Response, error) {
	// The guard of the listener wants an address or localhost for a host.
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

// unreachable says why nobody answers.
func (g *Gate) unreachable(err error) error {
	why, hint := err, fmt.Sprintf(`is the gate running with this file? "wssgate serve -config %s" starts it`, g.file)
	if urlError, ok := errors.AsType[*url.Error](err); ok {
		why = urlError.Err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		why, hint = errors.New("no answer in time"), "is it a gate that listens there? its log may tell why it hangs"
	case errors.Is(err, context.Canceled):
		why, hint = errors.New("interrupted"), ""
	case errors.Is(err, fs.ErrPermission):
		why, hint = syscall.EACCES, "run this as the gate's user or group, or as root"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = syscall.ECONNREFUSED
	case errors.Is(err, fs.ErrNotExist):
		why = syscall.ENOENT
	}
	return &Error{fmt.Sprintf("no gate at %q: %v", g.address, why), hint, false}
}

// refused says why a request was not taken.
func (g *Gate) refused(resp *http.Response) error {
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized && g.token == "":
		return &Error{fmt.Sprintf("the gate at %q wants a token, and %s names none", g.address, g.file),
			"name its configuration with -config FILE, or set listen.admin_token_file", false}
	case status == http.StatusUnauthorized:
		return &Error{fmt.Sprintf("the gate at %q does not take the token of listen.admin_token_file", g.address),
			"if the token is new, send SIGHUP to the gate; otherwise another gate listens there", false}
	case status == http.StatusNotFound || status == http.StatusMethodNotAllowed:
		return &Error{fmt.Sprintf("what listens at %q does not know this request", g.address),
			"is it a gate of this version?", false}
	default:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return &Error{fmt.Sprintf("the gate at %q: %s", g.address, strings.Join(strings.Fields(string(body)), " ")), "", false}
	}
}

// get asks for JSON.
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

// An outcome is what the gate answers to a command, and to a request with a mistake.
type outcome struct {
	Result string   `json:"result"`
	Scope  string   `json:"scope"` // of a drain
	Errors []string `json:"errors"`
}

// decode reads an answer of one status into answer, and others as errors.
func (g *Gate) decode(resp *http.Response, status int, answer any) error {
	if !isJSON(resp) {
		return &Error{fmt.Sprintf("what listens at %q answers %s, and not as a gate does", g.address, resp.Status),
			"is it another program's port?", false}
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

// order has the gate do something. It returns the gate's answer in words.
func (g *Gate) order(ctx context.Context, path string, query url.Values) (string, error) {
	o, err := g.post(ctx, path, query)
	return o.Result, err
}

// post is order with the whole answer.
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
