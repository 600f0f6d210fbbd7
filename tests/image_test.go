package tests

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"wssgate/tests/internal/gate"
	"wssgate/tests/internal/wire"
)

const (
	images = "localhost/wssgate-test"

	maxImage        = 15_000_000 // bytes
	containerMemory = 256 << 20  // bytes
)

// make image builds an image of the gate alone, and it serves and drains, as a
// user without rights on a read-only root.
func TestImage(t *testing.T) {
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	podman := containers(t)
	build := exec.Command("make", "-s", "image")
	build.Dir = root
	build.Env = append(podman("version").Env, "IMAGE="+images, "ENGINE=buildah", "ARCHS=amd64 arm64")
	program(t, "buildah", "buildah")
	succeed(t, build)

	list := succeed(t, podman("manifest", "inspect", images))
	for _, arch := range []string{"amd64", "arm64"} {
		if !strings.Contains(list, `"architecture": "`+arch+`"`) {
			t.Errorf("the list has no image for %s:\n%s", arch, list)
		}
		got := strings.Fields(succeed(t, podman("image", "inspect", "--format", "{{.Architecture}} {{.Size}}", images+"-"+arch)))
		if size, err := strconv.Atoi(got[1]); err != nil || size > maxImage || got[0] != arch {
			t.Errorf("the image for %s is one for %s and has %d bytes, %v; want at most %d", arch, got[0], size, err, maxImage)
		}
	}
	image := images + "-" + runtime.GOARCH
	inspect := func(what string) string {
		return strings.TrimSpace(succeed(t, podman("image", "inspect", "--format", what, image)))
	}
	if got, want := inspect("{{.Config.User}} {{.Config.StopSignal}} {{.Config.Entrypoint}} {{.Config.ExposedPorts}}"), "65532:65532 SIGTERM [/wssgate] map[5291/tcp:{}]"; got != want {
		t.Errorf("the image is %q; want %q", got, want)
	}
	content := strings.TrimSpace(succeed(t, podman("image", "mount", image)))
	if got, want := filesBelow(t, content), []string{"etc/ssl/certs/ca-certificates.crt", "licenses/LICENSE", "licenses/THIRD-PARTY-NOTICES", "wssgate"}; !slices.Equal(got, want) {
		t.Errorf("the image has the files %q; want %q", got, want)
	}

	// A port that was free a moment ago: the container can't tell another.
	u, conns := wire.Chan(t)
	site := gate.NewSite(t, name)
	configure := func(more string) {
		site.Write(t, "config.toml", fmt.Appendf(nil, `
[listen]
wss = %q
admin = ""
[drain]
timeout = "1m"
[upstream.xmpp]
nodes = [%q]
xmpp = false
%s`, gate.FreeAddr(t), u.URL, gate.Timeouts+more))
		// Readable for 65532, as an operator would have to see to.
		if err := os.Chmod(filepath.Join(site.Dir, "config.toml"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(site.Dir, site.CertFile(name)), 0o644), os.Chmod(site.Dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	run := func() *exec.Cmd {
		return podman("run", "--rm", "--name", "wssgate-test", "--runtime", "runc", "--cgroup-manager", "cgroupfs",
			"--network", "host", "--memory", strconv.Itoa(containerMemory),
			// podman's own limits are higher, which not every machine allows.
			"--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000",
			"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
			"-v", site.Dir+":/etc/wssgate:ro", image)
	}
	configure("")
	serveContainer(t, run(), site, conns, func(log string) {
		// What Go may use follows the container's limit.
		if want := fmt.Sprintf(`"cgroup":%d,`, containerMemory); !strings.Contains(log, want) {
			t.Errorf("it says\n%s\nwant %s", log, want)
		}
		pid := strings.TrimSpace(succeed(t, podman("inspect", "--format", "{{.State.Pid}}", "wssgate-test")))
		status := strings.ReplaceAll(readFile(t, filepath.Join("/proc", pid, "status")), "\t", " ")
		for _, want := range []string{"Uid: 65532 65532 65532 65532\n", "Gid: 65532 65532 65532 65532\n", "CapEff: 0000000000000000\n", "NoNewPrivs: 1\n"} {
			if !strings.Contains(status, want) {
				t.Errorf("its process has no %q in\n%s", want, status)
			}
		}
	})

	configure("[limits]\nconections = 1\n")
	bad := run()
	out, err := bad.CombinedOutput()
	if bad.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), `unknown key "conections"`) {
		t.Errorf("with a bad configuration it ends with %v and says\n%s\nwant status 2 and the mistake", err, out)
	}
}

// containers returns a function that makes podman commands with a storage of
// this test's own.
func containers(t *testing.T) func(args ...string) *exec.Cmd {
	t.Helper()
	program(t, "podman", "podman")
	program(t, "runc", "runc")
	if os.Geteuid() != 0 {
		gate.Missing(t, "rootless containers need uid maps of their own; to run this test: sudo make e2e")
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "storage.conf")
	text := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(dir, "graph"), filepath.Join(dir, "run"))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "CONTAINERS_STORAGE_CONF="+conf, "STORAGE_DRIVER=vfs", "BUILDAH_ISOLATION=chroot", "TMPDIR="+dir)
	podman := func(args ...string) *exec.Cmd {
		cmd := program(t, "podman", "podman", args...)
		cmd.Env = env
		return cmd
	}
	t.Cleanup(func() {
		podman("rm", "--all", "--force").Run()
		podman("rmi", "--all", "--force").Run()
	})
	return podman
}

// filesBelow returns all that is no directory below one.
func filesBelow(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// serveContainer runs the container, carries a message each way, has look look
// at it and at what it said, and ends it as a runtime does: with SIGTERM, and
// status 0 behind a Close frame.
func serveContainer(t *testing.T, run *exec.Cmd, site *gate.Site, conns <-chan *wire.Conn, look func(log string)) {
	t.Helper()
	stderr, err := run.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	t.Cleanup(func() {
		if !ended {
			run.Process.Kill()
			run.Wait()
		}
	})
	var log strings.Builder
	addr := ""
	lines := bufio.NewScanner(stderr)
	for addr == "" && lines.Scan() {
		log.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), `"listener":"wss"`) {
			_, rest, _ := strings.Cut(lines.Text(), `"addr":"`)
			addr, _, _ = strings.Cut(rest, `"`)
		}
	}
	if addr == "" {
		err := run.Wait()
		ended = true
		t.Fatalf("%s: %v\n%s", run, err, log.String())
	}
	client := wire.Dial(t, addr, site.Client(name))
	upstream := wire.Take(t, conns)
	client.SendText("<message/>")
	upstream.WantText("<message/>")
	upstream.SendText("<presence/>")
	client.WantText("<presence/>")
	look(log.String())

	run.Process.Signal(syscall.SIGTERM) // podman passes it on
	client.WantClose(1001)
	client.Send(wire.CloseFrame(true, 1001, ""))
	for lines.Scan() {
		log.WriteString(lines.Text() + "\n")
	}
	err = run.Wait()
	ended = true
	if err != nil {
		t.Errorf("drained with %v; want status 0\n%s", err, log.String())
	}
}
