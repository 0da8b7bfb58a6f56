package lockstep_test

import (
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// borders says, for each folder, which others of this module it may import: all that are not
// named are refused, and so is a folder that is not named. Tests may import what they like.
// Add a line, or a name to one, only if the folder's job (its package comment, and the table
// in ARCHITECTURE.md) needs to know of that other folder.
var borders = map[string]string{
	"tun":         "internal/confine internal/loglimit",
	"tun/steer":   "internal/loglimit splice",
	"tun/tuntest": "tun",
	"splice":      "",
	"stack":       "splice tun internal/clock",

	"replication":           "replication/wire",
	"replication/wire":      "",
	"replication/shell":     "replication replication/roles",
	"replication/arbiter":   "replication",
	"replication/roles":     "replication replication/arbiter",
	"replication/identity":  "",
	"replication/transport": "replication/identity replication/wire internal/loglimit",
	"replication/link":      "replication/identity replication/transport replication/wire",
	"replication/courier":   "replication/identity replication/transport replication/wire",
	"replication/sim":       "replication replication/arbiter replication/roles replication/shell replication/wire",

	"appliance/adapter":   "",
	"appliance/config":    "",
	"appliance/control":   "",
	"appliance/decide":    "replication wrap/agree wrap/determinant",
	"appliance/health":    "appliance/config",
	"appliance/carry":     "replication stack",
	"appliance/kept":      "appliance/adapter appliance/carry appliance/pool replication stack",
	"appliance/metrics":   "appliance/control",
	"appliance/orders":    "appliance/config appliance/pool",
	"appliance/pool":      "",
	"appliance/relay":     "appliance/carry appliance/kept appliance/pool replication stack",
	"appliance/statefile": "",
	"appliance/voter": "appliance/statefile internal/clock replication replication/arbiter replication/courier replication/identity " +
		"replication/transport",
	"appliance/witness": "appliance/config appliance/metrics appliance/voter internal/clock internal/loglimit internal/notify replication/identity " +
		"replication/transport",
	// The assembly sees everything that runs, and no tool.
	"appliance": "appliance/adapter appliance/carry appliance/config appliance/control appliance/decide appliance/health appliance/kept appliance/metrics appliance/orders appliance/pool " +
		"appliance/relay appliance/statefile appliance/voter internal/clock internal/confine internal/loglimit internal/notify replication replication/arbiter " +
		"replication/identity replication/link replication/roles replication/shell replication/transport replication/wire splice stack tun tun/steer wrap/agree",

	"wrap":             "wrap/determinant wrap/jail wrap/trace",
	"wrap/agree":       "replication/identity wrap/determinant",
	"wrap/determinant": "",
	"wrap/jail":        "",
	"wrap/trace":       "",

	"cmd/lockstep": "appliance appliance/config appliance/control appliance/witness images/machine images/provision internal/bench " +
		"internal/demo internal/eval internal/lab internal/storm replication/identity replication/wire stack wrap wrap/agree wrap/determinant",

	"images/debian": "",
	"images/disk":   "images/volume",
	"images/initrd": "",
	"images/kmod":   "",
	"images/machine": "appliance/config appliance/control images/kmod images/settings images/volume " +
		"replication/identity",
	"images/mkimage":   "images/debian images/disk images/initrd images/kmod images/uki",
	"images/oci":       "",
	"images/packages":  "images/oci",
	"images/provision": "appliance/config images/settings images/volume replication/identity",
	"images/settings":  "images/volume",
	"images/uki":       "",
	"images/volume":    "",

	"internal/clock":       "",
	"internal/confine":     "",
	"internal/loglimit":    "",
	"internal/notify":      "",
	"internal/lab":         "",
	"internal/lab/labtest": "internal/lab",
	"internal/lab/traffic": "internal/lab",
	// Tools and tests run the program as an operator does: of it they know its configuration, its keys and
	// its status, and how to start it in a process of their own.
	"internal/pair":        "appliance appliance/config appliance/control appliance/witness internal/clock internal/lab replication/identity",
	"internal/bench":       "appliance/config appliance/control internal/lab internal/lab/traffic internal/pair",
	"internal/demo":        "appliance/config appliance/control internal/lab internal/lab/traffic internal/pair internal/realservers internal/vm",
	"internal/e2e/rig":     "appliance/config appliance/control internal/lab internal/lab/labtest internal/pair",
	"internal/peers":       "appliance/config appliance/control internal/lab internal/pair internal/realservers",
	"internal/realservers": "internal/lab internal/lab/traffic",
	"internal/eval":        "appliance/config appliance/control internal/lab internal/lab/traffic internal/pair",
	"internal/storm":       "appliance/config appliance/control internal/bench internal/lab internal/lab/traffic internal/pair internal/realservers",
	"internal/suites":      "internal/lab internal/pair internal/realservers",
	"internal/vm":          "",

	// TCP played packet by packet: an engine, a core and the relay's interface put together for tests.
	"internal/script": "appliance/pool appliance/relay replication replication/shell replication/wire stack tun tun/tuntest",
}

// pure folders are functions of their input: their packages may not import these of the
// standard library, nor what lies beneath them. (Of the core, and what decides beside it,
// replication/pure_test.go has the list: it looks at more than imports.)
var pure = map[string]string{
	"appliance/adapter":    "context log math/rand net os sync time",
	"appliance/health":     "log",
	"images/initrd":        "os",
	"images/kmod":          "os",
	"images/settings":      "os",
	"images/uki":           "os",
	"replication/identity": "log net",
	"splice":               "context log net os sync",
	"wrap/determinant":     "context log net os sync time",
}

// libraries says in which folders a library may be imported; what is not named may be nowhere.
// ARCHITECTURE.md, Libraries, has the reason for each.
var libraries = map[string]string{
	"github.com/HdrHistogram/hdrhistogram-go": "internal/bench",
	"github.com/cilium/ebpf":                  "tun/steer",
	"github.com/coreos/go-systemd/v22":        "internal/notify",
	"github.com/diskfs/go-diskfs":             "images/disk images/volume",
	"github.com/google/nftables":              "tun",
	"github.com/klauspost/compress":           "images/initrd",
	"github.com/mdlayher/netlink":             "tun",
	"github.com/mdlayher/packet":              "tun",
	"github.com/opencontainers/go-digest":     "images/oci",
	"github.com/opencontainers/image-spec":    "images/oci images/packages",
	"github.com/prometheus/client_golang":     "appliance/metrics appliance/witness",
	"github.com/safchain/ethtool":             "internal/lab tun",
	"github.com/spf13/cobra":                  "cmd/lockstep internal/bench internal/demo internal/eval internal/storm",
	"github.com/spf13/viper":                  "appliance/config",
	"github.com/ulikunitz/xz":                 "images/kmod",
	"github.com/vishvananda/netlink":          "images/machine internal/bench internal/lab internal/storm tun",
	"github.com/zeebo/xxh3":                   "appliance/kept appliance/pool",
	"go.etcd.io/raft/v3":                      "replication/arbiter",
	"go.yaml.in/yaml/v3":                      "appliance/config images/debian images/provision images/settings images/volume internal/pair",
	"golang.org/x/net/bpf":                    "internal/lab tun",
	"golang.org/x/net/icmp":                   "tun",
	"golang.org/x/net/ipv4":                   "tun",
	"golang.org/x/net/ipv6":                   "tun",
	"golang.org/x/net/netutil":                "appliance/control appliance/metrics",
	"golang.org/x/term":                       "cmd/lockstep internal/demo internal/lab internal/storm",
	"golang.zx2c4.com/wireguard":              "tun",
	"gonum.org/v1/plot":                       "internal/eval",
	// Of gvisor the storm takes the packet formats only, to look into captures.
	// So does splice.
	"gvisor.dev/gvisor": "splice stack internal/storm",
	// System calls, where a folder touches the kernel.
	"golang.org/x/sys/unix": "appliance appliance/config appliance/control appliance/health appliance/statefile images/machine internal/bench " +
		"internal/confine internal/lab internal/lab/traffic internal/realservers internal/storm replication/transport tun tun/steer wrap wrap/agree wrap/jail " +
		"wrap/trace",
}

const module = "lockstep"

// permission is one word of borders or libraries: dir may import name.
type permission struct{ dir, name string }

// refused says why a package in dir may not import name; empty: it may, by that permission
// (none: by nobody's).
func refused(dir, name string) (why string, by permission) {
	may, known := borders[dir]
	if !known {
		return "has no entry in borders_test.go: say there what it may import", by
	}
	if inside, ok := strings.CutPrefix(name, module+"/"); ok {
		if !slices.Contains(strings.Fields(may), inside) {
			return "may import of this module only: " + may, by
		}
		return "", permission{dir, inside}
	}
	for _, bad := range strings.Fields(pure[dir]) {
		if within(name, bad) && name != "net/netip" {
			return "is a function of its input, and must not see " + bad, by
		}
	}
	if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") {
		return "", by // the standard library
	}
	for library, dirs := range libraries {
		if within(name, library) {
			if !slices.Contains(strings.Fields(dirs), dir) {
				return "may not import " + library + ", which is for: " + dirs, by
			}
			return "", permission{dir, library}
		}
	}
	return "imports a library that borders_test.go does not name", by
}

