package script

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

var only = flag.String("script", "", "play only this script")

// later picks a step after step i, of n that are left; 0 if there is none.
func later(i, n int) int {
	if n == 0 {
		return 0
	}
	return 1 + int(uint32(i+1)*2654435761>>16)%n // Knuth's multiplicative hash
}

// variants are all runs of a script: plainly, with a takeover before every step, at
// once or when everything has come to rest, and with a standby that joins after that
// takeover and takes over in its turn before a later step.
func (s *script) variants() (all []run) {
	for _, f := range s.Families {
		all = append(all, run{V6: f == 6, Before: -1})
		if !s.Takeovers || (testing.Short() && f == 6) {
			continue
		}
		for i := range len(s.Steps) + 1 {
			again := i + later(i, len(s.Steps)-i)
			all = append(all, run{V6: f == 6, Before: i}, run{V6: f == 6, Before: i, Settled: true},
				run{V6: f == 6, Before: i, Again: again})
			park := run{V6: f == 6, Before: i, Park: true}
			if (i%2 == 0) != park.V6 {
				park.Again = again
			}
			all = append(all, park)
		}
	}
	return all
}

func (r run) name() string {
	f := "v4"
	if r.V6 {
		f = "v6"
	}
	switch {
	case r.Park && r.Again > 0:
		return fmt.Sprintf("%s/park-%02d-takeover-%02d", f, r.Before, r.Again)
	case r.Park:
		return fmt.Sprintf("%s/park-%02d", f, r.Before)
	case r.Before < 0:
		return f + "/plain"
	case r.Again > 0:
		return fmt.Sprintf("%s/takeover-%02d-again-%02d", f, r.Before, r.Again)
	case r.Settled:
		return fmt.Sprintf("%s/takeover-%02d-settled", f, r.Before)
	}
	return fmt.Sprintf("%s/takeover-%02d", f, r.Before)
}

// Many runs wait for a timer of netstack's at some point, so that more of them run
// at the same time than there are processors.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f != nil && f.Value.String() == f.DefValue {
		_ = f.Value.Set(strconv.Itoa(max(8, runtime.GOMAXPROCS(0))))
	}
	os.Exit(m.Run())
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts: %d, %v", len(files), err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".txt")
		if *only != "" && *only != name {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s, err := parse(name, string(text))
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, v := range s.variants() {
				t.Run(v.name(), func(t *testing.T) {
					t.Parallel()
					if err := s.play(v); err != nil {
						t.Errorf("%s %s: %v", s.Name, v.name(), err)
					}
				})
			}
		})
	}
}
