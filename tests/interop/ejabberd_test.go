package interop

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// startEjabberd is startProsody for Debian's ejabberd.
//
// It does without ejabberdctl, which insists on a user of its own and on
// Erlang's port mapper, of which a machine has one: ejabberd runs as an Erlang
// program without a node name, and makes its accounts when it has started.
func startEjabberd(t *testing.T, domains ...string) (url string) {
	t.Helper()
	url, _ = runEjabberd(t, "", domains...)
	return url
}

// runEjabberd is startEjabberd with more at the end of the configuration. It
// returns the file of the log as well.
func runEjabberd(t *testing.T, more string, domains ...string) (url, log string) {
	t.Helper()
	addr, log := startedEjabberd(t, func(_ string, port int) string { return ejabberdConfig(port, domains) + more }, domains...)
	return "ws://" + addr + "/ws", log
}

// startedEjabberd is runEjabberd with a configuration of its own, which has a listener
// at the port. It returns the address of that.
func startedEjabberd(t *testing.T, configuration func(dir string, port int) string, domains ...string) (addr, log string) {
	t.Helper()
	gate.Program(t, "erl", "ejabberd")
	libs, err := filepath.Glob("/usr/lib/*/ejabberd-*")
	if err != nil {
		t.Fatal(err)
	}
	if len(libs) == 0 {
		gate.Missing(t, "ejabberd is not installed; to run this test: sudo apt-get install ejabberd")
	}

	user := unprivileged(t, "ejabberd")
	dir := user.tempDir(t)
	port := gate.FreePort(t)
	config := filepath.Join(dir, "ejabberd.yml")
	user.write(t, config, configuration(dir, port))
	log = filepath.Join(dir, "ejabberd.log")
	addr = net.JoinHostPort("127.0.0.1", fmt.Sprint(port))

	register := "{ok, _} = application:ensure_all_started(ejabberd)"
	for _, domain := range domains {
		register += fmt.Sprintf(", ok = ejabberd_auth:try_register(<<\"alice\">>, <<%q>>, <<%q>>)", domain, passwordOf(domain))
	}
	cmd := user.command("erl", "-noinput", "-boot", "start_clean",
		"-mnesia", "dir", fmt.Sprintf("%q", filepath.Join(dir, "database")),
		"-s", "ejabberd", "-eval", register+", io:format(\"~s~n\", [\""+registered+"\"]).")
	cmd.Env = append(cmd.Environ(),
		"HOME="+dir,
		"ERL_LIBS="+filepath.Dir(libs[0]),
		"EJABBERD_CONFIG_PATH="+config,
		"EJABBERD_LOG_PATH="+log,
		"ERL_CRASH_DUMP_SECONDS=0",
	)
	gate.StartServer(t, cmd, new(gate.Output), addr, log).Wait(registered)
	return addr, log
}

// registered is what ejabberd prints when its accounts are there.
const registered = "accounts registered"

func ejabberdConfig(port int, domains []string) string {
	var hosts []string
	for _, domain := range domains {
		hosts = append(hosts, "  - "+domain+"\n")
	}
	return fmt.Sprintf(`
hosts:
%sloglevel: info
trusted_proxies: ["127.0.0.1"]
listen:
  -
    port: %d
    ip: "127.0.0.1"
    module: ejabberd_http
    request_handlers:
      /ws: ejabberd_http_ws
auth_method: internal
auth_password_format: scram
modules:
  mod_disco: {}
  mod_ping: {}
  mod_roster: {}
  mod_stream_mgmt: {}
`, strings.Join(hosts, ""), port)
}