func within(name, tree string) bool { return name == tree || strings.HasPrefix(name, tree+"/") }

// unused are the permissions that nobody needs.
func unused(borders, libraries map[string]string, used map[permission]bool) (all []permission) {
	for dir, may := range borders {
		for _, inside := range strings.Fields(may) {
			if p := (permission{dir, inside}); !used[p] {
				all = append(all, p)
			}
		}
	}
	for library, dirs := range libraries {
		for _, dir := range strings.Fields(dirs) {
			if p := (permission{dir, library}); !used[p] {
				all = append(all, p)
			}
		}
	}
	return all
}

func TestForbiddenImports(t *testing.T) {
	seen, used := map[string]bool{}, map[permission]bool{}
	for _, file := range sources(t) {
		dir := filepath.ToSlash(filepath.Dir(file))
		if strings.HasSuffix(file, "_test.go") || strings.Contains(dir, "/testdata/") {
			continue
		}
		seen[dir] = true
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			name := strings.Trim(imp.Path.Value, `"`)
			why, by := refused(dir, name)
			if why != "" {
				t.Errorf("%s imports %s: %s %s", file, name, dir, why)
			}
			used[by] = true
		}
	}
	if len(seen) < 40 {
		t.Errorf("only %d folders with code were found", len(seen))
	}
	for _, p := range unused(borders, libraries, used) {
		t.Errorf("%s may import %s, and does not: take it off the list", p.dir, p.name)
	}
	for dir := range borders {
		if !seen[dir] {
			t.Errorf("%s has an entry, and no code: take it off the list", dir)
		}
	}
}

