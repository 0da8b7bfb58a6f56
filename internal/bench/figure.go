package bench

import (
	"fmt"
	"slices"
)

// kind of gateway.
type kind string

const (
	forwarding kind = "forwarding"
	haproxy    kind = "haproxy"
	ioCopy     kind = "iocopy"
	alone      kind = "alone"
	paired     kind = "pair"

	// Pairs that are measured in the cut alone.
	keepHAProxy    kind = "keepalived-haproxy"
	keepConntrackd kind = "keepalived-conntrackd"
)

// kinds in the order of the table's columns, and of every round.
var kinds = [...]kind{forwarding, haproxy, ioCopy, alone, paired}

// rivals are the other pairs, in the order of the cut's columns.
var rivals = [...]kind{keepHAProxy, keepConntrackd}

// columns is the order of all columns.
var columns = append(append([]kind(nil), rivals[:]...), kinds[:]...)

func (k kind) rival() bool { return slices.Contains(rivals[:], k) }

// title of a column.
func (k kind) title() string {
	switch k {
	case haproxy:
		return "HAProxy"
	case ioCopy:
		return "io.Copy"
	case keepHAProxy:
		return "keepalived+HAProxy"
	case keepConntrackd:
		return "keepalived+conntrackd"
	default:
		return string(k)
	}
}

// mode of the lab's links.
type mode string

const (
	offloadOff mode = "off"
	offloadOn  mode = "on"
)

func (m mode) title() string {
	if m == offloadOn {
		return "offloads on (links carry superpackets of up to 64 KiB)"
	}
	return "offloads off (links carry MTU-sized frames, as a real network does)"
}

// figure is one row of the table.
type figure struct {
	ID     string `json:"id"`
	Title  string `json:"title"`
	Unit   string `json:"unit"`
	digits int    // after the decimal point, in the table
}

// bulkLoads are the bulk measurements: figure IDs are made from the name.
var bulkLoads = [...]struct {
	name, title string
	load        load
}{
	{"down-1", "bulk download, 1 stream", load{Kind: loadDown, Connections: 1}},
	{"down-8", "bulk download, 8 streams", load{Kind: loadDown, Connections: 8}},
	{"up-1", "bulk upload, 1 stream", load{Kind: loadUp, Connections: 1}},
	{"up-8", "bulk upload, 8 streams", load{Kind: loadUp, Connections: 8}},
}

// requestLoads are the request measurements.
var requestLoads = [...]struct {
	name, title string
	load        load
	place       placement
}{
	{"kept-32", "requests, 32 kept-alive connections", load{Kind: loadKept, Connections: 32}, anywhere},
	{"kept-1", "requests, 1 kept-alive connection, ends on two CPUs", load{Kind: loadKept, Connections: 1}, apart},
	{"kept-1-together", "requests, 1 kept-alive connection, ends on one CPU", load{Kind: loadKept, Connections: 1}, together},
	{"new-32", "requests on new connections, 32 at a time", load{Kind: loadNew, Connections: 32}, anywhere},
}

// What is added to a load's name to make a figure's ID.
const (
	suffixCPU     = "-cpu"
	suffixMachine = "-machine"
	suffixP50     = "-p50"
	suffixP99     = "-p99"
)

// IDs of the other figures.
const (
	idleActive  = "idle-active"
	idleStandby = "idle-standby"
	idleKernel  = "idle-kernel"

	quietGap = "quiet-gap" // the same traffic without a kill: what scheduling alone costs

	failGap     = "failover-gap"
	failBeyond  = "failover-beyond"
	failOwn     = "failover-own"
	failSpan    = "failover-span"
	failPeer    = "failover-known"
	failLost    = "failover-lost"
	crowdGap    = "crowd-gap"
	crowdQuiet  = "crowd-quiet"
	crowdBeyond = "crowd-beyond"
	crowdKnown  = "crowd-known"
	crowdSpan   = "crowd-span"
	crowdOwn    = "crowd-own"
	crowdLost   = "crowd-lost"
	crowdIdle   = "crowd-idle-lost"

	restOwn  = "rest-own"
	restLeg  = "rest-leg"
	restLost = "rest-lost"

	switchGap    = "switch-gap"
	switchQuiet  = "switch-quiet"
	switchBeyond = "switch-beyond"
	switchSpan   = "switch-span"
	switchTook   = "switch-took"
	switchLost   = "switch-lost"

	frozenGap    = "frozen-gap"
	frozenQuiet  = "frozen-quiet"
	frozenBeyond = "frozen-beyond"
	frozenPeer   = "frozen-known"
	frozenLost   = "frozen-lost"

	soloGap  = "solo-gap"
	soloLost = "solo-lost"

	rejoinSync = "rejoin-sync"
	rejoinRate = "rejoin-rate"
)

