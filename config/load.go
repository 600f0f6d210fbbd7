package config

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"wssgate/files"
)

// MaxFile bounds the file in bytes. It is far above the size for ten thousand
// vhosts, and stops the reading of a device, for example.
const MaxFile = 16 << 20

// startFilesPatience bounds how long a start, or a command, waits for the
// configuration and the files that it names. It is long enough for a pipe from
// a program that queries a server, and short enough for an operator to notice.
const startFilesPatience = 20 * time.Second

// ErrNotRead is wrapped by the error of a Load that has stopped waiting for a
// file.
var ErrNotRead = errors.New("not read in time")

type notReadError struct{ error }

func (e *notReadError) Unwrap() error { return e.error }
func (*notReadError) HintText() string {
	return "is the file system mounted? is it a pipe without a writer? start the gate again when it answers"
}

// Load reads, decodes and checks a configuration file. Mistakes in the file,
// and errors of reading it, are an *Error that lists all of them.
//
// It reads only the file itself and the small files that it names: CAs, client
// certificates, tokens and access lists. Package certstore reads the
// certificates. The file may be a pipe (check -config <(…)).
//
// If a file cannot be read yet, Load logs this and waits until ctx ends, or for
// startFilesPatience, and then returns ErrNotRead. Without an access list everybody
// could connect, and without the token anybody could use the admin page.
func Load(ctx context.Context, file string) (*Config, error) { return load(ctx, file, Parse) }

// LoadToServe is Load for a gate, which does not wait for files that close no door:
// those for upstreams and for CAs. Reload tries them again; until then nothing is
// connected that needs them. See Config.Unread, Back and Leave.
func LoadToServe(ctx context.Context, file string) (*Config, error) {
	return load(ctx, file, func(file string, data []byte) (*Config, error) {
		var all []*unread
		cfg, err := parse(file, data, func(c *Config) []*unread {
			all = newUnread(c.deferrable())
			return all
		})
		for _, u := range all {
			if err != nil || !slices.Contains(cfg.unread, u) {
				u.place.Leave()
			}
		}
		return cfg, err
	})
}

func load(ctx context.Context, file string, parse parser) (*Config, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startFilesPatience, ErrNotRead)
	defer cancel()
	cfg, err := files.Await(ctx, Place, func() (*Config, error) {
		data, err := Place.ReadStream(file, MaxFile)
		return parseWhatWasRead(file, data, err, parse)
	})
	if errors.Is(err, ErrNotRead) {
		if hang := Place.Hangs(); hang != nil {
			err = fmt.Errorf("configuration: %w: %w", err, hang)
		}
		err = &notReadError{err}
	}
	return cfg, err
}

// Reload is Load for the gate that runs c, from the same file. It accepts only regular
// files, and fails if the file system hangs, except for files that c has not read either.
// It always calls read with the sum of the file. The caller uses c.Leave if it takes the
// result.
//
// patient repeats a reload that was too slow: nobody waits for this one, so it may take
// as long as a start. Otherwise a slow disk would fail every time.
func (c *Config) Reload(ctx context.Context, patient bool, read func(sum [sha256.Size]byte)) (*Config, error) {
	file := c.File
	again := func(file string, data []byte) (*Config, error) {
		return parse(file, data, func(next *Config) []*unread {
			files := next.deferrable()
			return slices.DeleteFunc(slices.Clone(c.unread), func(u *unread) bool { return !slices.Contains(files, u.file) })
		})
	}
	do := files.Do[*Config]
	if patient {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startFilesPatience)
		defer cancel()
		do = files.AwaitUntil[*Config]
	}
	cfg, err := do(ctx, Place, func() (*Config, error) {
		data, err := Place.Read(file, MaxFile)
		read(Sum(data, err))
		return parseWhatWasRead(file, data, err, again)
	})
	if errors.Is(err, files.ErrHangs) {
		err = &Error{file, []Mistake{{Text: err.Error(), Hint: "is the file system mounted? it is read again when it answers", err: err}}}
	}
	return cfg, err
}

// A parser is Parse or a variant of it.
type parser func(file string, data []byte) (*Config, error)

func parseWhatWasRead(file string, data []byte, err error, parse parser) (*Config, error) {
	if err != nil {
		m := Mistake{Text: cause(err).Error()}
		if errors.Is(err, fs.ErrNotExist) {
			m.Hint = "name the file with -config FILE; config.toml.example has every key"
		}
		return nil, &Error{file, []Mistake{m}}
	}
	return parse(file, data)
}