// The test of the test: what must not be is refused.
func TestBordersRefuse(t *testing.T) {
	for _, c := range []struct{ dir, name string }{
		{"stack", "lockstep/appliance/statefile"},
		{"stack", "lockstep/replication"},
		{"internal/bench", "lockstep/tun"},
		{"replication", "lockstep/replication/link"},
		{"appliance/relay", "lockstep/appliance"},
		{"appliance/new", "lockstep/tun"},
		{"appliance/adapter", "time"},
		{"images/uki", "os/exec"},
		{"appliance/adapter", "net/http"},
		{"appliance/relay", "gvisor.dev/gvisor/pkg/tcpip/header"},
		{"stack", "golang.zx2c4.com/wireguard/tun"},
		{"replication/sim", "go.etcd.io/raft/v3"},
		{"stack", "github.com/example/unknown"},
	} {
		if why, _ := refused(c.dir, c.name); why == "" {
			t.Errorf("%s may import %s", c.dir, c.name)
		}
	}
	for _, c := range []struct{ dir, name string }{
		{"stack", "lockstep/tun"}, {"stack", "time"}, {"replication", "net/netip"}, {"replication/arbiter", "go.etcd.io/raft/v3/raftpb"},
	} {
		if why, _ := refused(c.dir, c.name); why != "" {
			t.Errorf("%s may not import %s: %s", c.dir, c.name, why)
		}
	}
	rest := unused(map[string]string{"a": "b c"}, map[string]string{"x.org/y": "a b"}, map[permission]bool{{"a", "b"}: true, {"b", "x.org/y"}: true})
	if len(rest) != 2 || !slices.Contains(rest, permission{"a", "c"}) || !slices.Contains(rest, permission{"a", "x.org/y"}) {
		t.Errorf("not used are %v", rest)
	}
}

// No rings of folders among the rules themselves, and none that names what cannot be.
func TestBordersAreATree(t *testing.T) {
	var walk func(dir string, above []string)
	walk = func(dir string, above []string) {
		if slices.Contains(above, dir) {
			t.Fatalf("a ring: %v, %s", above, dir)
		}
		for _, next := range strings.Fields(borders[dir]) {
			if _, ok := borders[next]; !ok {
				t.Errorf("%s may import %s, which has no entry", dir, next)
			}
			if path.Clean(next) != next || strings.HasPrefix(next, module) {
				t.Errorf("%s: %q is no folder", dir, next)
			}
			walk(next, append(above, dir))
		}
	}
	for dir := range borders {
		walk(dir, nil)
	}
}
