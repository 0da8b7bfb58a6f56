package tun

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// What the kernel must have room for if there are very many connections: its tables of neighbours, which
// are one for all interfaces and namespaces, and that of a firewall which tracks connections. Both are too small by
// default for a front network of thousands of hosts, or a hundred thousand connections. They are raised once, never lowered,
// and stay so: another gateway of this machine may have come to need them. Who lowers them then has a reason.
const (
	// neighboursKept are never thrown out for being idle (gc_thresh1); from neighboursSoft on older ones go first
	// after five seconds (gc_thresh2); above neighboursMost a new one is refused while no other can go (gc_thresh3).
	neighboursKept, neighboursSoft, neighboursMost = 4096, 16384, 32768
	// tracksEach: a connection passes the firewall twice, between client and TUN device and between that and the server.
	// tracksSpare is for what else there is, and what has ended; it keeps what 100,000 connections
	// want, the default, below the 262,144 that a kernel of this decade begins with. An entry is 320 bytes; tracksMost are 1.3 GB.
	tracksEach, tracksSpare, tracksMost = 2, 60_000, 1 << 22
)

// roomSysctls make that room for so many connections.
func roomSysctls(connections int) []*wantedSysctl {
	var list []*wantedSysctl
	least := func(key string, n int) {
		list = append(list, &wantedSysctl{key: key, value: strconv.Itoa(n), least: true, stays: true, optional: true})
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		// The kernel compares them when it needs room, not with each other: any order will do.
		least(family+"/neigh/default/gc_thresh3", neighboursMost)
		least(family+"/neigh/default/gc_thresh2", neighboursSoft)
		least(family+"/neigh/default/gc_thresh1", neighboursKept)
	}
	if connections > 0 {
		least("netfilter/nf_conntrack_max", min(tracksEach*min(connections, tracksMost)+tracksSpare, tracksMost))
	}
	return list
}

// Shortage is a setting that is too low for what is to be served.
type Shortage struct {
	Sysctl, Is, Least string
	Sealed            error // why it cannot be changed from here; nil: it can
}

// Shortages lists them. A setting that is not there is not missed: there is no such table, or it can be
// seen only from outside of this network namespace.
func Shortages(connections int) []Shortage { return shortages(procSysNet, connections, sealed) }

// sealed tries it: access(2) goes by the real user and, unless that is root, by no capabilities.
func sealed(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func shortages(dir string, connections int, sealed func(path string) error) (list []Shortage) {
	for _, w := range roomSysctls(connections) {
		path := filepath.Join(dir, w.key)
		b, err := os.ReadFile(path)
		is := strings.TrimSpace(string(b))
		if err == nil && !w.right(is) {
			list = append(list, Shortage{dotted(w.key), is, w.value, sealed(path)})
		}
	}
	return list
}

// right reports whether a setting is as it must be.
func (w *wantedSysctl) right(is string) bool {
	if !w.least || is == w.value {
		return is == w.value
	}
	have, err := strconv.ParseUint(is, 10, 64)
	want, werr := strconv.ParseUint(w.value, 10, 64)
	return err == nil && werr == nil && have >= want
}
