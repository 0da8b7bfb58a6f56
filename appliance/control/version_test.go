package control

import "testing"

// What git says of a build, with and without tags, becomes a version that begins with the release's.
func TestVersionNames(t *testing.T) {
	for said, want := range map[string]string{
		Release:                        Release,
		Release + "-dirty":             Release + "-dirty",
		Release + "-12-g0123abc":       Release + "-12-g0123abc",
		Release + "-12-g0123abc-dirty": Release + "-12-g0123abc-dirty",
		"0123abc":                      Release + "-0123abc", // no tag in reach, as in a shallow clone
		"0123abc-dirty":                Release + "-0123abc-dirty",
		"v0.0.1-7-g0123abc":            Release + "-0123abc", // the section is written, its tag not made
		Release + "1-7-g0123abc":       Release + "-0123abc",
		"devel":                        Release + "-devel",
	} {
		if got := name(said); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
}
