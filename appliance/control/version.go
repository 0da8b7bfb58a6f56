package control

import (
	"runtime/debug"
	"strings"
)

// Release is the newest version that CHANGELOG.md has a section of. It is a constant, and not what
// git says alone, since a shallow clone and an archive have no tags.
const Release = "v0.9.0"

// described is what `git describe --tags --always --dirty` said, set by the linker
// (-X lockstep/appliance/control.described=...) and by nothing else.
var described string

// Version is this build's version: Release where the tag is, else Release and what tells the build
// from others.
func Version() string {
	if described != "" {
		return name(described)
	}
	return name(recorded())
}

// name makes a version of what git says of a build.
func name(said string) string {
	if said == Release || strings.HasPrefix(said, Release+"-") {
		return said
	}
	// An older tag (the new one is not made yet), with the commit behind it; or the commit alone.
	if i := strings.LastIndex(said, "-g"); i >= 0 {
		said = said[i+len("-g"):]
	}
	return Release + "-" + said
}

// recorded is the commit that the Go toolchain found, for builds without make.
func recorded() string {
	commit, dirty := "devel", ""
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return commit
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			commit = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	return commit + dirty
}
