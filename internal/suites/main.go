// Command suites runs other people's test suites against their own servers twice: directly, and
// through a pair of appliances of which one is killed every few seconds. Both runs must give the
// same, test by test and file by file. `make suites` runs it; it needs root.
//
// It owns which suites there are, where their sources come from (Debian's source packages and one Go
// module, kept in --sources) and the comparison. Pair and networks are those of internal/pair
// and internal/lab.
//
//	main.go      flags, the order of things, the table
//	sources.go   fetching and unpacking
//	failover.go  the pair, and its failures
//	postgres.go  PostgreSQL's regression tests
//	redis.go     Redis' tests
//	http2.go     h2spec against nginx
//	rsync.go     rsync of many files
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
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

// suite is one of them.
type suite struct {
	name string
	says string
	// programs that must be installed, as lab.CheckPrograms has them.
	programs []string
	port     int
	// prepare fetches what is needed and starts the server on the host; dir is the suite's own.
	prepare func(ctx context.Context, r *runner, dir string) error
	// fresh starts the server anew before each run, where a run changes it. nil: no run does.
	fresh func(ctx context.Context, r *runner, dir string) error
	// play runs the client on a host against address:port, once, and returns what came of each test.
	play func(ctx context.Context, r *runner, host *lab.Host, address, dir string) (results, error)
}

// results by test.
type results map[string]string

func suites() []suite {
	return []suite{postgres(), redis(), http2(), rsync()}
}

// run of a suite, direct and through the pair.
type outcome struct {
	Suite      string            `json:"suite"`
	Version    string            `json:"version"`
	Tests      int               `json:"tests"`
	Passed     [2]int            `json:"passed"` // direct, through the pair
	Seconds    [2]float64        `json:"seconds"`
	Failovers  int               `json:"failovers"`
	Different  map[string]string `json:"different,omitempty"`
	NotPassed  map[string]string `json:"not_passed_directly,omitempty"`
	Unfinished string            `json:"error,omitempty"`
}

type options struct {
	self    string
	sources string
	keep    string
	only    string
	every   time.Duration
	files   int
	json    bool
}

func main() {
	lab.Main(pair.Roles())
	var o options
	flag.StringVar(&o.self, "lockstep", "bin/lockstep", "the program under test")
	flag.StringVar(&o.sources, "sources", "/var/tmp/lockstep-suites", "where sources are kept")
	flag.StringVar(&o.keep, "out", "", "keep logs and outputs below this directory")
	flag.StringVar(&o.only, "only", "", "only these suites, separated by commas: "+names())
	flag.DurationVar(&o.every, "every", 3*time.Second, "the active is killed so long after the pair was in sync")
	flag.IntVar(&o.files, "files", 50_000, "of rsync")
	flag.BoolVar(&o.json, "json", false, "print the outcome as JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ok, err := execute(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "suites:", err)
	}
	if err != nil || !ok {
		stop()
		os.Exit(1)
	}
}

func names() string {
	var list []string
	for _, s := range suites() {
		list = append(list, s.name)
	}
	return strings.Join(list, ", ")
}

func execute(ctx context.Context, o options) (ok bool, err error) {
	if o.self, err = filepath.Abs(o.self); err != nil {
		return false, err
	}
	if err := os.MkdirAll(o.sources, 0o755); err != nil {
		return false, err
	}
	var chosen []suite
	for _, s := range suites() {
		if o.only == "" || slices.Contains(strings.Split(o.only, ","), s.name) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return false, fmt.Errorf("no suite is called %q (there are %s)", o.only, names())
	}
	ok = true
	var all []outcome
	for _, s := range chosen {
		out := runSuite(ctx, s, o)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		all = append(all, out)
		ok = ok && out.good()
		if !o.json {
			out.print()
		}
	}
	if o.json {
		return ok, json.NewEncoder(os.Stdout).Encode(all)
	}
	return ok, nil
}

// runSuite runs a suite directly, then through the pair.
func runSuite(ctx context.Context, s suite, o options) outcome {
	out := outcome{Suite: s.name}
	fail := func(err error) outcome {
		out.Unfinished = err.Error()
		return out
	}
	if err := lab.CheckPrograms(s.programs...); err != nil {
		return fail(err)
	}
	say("%s: %s", s.name, s.says)
	r, err := newRunner(ctx, s, o)
	if err != nil {
		return fail(err)
	}
	defer r.close()
	var got [2]results
	for i, way := range []string{"directly", "through the pair"} {
		dir, err := r.subdir([]string{"direct", "pair"}[i])
		if err != nil {
			return fail(err)
		}
		if s.fresh != nil {
			if err := s.fresh(ctx, r, dir); err != nil {
				return fail(err)
			}
		}
		begin := time.Now()
		if i == 0 {
			got[i], err = s.play(ctx, r, r.pair.Servers[1], r.pair.ServerAddr(0, false, 0).Addr().String(), dir)
		} else {
			got[i], err = r.underFailovers(ctx, func(ctx context.Context) (results, error) {
				return s.play(ctx, r, r.pair.Client, lab.VIP4, dir)
			})
		}
		out.Seconds[i] = time.Since(begin).Seconds()
		say("%s %s: %d tests, %d passed, %.0f s, %d failovers %s", s.name, way, len(got[i]), got[i].passed(), out.Seconds[i], r.failovers, orNothing(err))
		if err != nil {
			return fail(fmt.Errorf("%s: %w", way, err))
		}
	}
	out.Version, out.Failovers = r.version, r.failovers
	out.compare(got)
	return out
}

func orNothing(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// passed as far as tests pass or fail; of others it is what there is.
const passedWord = "ok"

func (r results) passed() (n int) {
	for _, s := range r {
		if s == passedWord || len(s) == 64 { // a digest
			n++
		}
	}
	return n
}

func (o *outcome) compare(got [2]results) {
	o.Different, o.NotPassed = map[string]string{}, map[string]string{}
	all := maps.Clone(got[0])
	maps.Copy(all, got[1])
	o.Tests = len(all)
	for i := range got {
		o.Passed[i] = got[i].passed()
	}
	for name := range all {
		direct, through := got[0][name], got[1][name]
		if direct != through {
			o.Different[name] = fmt.Sprintf("directly %q, through the pair %q", direct, through)
		} else if direct != passedWord && len(direct) != 64 {
			o.NotPassed[name] = direct
		}
	}
}

func (o *outcome) good() bool {
	return o.Unfinished == "" && o.Tests > 0 && o.Failovers > 0 && len(o.Different) == 0
}

func (o *outcome) print() {
	verdict := "EQUAL"
	if !o.good() {
		verdict = "DIFFERENT"
	}
	if o.Unfinished != "" {
		fmt.Printf("%s: NOT FINISHED: %s\n", o.Suite, o.Unfinished)
		return
	}
	fmt.Printf("%s %s: %s: %d tests, passed %d directly (%.0f s) and %d through the pair (%.0f s), %d failovers\n", o.Suite, o.Version, verdict,
		o.Tests, o.Passed[0], o.Seconds[0], o.Passed[1], o.Seconds[1], o.Failovers)
	for _, list := range []struct {
		title string
		of    map[string]string
	}{{"different", o.Different}, {"not passed, either way", o.NotPassed}} {
		for i, name := range slices.Sorted(maps.Keys(list.of)) {
			if i == 40 {
				fmt.Printf("  ... and %d more\n", len(list.of)-i)
				break
			}
			fmt.Printf("  %s: %s: %s\n", list.title, name, list.of[name])
		}
	}
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
