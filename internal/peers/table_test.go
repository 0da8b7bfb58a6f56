package main

import (
	"os"
	"slices"
	"testing"
)

const (
	resultsFile = "../../docs/services.json"
	page        = "../../docs/services.md"
)

// The page's table is the one that the file of results makes.
func TestPageHasResults(t *testing.T) {
	r, err := readResults(resultsFile)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	want, err := r.mend(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if want != string(text) {
		t.Errorf("%s is not what %s makes of it: run make services, or mend the one that was edited by hand", page, resultsFile)
	}
}

// Every peer was tried in every way, and what a gateway is for was unnoticed by all.
func TestResultsAreWhole(t *testing.T) {
	r, err := readResults(resultsFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.faults(); err != nil {
		t.Error(err)
	}
	for _, p := range peers() {
		for _, name := range p.debian() {
			if r.Versions[name] == "" {
				t.Errorf("the version of %s is not in the file", name)
			}
		}
		for _, w := range p.ways() {
			if !slices.ContainsFunc(r.Cells, func(c cell) bool { return c.Peer == p.Name && c.Mode == w.mode && c.Fault == w.fault }) {
				t.Errorf("%s under %s was not tried with the fault %s", p.Name, w.mode, w.fault)
			}
		}
	}
}
