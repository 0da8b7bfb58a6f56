package storm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/appliance"
	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/appliance/witness"
	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/internal/lab/traffic"
	"lockstep/replication/identity"
)

// TestMain lets the test binary play the program: its roles, keys, appliance and witness.
func TestMain(m *testing.M) {
	lab.Main(Roles())
	if len(os.Args) < 3 || !map[string]bool{"keys": true, "run": true, "witness": true}[os.Args[1]] {
		os.Exit(m.Run())
	}
	if err := play(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func play(command string, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch command {
	case "keys":
		_, err := identity.Write(args[len(args)-1], "storm", []string{"a", "b", "w"}, false)
		return err
	case "witness":
		cfg, err := config.LoadWitness(args[1])
		if err != nil {
			return err
		}
		return witness.Run(ctx, cfg, log)
	default:
		cfg, err := config.Load(args[1])
		if err != nil {
			return err
		}
		return appliance.Run(ctx, cfg, log)
	}
}

// small is a storm that a busy machine gets through, too.
func small(t *testing.T) options {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return options{seed: 5, duration: time.Hour, witness: true, connections: 6, timeout: time.Second, reach: true, out: filepath.Join(t.TempDir(), "evidence"), self: self}
}

// A storm of a few faults finds nothing, and says so.
func TestStorm(t *testing.T) {
	labtest.RequireRoot(t)
	o := small(t)
	o.count, o.faults, o.clocks, o.servers = 8, []string{"kill", "freeze", "switchover", "flood", "server", "clock", "cut"}, true, true
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := execute(context.Background(), withJSON(o), &out, io.Discard); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	var r report
	if err := json.Unmarshal([]byte(out.String()), &r); err != nil {
		t.Fatal(err)
	}
	if !r.OK || r.Faults != 8 || r.Seed != o.seed || r.Load.Connections < o.connections || r.Load.Bytes == 0 {
		t.Errorf("report: %+v", r)
	}
	var text strings.Builder
	r.print(&text)
	if !strings.Contains(text.String(), "no finding") || !strings.Contains(text.String(), "switchover") && !strings.Contains(text.String(), "kill") {
		t.Error(text.String())
	}
}

func withJSON(o options) options {
	o.json = true
	return o
}

// What is broken is found: connections that stand still, with all the evidence there should be.
func TestStandstillIsFound(t *testing.T) {
	labtest.RequireRoot(t)
	o := small(t)
	o.stopAtFirst, o.count = true, 1
	ctx, s := begin(t, o)
	// The fault is one of this test, and never ends.
	if err := s.pair.Front.PortOf(s.pair.Client).SetFaults(lab.ToHost, lab.Faults{Loss: 1}); err != nil {
		t.Fatal(err)
	}
	s.opts.faults = []string{"cpu"}
	r, err := s.play(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if r.OK || len(r.Findings) == 0 || r.Findings[0].Kind != findStall {
		t.Fatalf("findings: %+v", *r.Findings[0])
	}
	for _, name := range []string{"finding.txt", "connections.txt", "front.pcapng", "back.pcapng", "status-a.json", "log-b.txt", "log-w.txt", "neighbours-client.txt", "rules-a.txt"} {
		if st, err := os.Stat(filepath.Join(r.Findings[0].Folder, name)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
}

// begin builds a storm whose pair is in sync, and nothing happens in it yet.
func begin(t *testing.T, o options) (context.Context, *storm) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 3*time.Minute)
	s := &storm{opts: o, view: newView(io.Discard), out: o.out, tallies: map[string]*tally{}, stop: stop}
	s.records = map[string]*lab.Recorder{}
	if err := s.build(ctx, t.TempDir()); err != nil {
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.end()
		if err := s.pair.Close(); err != nil {
			t.Error(err)
		}
		stop()
	})
	if err := s.nodes.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if why := s.ready(ctx); why != "" {
		t.Fatal(why)
	}
	return ctx, s
}

// SYNs with forged sources of the front network leave room in the kernel's table of neighbours,
// which all networks share: when it is full, connections that are established lose their entry.
func TestFloodSparesNeighbours(t *testing.T) {
	labtest.RequireRoot(t)
	o := small(t)
	o.only6 = true
	ctx, s := begin(t, o)
	const syns, most = 900, 300
	if err := flood(ctx, s.stranger, rand.New(rand.NewPCG(1, 1)), syns, 2*time.Second, &o); err != nil {
		t.Fatal(err)
	}
	st, err := s.nodes.Active.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.nodes.Active.Host.Netlink().NeighList(0, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	// What it asks for goes to a multicast address: those entries can be given up.
	list = slices.DeleteFunc(list, func(n netlink.Neigh) bool { return n.State&netlink.NUD_NOARP != 0 })
	if len(list) > most || st.Drops["unknown-neighbour"] == 0 {
		t.Errorf("%d entries after %d SYNs from unknown neighbours; drops %v", len(list), syns, st.Drops)
	}
	// A host that asks for the address is answered at once, whatever goes on.
	c, err := s.pair.Client.DialContext(ctx, "tcp", net.JoinHostPort(lab.VIP6, strconv.Itoa(clientPort)))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// The same seed gives the same faults, another one others, and each kind comes.
func TestForecast(t *testing.T) {
	draw := func(seed uint64) (names []string, kinds map[string]int) {
		f, err := newForecast(&options{seed: seed, witness: true, clocks: true, servers: true})
		if err != nil {
			t.Fatal(err)
		}
		kinds = map[string]int{}
		for range 500 {
			next, pause := f.next()
			if next.Length > time.Second+longest || next.Length < 0 || pause <= 0 || next.inject == nil || next.heal == nil || !strings.HasPrefix(next.Kind, strings.SplitN(next.What, " ", 2)[0][:3]) {
				t.Errorf("%+v after %v", next, pause)
			}
			names = append(names, fmt.Sprint(next.What, next.Length, pause))
			kinds[next.Kind]++
		}
		return names, kinds
	}
	a, seen := draw(1)
	b, _ := draw(1)
	c, _ := draw(2)
	if strings.Join(a, "\n") != strings.Join(b, "\n") || strings.Join(a, "\n") == strings.Join(c, "\n") {
		t.Error("the seed does not decide, or decides nothing")
	}
	for _, k := range kinds() {
		if seen[k.name] == 0 {
			t.Errorf("%s never happened", k.name)
		}
	}
}

func TestOptions(t *testing.T) {
	good := options{duration: time.Minute, connections: 1, witness: true}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*options){
		"unknown":            func(o *options) { o.faults = []string{"kill", "earthquake"} },
		"--witness":          func(o *options) { o.faults, o.witness = []string{"disk"}, false },
		"--clocks":           func(o *options) { o.faults = []string{"clock"} },
		"--servers":          func(o *options) { o.faults = []string{"server"} },
		"--bridge":           func(o *options) { o.faults, o.bridge = []string{"oneway"}, true },
		"nothing":            func(o *options) { o.only4, o.only6 = true, true },
		"--connections":      func(o *options) { o.connections = 0 },
		"--duration":         func(o *options) { o.duration = 0 },
		"--count":            func(o *options) { o.count = -1 },
		"--path":             func(o *options) { o.path = "short" },
		"--slow-clients":     func(o *options) { o.path, o.slow = "auto", "drop" },
		"--path auto":        func(o *options) { o.slow = "buffer" },
		"--failure-timeout ": func(o *options) { o.timeout = time.Millisecond },
	} {
		o := good
		change(&o)
		if err := o.check(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	o := good
	o.seed, o.faults, o.only4, o.quick, o.path, o.slow = 9, []string{"kill"}, true, true, "auto", "buffer"
	if line := o.repeat(); line != "lockstep storm --seed 9 --duration 1m0s --connections 1 --faults kill --path auto --slow-clients buffer --quick --only-v4 --reach=false --servers=false --real=false" {
		t.Error(line)
	}
}

// Looks are counted outside faults only; what moves again says so.
func TestLook(t *testing.T) {
	s := &storm{view: newView(io.Discard)}
	l := &load{storm: s, flights: map[*flight]struct{}{}, server: traffic.NewServer(0, nil)}
	s.load = l
	slow, busy := &flight{shape: "slow", client: &traffic.Client{}}, &flight{shape: "busy", client: &traffic.Client{}}
	l.flights[slow], l.flights[busy] = struct{}{}, struct{}{}
	now := time.Now()
	looks := func(n int) (f *finding) {
		for range n {
			busy.client.Progress.Sent.Add(1)
			if g := l.look(now); g != nil {
				f = g
			}
		}
		return f
	}
	l.begins()
	if f := looks(3 * stillLooks); f != nil {
		t.Errorf("found within the fault: %+v", f)
	}
	l.ends()
	if n := l.waiting(); n != 2 {
		t.Errorf("%d are waited for", n)
	}
	if f := looks(stillLooks - 1); f != nil || l.waiting() != 1 {
		t.Errorf("found too early: %+v; %d are waited for", f, l.waiting())
	}
	f := looks(1)
	if f == nil || len(f.flights) != 1 || f.flights[0] != slow || l.waiting() != 0 {
		t.Fatalf("%+v", f)
	}
	if f := looks(stillLooks); f != nil {
		t.Errorf("found twice: %+v", f)
	}
	slow.stalled = f
	slow.client.Progress.Received.Add(1)
	looks(1)
	if f.Then == "" || slow.stalled != nil {
		t.Errorf("it moves again: %+v", f)
	}
}

// A kernel that does not tell once how much is acknowledged has not moved the connection.
func TestAckedWithoutAnswer(t *testing.T) {
	f := &flight{confirmed: 7}
	if n := f.acked(); n != 7 {
		t.Errorf("%d without a connection", n)
	}
	end, other := net.Pipe() // no TCP: nothing is told
	defer end.Close()
	defer other.Close()
	f.conn.Store(&end)
	if n := f.acked(); n != 7 {
		t.Errorf("%d with one that does not tell", n)
	}
}

// Each process's divergences count, of each of its services.
func TestDivergencesAreToldApart(t *testing.T) {
	d, p, q := make(divergences), &lab.Proc{}, &lab.Proc{}
	of := func(log, hot uint64) []control.Service {
		return []control.Service{{Name: "mortal"}, {Name: "log", Kept: &control.Kept{Divergences: log}}, {Name: "hot", Kept: &control.Kept{Divergences: hot}}}
	}
	for i, c := range []struct {
		process  *lab.Proc
		log, hot uint64
		told     int
	}{{p, 0, 0, 0}, {p, 2, 0, 1}, {p, 2, 1, 1}, {p, 2, 1, 0}, {q, 1, 1, 2}, {p, 3, 2, 2}, {q, 1, 1, 0}} {
		if said := d.more(c.process, of(c.log, c.hot)); len(said) != c.told {
			t.Errorf("step %d: %q", i, said)
		}
	}
}

// Losses are put down to a fault for some time, and only where they are stated.
func TestStated(t *testing.T) {
	s := &storm{}
	if s.stated(mortalPort) != "" {
		t.Error("before any fault")
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for s.fault == nil || s.fault.stated == nil {
		s.fault = drawServer(rng, nil)
	}
	if s.stated(mortalPort) == "" || s.stated(logPort) != "" || s.stated(clientPort) != "" {
		t.Error("when a server has died")
	}
	s.ended = time.Now().Add(-2 * statedFor)
	if s.stated(mortalPort) != "" {
		t.Error("long after it")
	}
	s.fault, s.ended = &fault{}, time.Now()
	if s.stated(mortalPort) != "" {
		t.Error("after a fault that costs nothing")
	}
	s.unready = true
	if s.stated(clientPort) == "" {
		t.Error("after a fault that met a pair which was not in sync")
	}
}

// What the stranger sends is well-formed: it is to be refused for what it says.
func TestForgedPackets(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	src, dst := netip.MustParseAddr("203.0.113.210"), netip.MustParseAddr(lab.VIP4)
	ip := header.IPv4(syn(rng, src, dst, 80))
	tcp := header.TCP(ip.Payload())
	if !ip.IsValid(len(ip)) || !ip.IsChecksumValid() || tcp.Flags() != header.TCPFlagSyn ||
		!tcp.IsChecksumValid(ip.SourceAddress(), ip.DestinationAddress(), 0, 0) {
		t.Errorf("%x", []byte(ip))
	}
	src, dst = netip.MustParseAddr("2001:db8::3:1"), netip.MustParseAddr(lab.VIP6)
	ip6 := header.IPv6(syn(rng, src, dst, 80))
	tcp = header.TCP(ip6.Payload())
	if !ip6.IsValid(len(ip6)) || !tcp.IsChecksumValid(ip6.SourceAddress(), ip6.DestinationAddress(), 0, 0) {
		t.Errorf("%x", []byte(ip6))
	}
	frame := advertisement([6]byte{2, 0, 0, 0, 0, 1})
	ip6 = header.IPv6(frame[14:])
	icmp := header.ICMPv6(ip6.Payload())
	sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, ip6.SourceAddress(), ip6.DestinationAddress(), uint16(len(icmp)))
	if icmp.Type() != header.ICMPv6NeighborAdvert || checksum.Checksum(icmp, sum) != 0xffff ||
		header.NDPNeighborAdvert(icmp.MessageBody()).TargetAddress() != tcpip.AddrFrom16(netip.MustParseAddr(lab.VIP6).As16()) {
		t.Errorf("%x", frame)
	}
	if arp := header.ARP(gratuitousARP([6]byte{2, 0, 0, 0, 0, 1})[14:]); !arp.IsValid() || string(arp.ProtocolAddressSender()) != string(arp.ProtocolAddressTarget()) {
		t.Errorf("%x", []byte(arp))
	}
}
