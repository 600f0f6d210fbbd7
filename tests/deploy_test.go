package tests

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"wssgate/config"
	"wssgate/demo/minica"
	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

// program returns the command, and fails or skips the test where it is not
// installed.
func program(t *testing.T, name, debianPackage string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.Command(gate.Program(t, name, debianPackage), args...)
}

// succeed runs a command that must end well, and returns its output.
func succeed(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// checked runs wssgate check on a configuration, in a directory with
// certificates for the names in certs/, and returns the configuration as TOML
// has it. Absolute names of files are made to be in that directory.
func checked(t *testing.T, config string, names ...string) map[string]any {
	t.Helper()
	site := gate.NewSite(t, names...)
	config = inside(t, site, config, names)
	site.Write(t, "config.toml", []byte(config))
	site.Write(t, "deny.txt", []byte("203.0.113.0/24\n")) // as documents call an access list
	binary, err := gate.Build(false)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "check", "-offline", "-config", "config.toml")
	cmd.Dir = site.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("wssgate check: %v\n%s\nof\n%s", err, out, config)
	}
	var decoded map[string]any
	if _, err := toml.Decode(config, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

// drainTimeout is what a decoded configuration says, or the default.
func drainTimeout(t *testing.T, config map[string]any) time.Duration {
	t.Helper()
	text := "30s"
	if drain, ok := config["drain"].(map[string]any); ok {
		if s, ok := drain["timeout"].(string); ok {
			text = s
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Each document of kubernetes.yaml is what it says it is, without a key that
// Kubernetes does not know, and they fit together.
func TestKubernetes(t *testing.T) {
	var (
		set      apps.StatefulSet
		settings core.ConfigMap
		secrets  []string
		services []core.Service
	)
	for doc := range strings.SplitSeq(readFile(t, deployed(t, "kubernetes.yaml")), "\n---\n") {
		var kind meta.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatal(err)
		}
		var err error
		switch kind.APIVersion + " " + kind.Kind {
		case "apps/v1 StatefulSet":
			err = yaml.UnmarshalStrict([]byte(doc), &set)
		case "v1 ConfigMap":
			err = yaml.UnmarshalStrict([]byte(doc), &settings)
		case "v1 Service":
			var s core.Service
			err = yaml.UnmarshalStrict([]byte(doc), &s)
			services = append(services, s)
		case "v1 Secret":
			var s core.Secret
			err = yaml.UnmarshalStrict([]byte(doc), &s)
			secrets = append(secrets, s.Name)
			if token := s.StringData["token"]; config.CheckToken([]byte(token)) == nil {
				t.Errorf("the gate takes the token %q; want it refused until it is replaced", token)
			}
		default:
			t.Errorf("kind %q of %q; want one that this test knows", kind.Kind, kind.APIVersion)
		}
		if err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
	}
	pod := set.Spec.Template.Spec
	if len(pod.InitContainers) != 1 || len(pod.Containers) != 1 {
		t.Fatalf("%d init containers and %d containers; want the gate and Tigase", len(pod.InitContainers), len(pod.Containers))
	}
	sidecar := pod.InitContainers[0]
	if sidecar.RestartPolicy == nil || *sidecar.RestartPolicy != core.ContainerRestartPolicyAlways {
		t.Error("the gate has no restartPolicy Always; want it, for that makes it a sidecar")
	}
	if sidecar.Lifecycle == nil || sidecar.Lifecycle.PreStop == nil || sidecar.Lifecycle.PreStop.Exec == nil {
		t.Fatal("the gate has no preStop hook")
	}
	hook := sidecar.Lifecycle.PreStop.Exec.Command
	if !slices.Equal(hook, []string{"/wssgate", "drain", "-all", "-after", "5s", "-wait"}) {
		t.Errorf("the gate's preStop hook is %q", hook)
	}
	decoded := checked(t, settings.Data["config.toml"], "example1.com")
	grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second
	drain := drainTimeout(t, decoded) + 5*time.Second
	stay := pod.Containers[0].Lifecycle.PreStop.Exec.Command
	if len(stay) != 2 || stay[0] != "sleep" {
		t.Fatalf("Tigase's preStop hook is %q; want sleep", stay)
	}
	if wait, err := time.ParseDuration(stay[1] + "s"); err != nil || wait < drain || grace <= wait {
		t.Errorf("Tigase stays for %v, %v; want it longer than the drain, %v, and shorter than terminationGracePeriodSeconds, %v", wait, err, drain, grace)
	}
	if sc := sidecar.SecurityContext; !*sc.RunAsNonRoot || !*sc.ReadOnlyRootFilesystem || *sc.AllowPrivilegeEscalation {
		t.Error("the gate's securityContext is not strict")
	}
	ports := map[string]int32{}
	for _, c := range []core.Container{sidecar, pod.Containers[0]} {
		for _, p := range c.Ports {
			ports[p.Name] = p.ContainerPort
			if p.ContainerPort == 5290 {
				t.Error("5290 is a port of the pod; want it on loopback only")
			}
		}
		for _, m := range c.VolumeMounts {
			claimed := slices.ContainsFunc(set.Spec.VolumeClaimTemplates, func(v core.PersistentVolumeClaim) bool { return v.Name == m.Name })
			if !claimed && !slices.ContainsFunc(pod.Volumes, func(v core.Volume) bool { return v.Name == m.Name }) {
				t.Errorf("container %s mounts %q, which is no volume", c.Name, m.Name)
			}
		}
	}
	if ports["wss"] != 5291 || ports["wssgate-admin"] != 9291 {
		t.Errorf("ports are %v; want wss 5291 and wssgate-admin 9291", ports)
	}
	for _, probe := range []*core.Probe{sidecar.StartupProbe, sidecar.LivenessProbe, sidecar.ReadinessProbe} {
		if probe.HTTPGet == nil || ports[probe.HTTPGet.Port.StrVal] != 9291 {
			t.Errorf("a probe asks %v; want the admin port", probe.HTTPGet)
		}
	}
	for _, s := range services {
		for k, v := range s.Spec.Selector {
			if set.Spec.Template.Labels[k] != v {
				t.Errorf("service %s selects %s=%s, which the pods are not", s.Name, k, v)
			}
		}
	}
	if !slices.Contains(secrets, "wssgate-admin") {
		t.Errorf("the secrets are %v; want wssgate-admin", secrets)
	}
}

func TestCompose(t *testing.T) {
	var file struct {
		Services map[string]struct {
			Image           string
			Ports           []string
			Volumes         []string
			StopGracePeriod string `json:"stop_grace_period"`
			ReadOnly        bool   `json:"read_only"`
			Networks        []string
		}
		Volumes, Networks map[string]any
	}
	if err := yaml.Unmarshal([]byte(readFile(t, deployed(t, "compose.yaml"))), &file); err != nil {
		t.Fatal(err)
	}
	decoded := checked(t, strings.Replace(readFile(t, deployed(t, "compose.toml")), "tigase:5290", "127.0.0.1:5290", 1), "example1.com")
	wssgate := file.Services["wssgate"]
	grace, err := time.ParseDuration(wssgate.StopGracePeriod)
	if err != nil || grace <= drainTimeout(t, decoded) {
		t.Errorf("stop_grace_period is %q; want longer than drain.timeout", wssgate.StopGracePeriod)
	}
	if !wssgate.ReadOnly {
		t.Error("read_only is not set")
	}
	listen, _ := decoded["listen"].(map[string]any)
	if admin, _ := listen["admin"].(string); admin != ":9291" || !slices.Contains(wssgate.Ports, "127.0.0.1"+admin+admin) {
		t.Errorf("the admin address is %q, and the ports %q; want it to be reached from the machine, and from nowhere else", admin, wssgate.Ports)
	}
	for name, s := range file.Services {
		for _, p := range s.Ports {
			if strings.Contains(p, "5290") {
				t.Errorf("%s publishes %s; want 5290 inside only", name, p)
			}
		}
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if _, ok := file.Volumes[from]; !ok && !strings.HasPrefix(from, "./") {
				t.Errorf("%s mounts %q, which is no volume", name, from)
			}
			if filepath.Ext(from) != "" {
				t.Errorf("%s mounts the file %q, which then can't be replaced; want its folder", name, from)
			}
		}
		for _, n := range s.Networks {
			if _, ok := file.Networks[n]; !ok {
				t.Errorf("%s is in network %q, which there is not", name, n)
			}
		}
	}
}

// The unit hides what can be hidden, and gives a drain its time.
func TestSystemd(t *testing.T) {
	binary, err := gate.Build(false)
	if err != nil {
		t.Fatal(err)
	}
	unit := readFile(t, deployed(t, "wssgate.service"))
	const installed = "ExecStart=/usr/local/bin/wssgate "
	if !strings.Contains(unit, installed) {
		t.Fatalf("the unit has no %q", installed)
	}
	file := filepath.Join(t.TempDir(), "wssgate.service")
	if err := os.WriteFile(file, []byte(strings.Replace(unit, installed, "ExecStart="+binary+" ", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	// Exposure in tenths, 0 to 100; an ordinary service has 96.
	succeed(t, program(t, "systemd-analyze", "systemd", "security", "--offline=true", "--no-pager", "--threshold=20", file))

	// Without net.core.somaxconn in /proc Go's listeners have a queue of 128.
	if strings.Contains(unit, "\nProcSubset=pid") {
		t.Error("the unit hides /proc/sys: a storm of clients would find a short queue")
	}

	var stop time.Duration
	for line := range strings.Lines(unit) {
		if seconds, ok := strings.CutPrefix(strings.TrimSpace(line), "TimeoutStopSec="); ok {
			stop, _ = time.ParseDuration(seconds + "s")
		}
	}
	if stop <= drainTimeout(t, nil) {
		t.Errorf("TimeoutStopSec is %v; want longer than drain.timeout's default", stop)
	}
}

// The commands in deploy/README.md put the program and its unit where systemd
// finds them and have it started with the machine. Starting and reloading it now
// are systemd's: it runs ExecStart= and ExecReload= of the installed unit, and so
// does the test, without systemd's user and sandbox.
func TestInstall(t *testing.T) {
	binary, err := gate.Build(false)
	if err != nil {
		t.Fatal(err)
	}
	root, source := t.TempDir(), t.TempDir()
	program(t, "systemctl", "systemd")
	for link, target := range map[string]string{"wssgate": binary, "deploy": filepath.Dir(deployed(t, "wssgate.service"))} {
		if err := os.Symlink(target, filepath.Join(source, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"usr/local/bin", "etc/systemd/system"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, section, _ := strings.Cut(document(t, "deploy/README.md").text, "\n## systemd\n")
	reloads := false
	for line := range strings.Lines(section) {
		command, isIndented := strings.CutPrefix(line, "    ")
		if !isIndented {
			continue
		}
		if strings.HasPrefix(command, "systemctl reload wssgate") {
			reloads = true
			continue
		}
		command = strings.NewReplacer(" /", " "+root+"/", "systemctl ", "systemctl --root="+root+" ", "--now ", "").Replace(command)
		cmd := exec.Command("bash", "-e", "-c", command)
		cmd.Dir = source
		succeed(t, cmd)
	}
	if state := strings.TrimSpace(succeed(t, exec.Command("systemctl", "--root="+root, "is-enabled", "wssgate"))); state != "enabled" {
		t.Errorf("the unit is %q; want enabled", state)
	}

	unit := readFile(t, filepath.Join(root, "etc/systemd/system/wssgate.service"))
	start := unitLine(t, unit, "ExecStart")
	site := gate.NewSite(t, name)
	site.Config(t, toUpstream("ws://127.0.0.1:9/"))
	const config = "/etc/wssgate/config.toml"
	if !strings.HasPrefix(start, "/usr/local/bin/wssgate serve ") || !strings.HasSuffix(start, " "+config) {
		t.Fatalf("ExecStart= is %q; want the installed program and %s", start, config)
	}
	args := strings.Fields(strings.Replace(start, config, filepath.Join(site.Dir, "config.toml"), 1))
	if out := succeed(t, exec.Command(filepath.Join(root, args[0]), "version")); !strings.HasPrefix(out, "wssgate ") {
		t.Errorf("the installed program says %q", out)
	}
	g := gate.Run(t, site.Dir, args[1:])
	g.Addr("wss")
	if !reloads {
		t.Fatal("deploy/README.md does not say how to reload")
	}
	wait := g.Mark()
	reload := exec.Command("bash", "-e", "-c", unitLine(t, unit, "ExecReload"))
	reload.Env = append(os.Environ(), fmt.Sprintf("MAINPID=%d", g.PID()))
	succeed(t, reload)
	wait("the reload", func(l gate.Line) bool { return l.Msg() == "reloaded" })
}

// unitLine returns the value of a key that a unit has once.
func unitLine(t *testing.T, unit, key string) string {
	t.Helper()
	var values []string
	for line := range strings.Lines(unit) {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			values = append(values, strings.TrimSpace(value))
		}
	}
	if len(values) != 1 {
		t.Fatalf("the unit has %q for %s=; want one", values, key)
	}
	return values[0]
}

// The preStop hook of the manifest drains a gate that listens as the manifest has it, and
// returns when the last tunnel has ended; SIGTERM then ends the gate at once.
func TestPreStop(t *testing.T) {
	var set apps.StatefulSet
	for doc := range strings.SplitSeq(readFile(t, deployed(t, "kubernetes.yaml")), "\n---\n") {
		if strings.Contains(doc, "kind: StatefulSet") {
			if err := yaml.UnmarshalStrict([]byte(doc), &set); err != nil {
				t.Fatal(err)
			}
		}
	}
	hook := slices.Clone(set.Spec.Template.Spec.InitContainers[0].Lifecycle.PreStop.Exec.Command)
	hook[slices.Index(hook, "5s")] = "10ms"

	site := gate.NewSite(t, name)
	site.Write(t, "token", []byte("0123456789abcdef\n"))
	upstream := wire.Echo(t)
	site.Write(t, "config.toml", fmt.Appendf(nil, "[listen]\nwss = \"127.0.0.1:0\"\nadmin = \":%d\"\nadmin_token_file = \"token\"\n%s", gate.FreePort(t), gate.Timeouts+toUpstream(upstream.URL)))
	g := gate.Start(t, site.Dir)
	tunnel := wire.Dial(t, g.Addr("wss"), site.Client(name))
	d := sit(t, site.Dir)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.want(strings.Join(hook[1:], " "), 0, "all vhosts: drained")
	}()
	tunnel.WantClose(1001)
	tunnel.Send(wire.CloseFrame(true, 1001, ""))
	<-ended
	g.Signal(syscall.SIGTERM)
	if status := g.Wait(); status != 0 {
		t.Errorf("exit status %d; want 0", status)
	}
}

// inside makes the absolute names of files in a configuration names of files in
// the site that exist.
func inside(t *testing.T, site *gate.Site, config string, names []string) string {
	t.Helper()
	var out bytes.Buffer
	for line := range strings.Lines(config) {
		before, rest, quoted := strings.Cut(line, `= "/`)
		key := strings.TrimSpace(before)
		if !quoted || key == "path" {
			out.WriteString(line)
			continue
		}
		file, rest, _ := strings.Cut(rest, `"`)
		full := filepath.Join(site.Dir, file)
		switch key {
		case "directory", "cache":
			if err := os.MkdirAll(full, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				site.Certify(t, name, site.CA.Issue(name))
				data, err := os.ReadFile(filepath.Join(site.Dir, site.CertFile(name)))
				if err == nil && key == "directory" {
					err = os.WriteFile(filepath.Join(full, name+".pem"), data, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		default:
			if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
				t.Fatal(err)
			}
			content := []byte("c2l4dGVlbiBieXRlcyBhbmQgbW9yZS4\n") // a key in base64url, or a token
			if strings.HasSuffix(file, ".pem") {
				content = minica.NewCA("a private CA").RootPEM()
			}
			if err := os.WriteFile(full, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Fprintf(&out, "%s= %q%s", before, full, rest)
	}
	return out.String()
}