// cause strips the operation and the file name from an error of package os,
// because the message around it already names the file.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// Parse is Load for data that has already been read. file appears in messages,
// and relative paths are relative to its folder.
func Parse(file string, data []byte) (*Config, error) {
	return parse(file, data, func(*Config) []*unread { return nil })
}

// parse is Parse, and goes on without those of mayHang that hang.
func parse(file string, data []byte, mayHang func(*Config) []*unread) (*Config, error) {
	if m, ok := notText(data); ok {
		return nil, &Error{file, []Mistake{m}}
	}
	var tree map[string]any
	meta, err := toml.Decode(string(data), &tree)
	if err != nil {
		return nil, &Error{file, []Mistake{syntaxMistake(string(data), err)}}
	}

	var ms mistakes
	cfg := &Config{File: file, Sum: sha256.Sum256(data), left: make(chan struct{})}
	d := decoder{mistakes: &ms, base: filepath.Dir(file)}
	d.decode(tree, cfg)
	cfg.unread = ms.readAll(mayHang(cfg))
	cfg.check(&ms)
	cfg.Files, cfg.unreadErrs = ms.files, ms.unread
	if len(ms.list) > 0 {
		ms.sort(meta.Keys(), tree)
		if ms.more {
			ms.list = append(ms.list, Mistake{Text: fmt.Sprintf("there are more mistakes; %d are listed", maxMistakes)})
		}
		return nil, &Error{file, ms.list}
	}
	return cfg, nil
}

// notText finds the first byte that is not UTF-8. The library reports it, too,
// but calls UTF-16 a syntax error.
func notText(data []byte) (Mistake, bool) {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return Mistake{Text: "is UTF-16; UTF-8 is required"}, true
	}
	if utf8.Valid(data) {
		return Mistake{}, false
	}
	line := 1
	for rest := data; ; {
		r, n := utf8.DecodeRune(rest)
		if r == utf8.RuneError && n == 1 {
			return Mistake{
				Key:  fmt.Sprintf("line %d", line),
				Text: fmt.Sprintf("is not UTF-8: byte 0x%02x", rest[0]),
			}, true
		}
		if r == '\n' {
			line++
		}
		rest = rest[n:]
	}
}

// syntaxMistake reports where data is not valid TOML, with a caret.
func syntaxMistake(data string, err error) Mistake {
	pe, ok := errors.AsType[toml.ParseError](err)
	if !ok {
		return Mistake{Text: err.Error()}
	}
	m := Mistake{Text: lowerFirst(strings.TrimRight(pe.Message, "."))}
	m.Key, m.Excerpt = place(data, pe.Position.Start, pe.Position.Len)
	line := m.Excerpt[:strings.LastIndexByte(m.Excerpt, '\n')]
	m.Hint = syntaxHint(data, line[strings.LastIndex(line, " | ")+len(" | "):])
	return m
}

// place returns the line and column of n bytes in data, and an excerpt with a
// caret and up to two preceding lines. The library does both, but is one line
// off at the start and end of a line.
func place(data string, start, n int) (name, excerpt string) {
	data = strings.TrimPrefix(data, "\ufeff") // the library does not count it
	start = min(max(start, 0), len(data))     // the library sometimes says -1
	lines := strings.Split(data, "\n")
	line := strings.Count(data[:start], "\n")
	before := data[strings.LastIndexByte(data[:start], '\n')+1 : start]
	rest := lines[line][len(before):]
	marked := rest[:min(n, len(rest))] // empty at the end of the line

	var b strings.Builder
	for i := max(line-2, 0); i <= line; i++ {
		fmt.Fprintf(&b, "%7d | %s\n", i+1, strings.TrimSuffix(lines[i], "\r"))
	}
	b.WriteString(strings.Repeat(" ", len("1234567 | ")))
	for _, r := range before { // keep tabs, so that the caret is in the right place
		if r != '\t' {
			r = ' '
		}
		b.WriteRune(r)
	}
	b.WriteString(strings.Repeat("^", max(utf8.RuneCountInString(marked), 1)))
	return fmt.Sprintf("line %d, column %d", line+1, utf8.RuneCountInString(before)+1), b.String()
}

func lowerFirst(s string) string {
	if s == "" || strings.HasPrefix(s, "TOML") {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
