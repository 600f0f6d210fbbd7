package acme

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// "wssgate acme" shows, renews, retries and revokes at a gate that runs.
func TestBinaryCommand(t *testing.T) {
	t.Parallel()
	const name, lost = "chat.example.org", "lost.example.org"
	p, all := newPebble(t, pebbleConfig{})
	g := newBinaryGate(t, p, all[0], name)

	g.admin = gate.FreeAddr(t)
	g.config(g.addr, "", `"`+name+`", "`+lost+`"`)
	g.Gate = gate.Start(t, g.site.Dir)
	want := g.says
	root := p.Root()
	first := g.obtains(name, root)
	g.refusal(lost)
	want("acme status", 0, "NAME", name, "valid", lost, "waiting", `order for "lost.example.org"`)
	var names []struct{ Name, State string }
	if err := json.Unmarshal([]byte(want("acme status -json", 0)), &names); err != nil || len(names) != 2 || names[0].Name != name || names[0].State != "valid" {
		t.Errorf("acme status -json: %v, %v", names, err)
	}

	want("acme renew "+name, 0, name+": a new certificate is ordered")
	second := g.obtains(name, root, first)

	want("acme revoke "+name+" -reason keyCompromise", 0, "is revoked")
	g.obtains(name, root, first, second)
	status, err := p.get("https://" + p.mgmt + "/cert-status-by-serial/" + second.SerialNumber.Text(16))
	if err != nil || !strings.Contains(string(status), `"Revoked"`) {
		t.Errorf("the CA says %s, %v; want Revoked", status, err)
	}

	want("acme retry "+name, 1, "no order", "has failed")
	p.Resolve(lost, g.at.IP)
	want("acme retry "+lost, 0, "is tried again")
	g.obtains(lost, root)

	p.Resolve(lost, "") // so that the next order fails
	after := g.Mark()
	want("acme revoke "+lost+" -reason superseded", 0, "is revoked")
	after("the order that fails", func(l gate.Line) bool {
		return l.Msg() == "acme: no certificate obtained" && l.Str("server_name") == lost
	})
	want("acme status", 0, "revoked", lost+": has been revoked on request; it is served until there is another certificate", lost+": acme: order for")

	want("acme renew other.example.org", 1, `"other.example.org" is not in acme.names`)
	want("acme revoke "+name, 2, "-reason is required for revoke")
	want("acme revoke "+name+" -reason because", 2, `-reason "because" is not one of`, "keyCompromise")
	want("acme renew", 2, "one NAME is required")
	want("acme", 2, "status, renew, retry, revoke, rollover or dns-records is required")
}

// says runs a command of the program beside the gate, and returns what it prints. It must
// end with the status and print the words.
func (g *binaryGate) says(line string, status int, words ...string) string {
	t := g.testGate.t
	t.Helper()
	binary, err := gate.Build(true)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, strings.Fields(line)...)
	cmd.Dir = g.site.Dir
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("wssgate %s = %d, %v\n%s\nwant %d", line, got, err, out, status)
	}
	for _, word := range words {
		if !strings.Contains(string(out), word) {
			t.Errorf("wssgate %s prints\n%s\nwant %q", line, out, word)
		}
	}
	return string(out)
}
