package config

import (
	"errors"
	"testing"
)

func TestClosest(t *testing.T) {
	values := []string{"names", "node", "directory", "dial_timeout", "path", "ping", "pong"}
	for word, want := range map[string]string{
		"nodes":       "node",
		"naems":       "names", // swapped letters
		"dir":         "directory",
		"dialTimeout": "dial_timeout",
		"DIAL-TIMEOT": "dial_timeout",
		"pign":        "ping",
		"x":           "",
		"":            "",
		"certificate": "",
		"éééé":        "",
	} {
		if got := Closest(word, values); got != want {
			t.Errorf("closest(%q) = %q, want %q", word, got, want)
		}
	}
}

// For a key that belongs in another table, the hint names that table.
func TestGuessOtherTable(t *testing.T) {
	for data, want := range map[string]string{
		small + "watch_config = true\n":               "it belongs at the top of the file, before the first table",
		small + "weight = 2\n":                        `it belongs in a node's table: nodes = [{ name = "t1", url = "ws://…" }]`,
		small + "[log]\ninterval = \"5s\"\n":          "it belongs in [upstream.NAME.health]",
		small + "[log]\norigins = []\n":               "it belongs in [[vhost]]",
		"message = 3\n" + small:                       "it belongs in [limits]",
		"hanshake = \"3s\"\n" + small:                 `did you mean "handshake"? It belongs in [timeouts]`,
		small + "[upstream.tigase.limits]\n":          "it belongs at the top of the file, before the first table",
		small + "[[vhost]]\nnames = \"a\"\nwss = 1\n": "it belongs in [listen]",
	} {
		_, err := parseString(data)
		ce, ok := errors.AsType[*Error](err)
		if !ok || len(ce.Mistakes) != 1 || ce.Mistakes[0].Hint != want {
			t.Errorf("%q: err = %v; want the hint %q", data, err, want)
		}
	}
}
