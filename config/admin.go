package config

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"wssgate/files"
)

// An AdminListener is the address at which a gate serves its operator.
type AdminListener struct {
	File    string // the configuration file
	Address string // as listen.admin; "": off
	Token   string // "": no token is required
}

// LoadAdmin reads only the admin listener from a configuration file, and waits
// as Load does. Mistakes elsewhere in the file do not matter: a running gate
// must be reachable while its file is being edited.
func LoadAdmin(ctx context.Context, file string) (AdminListener, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startFilesPatience, ErrNotRead)
	defer cancel()
	return files.Await(ctx, Place, func() (AdminListener, error) {
		data, err := Place.ReadStream(file, MaxFile)
		if err != nil {
			_, err = parseWhatWasRead(file, nil, err, Parse)
			return AdminListener{}, err
		}
		return parseAdmin(file, data)
	})
}

func parseAdmin(file string, data []byte) (AdminListener, error) {
	if m, ok := notText(data); ok {
		return AdminListener{}, &Error{file, []Mistake{m}}
	}
	var tree map[string]any
	if _, err := toml.Decode(string(data), &tree); err != nil {
		return AdminListener{}, &Error{file, []Mistake{syntaxMistake(string(data), err)}}
	}
	var ms mistakes
	cfg := &Config{File: file}
	d := decoder{mistakes: &ms, base: filepath.Dir(file)}
	part := map[string]any{}
	if table, ok := tree["listen"]; ok {
		part["listen"] = table
	}
	d.decode(part, cfg)
	cfg.Listen.check(&ms, keyPath{}.key("listen"), file)
	ms.list = slices.DeleteFunc(ms.list, func(m Mistake) bool { return m.where != "listen" && !strings.HasPrefix(m.Key, "listen.admin") })
	if len(ms.list) > 0 {
		return AdminListener{}, &Error{file, ms.list}
	}
	return AdminListener{file, cfg.Listen.Admin, strings.TrimSpace(string(ms.files[cfg.Listen.AdminTokenFile]))}, nil
}
