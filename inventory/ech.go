package inventory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"wssgate/certstore"
	"wssgate/config"
	"wssgate/ech"
	"wssgate/files"
)

// Names returns the names that are served, with or without a certificate.
func (inv *Inventory) Names() (names []string) {
	for _, s := range inv.Config.Served(inv.certificates) {
		names = append(names, s.Name)
	}
	return names
}

// ECHWarnings are what is wrong with ECH as it is configured.
func (inv *Inventory) ECHWarnings(ctx context.Context) (out []config.Warning) {
	cfg := inv.Config
	if !cfg.ECH.On() {
		return nil
	}
	if name := cfg.ECH.PublicName; !slices.ContainsFunc(inv.certificates, func(e certstore.Entry) bool {
		return e.Chosen && (e.Name == name || e.Name == config.WildcardFor(name))
	}) {
		out = append(out, config.Warning{Text: fmt.Sprintf("no certificate for ech.public_name %q; clients whose ECH record is out of date are refused", name),
			Hint: "put one into certificates.directory, or add the name to acme.names"})
	}
	_, problem, err := ech.Read(ctx, cfg.ECH.Keys, cfg.ECH.PublicName)
	if err == nil {
		err = problem
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !files.IsHang(err) {
		out = append(out, config.Warning{Text: fmt.Sprintf("ech: %v", err), Hint: "ech.keys must be a folder that the gate can read and write"})
	}
	return out
}
