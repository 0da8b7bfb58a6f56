package main

import (
	"os"
	"testing"

	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/internal/pair"
)

func TestMain(m *testing.M) {
	lab.Main(pair.Roles())
	os.Exit(m.Run())
}

// A few peers through two faults: one that nobody may notice, and one that all must be told of.
func TestFewPeers(t *testing.T) {
	labtest.RequireRoot(t)
	labtest.RequirePrograms(t, "nginx:nginx-light", "curl:curl", "openssl:openssl")
	var few []peer
	for _, p := range peers() {
		if p.script == "nginx" {
			few = append(few, p)
		}
	}
	cells, err := runModes(t.Context(), options{}, gatewayModes, []fault{faults[0], faults[len(faults)-1]}, few)
	if err != nil {
		t.Fatal(err)
	}
	if len(cells) != 2*2*len(few) {
		t.Errorf("%d results", len(cells))
	}
	for _, c := range cells {
		want := unnoticed
		if c.Fault == "server" {
			want = noticed
		}
		if c.Result != want {
			t.Errorf("%+v, not %s", c, want)
		}
	}
}
