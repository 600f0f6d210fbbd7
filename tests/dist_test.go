package tests

import (
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wssgate/tests/internal/gate"
)

// make dist makes the same files in two folders, of the last commit. What one has compiled
// the other takes from Go's cache, where nothing of it depends on the folder. The package
// for Debian is installed, serves, reloads, and is upgraded and purged; the one for RPM
// would be installed.
func TestDist(t *testing.T) {
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	dist := func(name string) string {
		clone := filepath.Join(dir, name)
		succeed(t, exec.Command("git", "clone", "-q", root, clone))
		cmd := exec.Command("make", "-s", "dist", "PLATFORMS=linux/amd64", "BIN="+filepath.Join(root, "build/bin"))
		cmd.Dir = clone
		succeed(t, cmd)
		return clone
	}
	first := dist("first")
	second := dist("second")
	sums := readFile(t, filepath.Join(first, "build/dist/SHA256SUMS"))
	if again := readFile(t, filepath.Join(second, "build/dist/SHA256SUMS")); again != sums {
		t.Errorf("two builds have the checksums\n%s\nand\n%s", sums, again)
	}
	verify := exec.Command("sha256sum", "-c", "--quiet", "SHA256SUMS")
	verify.Dir = filepath.Join(first, "build/dist")
	succeed(t, verify)
	file := func(pattern string) string {
		files, err := filepath.Glob(filepath.Join(first, "build/dist", pattern))
		if err != nil || len(files) != 1 || !strings.Contains(sums, "  "+filepath.Base(files[0])+"\n") {
			t.Fatalf("%s: %q, %v; want one, with a checksum in\n%s", pattern, files, err, sums)
		}
		return files[0]
	}

	t.Run("tarball and SBOM", func(t *testing.T) {
		succeed(t, exec.Command("tar", "-C", dir, "-xzf", file("*.tar.gz")))
		programs, _ := filepath.Glob(filepath.Join(dir, "wssgate-*/wssgate"))
		if len(programs) != 1 {
			t.Fatalf("the tarball has the programs %q", programs)
		}
		info, err := buildinfo.ReadFile(programs[0])
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"std " + strings.TrimPrefix(info.GoVersion, "go")}
		for _, m := range info.Deps {
			want = append(want, m.Path+" "+m.Version)
		}
		var bill struct {
			Components []struct{ Name, Version string }
		}
		if err := json.Unmarshal([]byte(readFile(t, file("*.cdx.json"))), &bill); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range bill.Components {
			got = append(got, c.Name+" "+c.Version)
		}
		if !slices.Equal(got, want) {
			t.Errorf("the SBOM has %q; want %q", got, want)
		}
	})

	t.Run("rpm", func(t *testing.T) {
		list := succeed(t, program(t, "rpm", "rpm", "-qpl", file("*.rpm")))
		for _, want := range []string{"/usr/bin/wssgate", "/etc/wssgate/config.toml", "/usr/lib/systemd/system/wssgate.service", "/usr/share/man/man1/wssgate.1.gz"} {
			if !strings.Contains(list, want+"\n") {
				t.Errorf("the package has no %s in\n%s", want, list)
			}
		}
		succeed(t, program(t, "rpm", "rpm", "-i", "--test", "--nodeps", "--dbpath", t.TempDir(), file("*.rpm")))
	})

	t.Run("deb", func(t *testing.T) {
		if os.Geteuid() != 0 {
			gate.Missing(t, "only root installs packages; to run this test: sudo make e2e")
		}
		// The next release has another example, so that dpkg has to choose.
		example := filepath.Join(first, "config.toml.example")
		if err := os.WriteFile(example, []byte(readFile(t, example)+"\n# Of the next release.\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		programs, _ := filepath.Glob(filepath.Join(first, "build/stage/linux-amd64/*/wssgate"))
		next := exec.Command(filepath.Join(root, "build/bin/nfpm"), "package", "-f", "deploy/package/nfpm.yaml", "-p", "deb", "-t", dir)
		next.Dir = first
		next.Env = append(os.Environ(), "VERSION=99.0.0", "ARCH=amd64", "STAGE=build/stage", "PROGRAM="+programs[0])
		succeed(t, next)
		// A machine of its own: what this one has, with changes that nobody keeps.
		install := program(t, "unshare", "util-linux", "--mount", "--propagation", "private", "bash", "testdata/package.sh",
			t.TempDir(), file("*.deb"), filepath.Join(dir, "wssgate_99.0.0_amd64.deb"))
		out, err := install.CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), "all is well\n") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}
