package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// A file with too many mistakes is refused with the first of them. Each mistake
// needs a search for its hint, and a running gate reads the file, too.
func TestMistakesAreBounded(t *testing.T) {
	var keys, nodes strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&keys, "conections%d = 1\n", i)
		fmt.Fprintf(&nodes, "  { name = %d, url = \"ws://127.0.0.1:%d/\" },\n", i, i+1)
	}
	for name, data := range map[string]string{
		"keys":   small + keys.String(),
		"values": "[upstream.t]\nnodes = [\n" + nodes.String() + "]\n",
	} {
		_, err := parseString(data)
		ce, ok := errors.AsType[*Error](err)
		if !ok || len(ce.Mistakes) != maxMistakes+1 {
			t.Fatalf("%s: %.200v; want %d mistakes and a word about the others", name, err, maxMistakes)
		}
		if last := ce.Mistakes[maxMistakes]; last.String() != "there are more mistakes; 100 are listed" {
			t.Errorf("%s: the last one is %q", name, last)
		}
	}
}

// Messages stay short, whatever the file contains.
func TestMistakesAreShort(t *testing.T) {
	long := strings.Repeat("ä", 1<<20)
	for what, data := range map[string]string{
		"key":     small + "\"" + long + "\" = 1\n",
		"value":   small + "[log]\nlevel = \"" + long + "\"\n",
		"name":    small + "[[vhost]]\nnames = \"" + long + "\"\nupstream = \"" + long + "\"\n",
		"no TOML": small + long,
	} {
		_, err := parseString(data)
		if err == nil || len(err.Error()) > 8<<10 || !strings.Contains(err.Error(), "config.toml") {
			t.Errorf("%s: %d bytes of error, %.100v", what, len(fmt.Sprint(err)), err)
		}
	}
}
