// Command bench runs whole gates side by side: wssgate, and nginx and HAProxy
// where they are installed. It prints a markdown table.
//
//	go run . [-run REGEXP] [-gates wssgate,nginx,haproxy] [-rounds 3]
//
// README.md beside this file says what each figure is. Only ratios within one
// run mean anything: the clients, the upstream and the gate share one machine.
//
// The program is the clients. It starts each gate with an upstream of its own,
// which is this program again as a child: a process may have 20,000
// descriptors, and a gate needs two for a connection.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"
)

var (
	runFlag    = flag.String("run", ".", "only measures whose name matches this `regexp`")
	gatesFlag  = flag.String("gates", "wssgate,nginx,haproxy", "what to measure; NAME=PATH is another wssgate binary")
	rounds     = flag.Int("rounds", 3, "how often each is measured; the table has the median")
	idleCount  = flag.Int("idle", 5000, "idle: connections, at most 9000")
	stormCount = flag.Int("storm", 5000, "storm: clients, at most 9000")
	seconds    = flag.Float64("seconds", 2, "trips, fixed, reload: how long each gate is busy in a round")
	settle     = flag.Duration("settle", 10*time.Second, "idle: wait before memory is read")
	churnCount = flag.Int("churn", 1000, "churn: connections of each kind in a round")
	postQ      = flag.Bool("mlkem", false, "clients offer X25519MLKEM768 too, which OpenSSL has since 3.5")
	keep       = flag.Bool("keep", false, "keep the directory with configurations and logs")
	quick      = flag.Bool("quick", false, "a fiftieth of the clients, one round, no waits: shows that all runs; its figures say nothing")
	level      = flag.String("level", "warn", "log.level of wssgate; with -keep, to find out what went wrong")
	upstreamOn = flag.Bool("upstream", false, "internal: be an upstream")
)

// maxClients is what one process can hold, with room for its own files.
const maxClients = 9000

func main() {
	flag.Parse()
	if *upstreamOn {
		serveUpstream()
		return
	}
	if err := bench(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench() error {
	only, err := regexp.Compile(*runFlag)
	if err != nil {
		return err
	}
	if *idleCount > maxClients || *stormCount > maxClients || *rounds < 1 || *rounds > 20 || *seconds > 60 {
		return errors.New("too much: at most 9000 clients, 20 rounds, 60 seconds")
	}
	if *quick {
		*idleCount, *stormCount, *churnCount = clients(*idleCount), clients(*stormCount), clients(*churnCount)
		*rounds, *seconds, *settle = 1, 0.2, 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b, err := newBench(ctx, *gatesFlag)
	if err != nil {
		return err
	}
	defer b.close()
	t := newTable(b.names())
	defer func() { t.print(os.Stdout) }() // what there is, also after an error
	for _, m := range measures() {
		if !only.MatchString(m.name) {
			continue
		}
		for round := range *rounds {
			// Each round begins with another gate, so that none is always
			// measured while the machine is still warm from the same one.
			for i := range b.kinds {
				k := b.kinds[(i+round)%len(b.kinds)]
				if err := ctx.Err(); err != nil {
					return err
				}
				fmt.Fprintf(os.Stderr, "%s, round %d: %s\n", m.name, round+1, k.name)
				figures, err := b.measure(k, m)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", m.name, k.name, err)
				}
				for _, f := range figures {
					t.add(f.what, k.name, f.value, f.digits)
				}
			}
			if m.once {
				break
			}
		}
	}
	return nil
}

// measure starts a gate of kind k for m, and ends it.
func (b *benchRun) measure(k kind, m measure) ([]figure, error) {
	g, err := b.start(k, m.files)
	if err != nil {
		return nil, err
	}
	defer g.stop()
	// Whatever a process makes once belongs to no connection.
	warm, err := g.connect(b.ctx, 16, false)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, g.lastWords())
	}
	if err := warm.burst(make16K()); err != nil {
		return nil, err
	}
	warm.close()
	time.Sleep(300 * time.Millisecond)
	figures, err := m.run(b.ctx, g)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, g.lastWords())
	}
	return figures, err
}

// A measure is one experiment with one fresh gate.
type measure struct {
	name  string
	once  bool // one round tells all
	files int  // descriptors that the gate may have; 0: what the machine gives
	run   func(ctx context.Context, g *gate) ([]figure, error)
}

// A figure is one line of the table.
type figure struct {
	what   string
	value  float64
	digits int
}

// A table collects figures; a cell is the median of its rounds.
type table struct {
	columns []string
	rows    []string
	cells   map[string][]float64 // by row and column
	digits  map[string]int
}

func newTable(columns []string) *table {
	return &table{columns: columns, cells: map[string][]float64{}, digits: map[string]int{}}
}

func (t *table) add(row, column string, value float64, digits int) {
	if !slices.Contains(t.rows, row) {
		t.rows = append(t.rows, row)
	}
	t.digits[row] = digits
	t.cells[row+"\x00"+column] = append(t.cells[row+"\x00"+column], value)
}

func (t *table) print(w *os.File) {
	fmt.Fprintf(w, "| | %s |\n|---|%s\n", strings.Join(t.columns, " | "), strings.Repeat("---|", len(t.columns)))
	for _, row := range t.rows {
		fmt.Fprintf(w, "| %s |", row)
		for _, column := range t.columns {
			values := t.cells[row+"\x00"+column]
			if len(values) == 0 {
				fmt.Fprint(w, " – |")
				continue
			}
			fmt.Fprintf(w, " %.*f |", t.digits[row], median(values))
		}
		fmt.Fprintln(w)
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