// throughputFigures are the rows that all gateways have.
func throughputFigures() (all []figure) {
	for _, b := range bulkLoads {
		all = append(all, figure{b.name, b.title, "Gbit/s", 2})
	}
	for _, b := range bulkLoads {
		all = append(all, figure{b.name + suffixCPU, "CPU of the gateway's processes, " + b.title, "s/GiB", 2})
	}
	for _, b := range bulkLoads {
		all = append(all, figure{b.name + suffixMachine, "CPU of the whole machine, " + b.title, "s/GiB", 2})
	}
	for _, r := range requestLoads {
		all = append(all,
			figure{r.name, r.title, "1/s", 0},
			figure{r.name + suffixP50, r.title + ": p50", "us", 0},
			figure{r.name + suffixP99, r.title + ": p99", "us", 0},
			figure{r.name + suffixCPU, "CPU of the gateway's processes, " + r.title, "us each", 1},
			figure{r.name + suffixMachine, "CPU of the whole machine, " + r.title, "us each", 1})
	}
	return append(all,
		figure{idleActive, "memory per idle connection, gateway or active", "KiB", 2},
		figure{idleStandby, "memory per idle connection, standby", "KiB", 2},
		figure{idleKernel, "kernel memory per idle connection, client's and server's included", "KiB", 2})
}

// failoverFigures are the rows that only the pair has.
func failoverFigures(busy, idle int) []figure {
	crowd := fmt.Sprintf("kill -9, %d idle and %d busy", idle, busy)
	rest := fmt.Sprintf("kill -9, %d idle and none busy", idle)
	stands := fmt.Sprintf("active frozen (failure_timeout %v), %d busy", frozen.failure, busy)
	var all []figure
	for _, l := range levels(busy) {
		kill, hand := fmt.Sprintf("kill -9, %d busy", l.busy), fmt.Sprintf("switchover, %d busy", l.busy)
		all = append(all,
			figure{quietGap + l.suffix, fmt.Sprintf("no kill, %d busy: longest gap (scheduling, pace)", l.busy), "ms", 1},
			figure{failGap + l.suffix, kill + ": longest gap any client sees", "ms", 1},
			figure{failBeyond + l.suffix, kill + ": beyond that without a kill", "ms", 1},
			figure{failSpan + l.suffix, kill + ": longest gap over the kill itself", "ms", 1},
			figure{failPeer + l.suffix, kill + ": from the kill to knowing", "ms", 2},
			figure{failOwn + l.suffix, kill + ": from knowing to the last leg rebuilt", "ms", 2},
			figure{failLost + l.suffix, kill + ": connections lost, worst run", "", 0},
			figure{switchGap + l.suffix, hand + ": longest gap any client sees", "ms", 1},
			figure{switchQuiet + l.suffix, hand + ": without one", "ms", 1},
			figure{switchBeyond + l.suffix, hand + ": beyond that without one", "ms", 1},
			figure{switchSpan + l.suffix, hand + ": longest gap over it", "ms", 1},
			figure{switchTook + l.suffix, hand + ": from the command to its answer", "ms", 1},
			figure{switchLost + l.suffix, hand + ": connections lost, worst run", "", 0})
	}
	return append(all, []figure{
		{crowdGap, crowd + ": longest gap of the busy ones", "ms", 1},
		{crowdQuiet, crowd + ": without a kill", "ms", 1},
		{crowdBeyond, crowd + ": beyond that without a kill", "ms", 1},
		{crowdKnown, crowd + ": from the kill to knowing", "ms", 2},
		{crowdSpan, crowd + ": longest gap of the busy ones over the kill itself", "ms", 1},
		{crowdOwn, crowd + ": from knowing to the last leg rebuilt", "ms", 2},
		{crowdLost, crowd + ": busy connections lost, worst run", "", 0},
		{crowdIdle, crowd + ": idle connections lost, worst run", "", 0},
		{restOwn, rest + ": from knowing to the last leg rebuilt", "ms", 2},
		{restLeg, rest + ": takeover time per rebuilt leg", "us", 1},
		{restLost, rest + ": connections lost, worst run", "", 0},
		{frozenGap, stands + ": longest gap any client sees", "ms", 1},
		{frozenQuiet, stands + ": without that", "ms", 1},
		{frozenBeyond, stands + ": beyond that without it", "ms", 1},
		{frozenPeer, stands + ": from then to knowing", "ms", 1},
		{frozenLost, stands + ": connections lost, worst run", "", 0},
		{soloGap, fmt.Sprintf("standby frozen, %d busy: longest gap over it (failure_timeout %v)", busy, failureTimeout), "ms", 1},
		{soloLost, fmt.Sprintf("standby frozen, %d busy: connections lost, worst run", busy), "", 0},
		{rejoinSync, fmt.Sprintf("rejoin with %d connections: time until in sync", idle), "ms", 0},
		{rejoinRate, "throughput of a running download meanwhile, relative to before", "", 2},
	}...)
}
