package control

import "runtime/debug"

// version is set by the linker (-X lockstep/appliance/control.version=...) and
// by nothing else.
var version string

// Version is this build's version: what `git describe` said when it was built
// with make, else what the Go toolchain recorded.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
