package appliance

import "testing"

func TestKnownLoss(t *testing.T) {
	for want, known := range map[string]map[string]int{
		"how many is not known: this appliance has seen none of them": nil,
		"0 when this appliance last knew":                             {},
		"12 when this appliance last knew (2 of db, 10 of web)":       {"web": 10, "db": 2},
	} {
		if got := (&lossReport{Known: known}).known(); got != want {
			t.Errorf("%v: %q, want %q", known, got, want)
		}
	}
}
