// Command peers runs real servers with their real clients through a pair of appliances, and lets faults come while all
// clients are in the middle of something: the active dies, hands over, both die in turn, the server dies. What each client
// makes of it, by its exit status and by its results, becomes docs/services.json, and the table in docs/services.md.
// `make services` runs it; it needs root.
//
// It owns which peers there are, how each is run (scripts), and the verdict. Pair and networks are those of
// internal/pair and internal/lab.
//
//	main.go    flags, the order of things
//	peers.go   the peers
//	scripts/   how a server is run, and what its client does
//	bed.go     servers and pair in the lab
//	faults.go  what happens
//	play.go    clients through a fault, and the verdict
//	table.go   the file of results, and the page's table
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

//go:embed scripts
var scripts embed.FS

type options struct {
	self   string
	keep   string
	only   string
	modes  string
	page   string
	file   string
	batch  int
	dryRun bool
	render bool
}

func main() {
	lab.Main(pair.Roles())
	var o options
	flag.StringVar(&o.self, "lockstep", "bin/lockstep", "the program under test")
	flag.StringVar(&o.keep, "out", "", "keep logs and what clients have got below this directory")
	flag.StringVar(&o.only, "only", "", "only peers with these scripts, separated by commas; the others' results stay")
	flag.StringVar(&o.modes, "modes", "gateway,kept", "gateway: by both paths; kept: log and hot")
	flag.StringVar(&o.file, "results", "docs/services.json", "the file of results")
	flag.StringVar(&o.page, "page", "docs/services.md", "the page with the table")
	flag.IntVar(&o.batch, "batch", 7, "so many peers at a time")
	flag.BoolVar(&o.dryRun, "n", false, "write nothing")
	flag.BoolVar(&o.render, "render", false, "only put the table of what is in the file of results into the page")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := execute(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		stop()
		os.Exit(1)
	}
}

func execute(ctx context.Context, o options) (err error) {
	if o.self, err = filepath.Abs(o.self); err != nil {
		return err
	}
	var chosen []peer
	for _, p := range peers() {
		if o.only == "" || slices.Contains(strings.Split(o.only, ","), p.script) {
			chosen = append(chosen, p)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no peer has a script %q", o.only)
	}
	r, err := readResults(o.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var failed error
	if o.render {
		chosen = nil
		if err := r.write(o.file, o.page); err != nil {
			return err
		}
	}
	for batch := range slices.Chunk(chosen, o.batch) {
		cells, err := runBatch(ctx, o, batch)
		failed = errors.Join(failed, err)
		r.put(batch, cells)
		if !o.dryRun {
			if err := r.write(o.file, o.page); err != nil {
				return err
			}
		}
	}
	return errors.Join(failed, r.faults())
}

// runBatch tries some peers in all modes and faults.
func runBatch(ctx context.Context, o options, batch []peer) (cells []cell, failed error) {
	for _, kind := range strings.Split(o.modes, ",") {
		switch kind {
		case "gateway":
			c, err := runModes(ctx, o, gatewayModes, faults, batch)
			cells, failed = append(cells, c...), errors.Join(failed, err)
		case "kept":
			tried := slices.DeleteFunc(slices.Clone(batch), func(p peer) bool { return !p.kept })
			for _, m := range keptModes {
				if len(tried) == 0 {
					break
				}
				c, err := runModes(ctx, o, []mode{m}, keptFaults, tried)
				cells = append(cells, c...)
				failed = errors.Join(failed, err)
			}
		default:
			return nil, fmt.Errorf("--modes: %q is neither gateway nor kept", kind)
		}
	}
	return cells, failed
}

func runModes(ctx context.Context, o options, modes []mode, faults []fault, batch []peer) (cells []cell, err error) {
	b, unfit, err := newBed(ctx, o, modes, batch)
	if err != nil {
		return nil, err
	}
	defer b.close(o)
	for name, why := range unfit {
		say("%s: %v", name, why)
		for _, m := range modes {
			for _, f := range faults {
				cells = append(cells, cell{Peer: name, Mode: m.name, Fault: f.name, Result: notTried, How: "its server does not start"})
			}
		}
	}
	for i, f := range faults {
		c, err := b.round(ctx, f, i)
		cells = append(cells, c...)
		if err != nil {
			return cells, err
		}
	}
	return cells, nil
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
