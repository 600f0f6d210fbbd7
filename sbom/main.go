// Command sbom prints the software bill of materials of a Go program in CycloneDX 1.6, from
// what the linker wrote into it: the modules with their versions and checksums, and the Go
// release. Nothing else goes into a static binary. The same program gives the same output.
// It is for deploy/dist.sh, and no part of wssgate.
package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: sbom VERSION PROGRAM")
		os.Exit(2)
	}
	text, err := bill(os.Args[1], os.Args[2])
	if err == nil {
		_, err = os.Stdout.Write(text)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "sbom: %v\n", err)
		os.Exit(1)
	}
}

type document struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Licenses   []license  `json:"licenses,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type license struct {
	Expression string `json:"expression"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn,omitempty"`
}

// bill is the document for a program. A build leaves no trace of which module needs which:
// all are dependencies of the program.
func bill(version, program string) ([]byte, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	main := component{Type: "application", Ref: info.Main.Path, Name: info.Main.Path, Version: version,
		Licenses: []license{{"Apache-2.0"}}, Hashes: []hash{{"SHA-256", hex.EncodeToString(sum[:])}}}
	for _, s := range info.Settings {
		main.Properties = append(main.Properties, property{"go:" + s.Key, s.Value})
	}
	root := dependency{Ref: main.Ref}
	d := document{Format: "CycloneDX", Spec: "1.6", Version: 1, Metadata: metadata{main}}
	add := func(c component) {
		d.Components = append(d.Components, c)
		d.Dependencies = append(d.Dependencies, dependency{Ref: c.Ref})
		root.DependsOn = append(root.DependsOn, c.Ref)
	}
	release := strings.TrimPrefix(info.GoVersion, "go")
	std := "pkg:golang/std@" + release
	add(component{Type: "library", Ref: std, Name: "std", Version: release, PURL: std, Licenses: []license{{"BSD-3-Clause"}}})
	for _, m := range info.Deps {
		m = cmp.Or(m.Replace, m)
		c, err := library(m)
		if err != nil {
			return nil, err
		}
		add(c)
	}
	d.Dependencies = append([]dependency{root}, d.Dependencies...)
	text, err := json.MarshalIndent(d, "", "  ")
	return append(text, '\n'), err
}

// library is a module. Its checksum is that of go.sum: a SHA-256 over the files.
func library(m *debug.Module) (component, error) {
	purl := "pkg:golang/" + strings.ToLower(m.Path) + "@" + m.Version
	c := component{Type: "library", Ref: purl, Name: m.Path, Version: m.Version, PURL: purl}
	sum, ok := strings.CutPrefix(m.Sum, "h1:")
	raw, err := base64.StdEncoding.DecodeString(sum)
	if !ok || err != nil {
		return c, fmt.Errorf("%s %s: checksum %q", m.Path, m.Version, m.Sum)
	}
	c.Hashes = []hash{{"SHA-256", hex.EncodeToString(raw)}}
	return c, nil
}
