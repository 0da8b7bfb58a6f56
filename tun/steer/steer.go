package steer

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"lockstep/internal/loglimit"
)

// Hook is where a program sits, each where packets come in: on the NIC towards the clients, on that towards
// the servers, on the TUN device.
type Hook int

// Values of Hook.
const (
	Front Hook = iota
	Back
	Out
	hooks
	forwarded = hooks // counts segments of Flows
)

func (h Hook) String() string { return [...]string{"front", "back", "out", "flows"}[h] }

// Config says what is taken. What is not named goes the kernel's usual way.
type Config struct {
	TUN, Front, Back string // interface names
	MTU              int    // of the TUN device

	// Strict leaves to the packet filter what it may take for forged: from the front, what says that it is a
	// server's; from the back, what is for an address of VIPs.
	Strict bool

	Listen   []netip.AddrPort // to these, from the front
	AllFrom  []netip.AddrPort // that are servers'
	Gateways []netip.Addr     // to these, from the back, whoever sends it,
	VIPs     []netip.Addr     // and to these
	Servers  []netip.AddrPort // from these, from the back, to whomever
	From, To []netip.AddrPort // from or to these, out of the TUN device

	Flows int // how many connections may be passed on from NIC to NIC; 0: none

	Log *slog.Logger // nil: silent
}

// kind says what an entry of the table is there for.
type kind uint8

const (
	kindListen kind = iota + 1
	kindForged
	kindVirtual
	kindServer
	kindFrom
	kindTo
	kindOwn
)

// ownMax is how many addresses this machine may have of its own; with more nothing is steered.
const ownMax = 4096

// Values of the table's entries.
const (
	leave uint32 = iota // to the kernel's usual way
	take
)

// entry is a key of the table, as it lies in the kernel's memory.
type entry struct {
	Addr [16]byte
	Port [2]byte // big endian
	Kind kind
	Fam  byte
}

const entryLen = 20

// Steering is the programs and where they sit.
type Steering struct {
	cfg    Config
	log    *slog.Logger
	fixed  map[entry]uint32 // of the table: what cfg says
	table  *ebpf.Map
	counts *ebpf.Map
	flows  *Flows                  // nil: none
	progs  [hooks][2]*ebpf.Program // without and with the check for which Around.ReversePath is; the last has only the first

	mu    sync.Mutex // guards what follows
	links [hooks]link.Link
	at    [hooks]int // index of the interface
	which [hooks]int // of progs
	own   map[entry]uint32
	why   string // nothing is steered; empty: it is
	ended bool
}

// New loads the programs for the TUN device, which must be there; Look puts them where they belong. It takes
// CAP_BPF and CAP_NET_ADMIN, of the whole machine and not only of a user namespace.
func New(cfg Config) (*Steering, error) {
	s := &Steering{cfg: cfg, log: cfg.Log, why: "not yet", own: map[entry]uint32{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("load the programs that steer packets: %w", err), s.Close())
	}
	return s, nil
}

func (s *Steering) load() (err error) {
	tun, err := net.InterfaceByName(s.cfg.TUN)
	if err != nil {
		return fmt.Errorf("find interface %q: %w", s.cfg.TUN, err)
	}
	s.fixed = s.cfg.entries()
	s.table, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "lockstep_ends", Type: ebpf.Hash, KeySize: entryLen, ValueSize: 4, MaxEntries: uint32(len(s.fixed) + 2*ownMax),
	})
	if err != nil {
		return err
	}
	for e, v := range s.fixed {
		if err := s.table.Put(e, v); err != nil {
			return err
		}
	}
	s.counts, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "lockstep_count", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: uint32(forwarded) + 1,
	})
	if err != nil {
		return err
	}
	var maps flowMaps
	if s.cfg.Flows > 0 {
		if s.flows, err = newFlows(&s.cfg); err != nil {
			return err
		}
		maps = s.flows.maps()
	}
	for h := range hooks {
		for which := range s.progs[h] {
			if h == Out && which > 0 {
				continue
			}
			p := program{hook: h, tun: int32(tun.Index), mtu: int32(s.cfg.MTU), strict: s.cfg.Strict, back4: which > 0, table: s.table.FD(), counts: s.counts.FD(), flows: maps}
			s.progs[h][which], err = ebpf.NewProgram(&ebpf.ProgramSpec{
				Name: "lockstep_" + h.String(), Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress, Instructions: p.assemble(), License: "GPL",
			})
			if err != nil {
				return fmt.Errorf("the one of hook %v: %w", h, err)
			}
		}
	}
	return nil
}

// entries are what is in the table whatever happens.
func (c *Config) entries() map[entry]uint32 {
	m := map[entry]uint32{}
	for _, l := range []struct {
		kind  kind
		addrs []netip.AddrPort
	}{{kindListen, c.Listen}, {kindForged, c.AllFrom}, {kindServer, c.Servers}, {kindFrom, c.From}, {kindTo, c.To}} {
		for _, a := range l.addrs {
			m[key(l.kind, a)] = take
		}
	}
	for _, a := range c.Gateways {
		m[key(kindVirtual, netip.AddrPortFrom(a, 0))] = take
	}
	vips := take
	if c.Strict {
		vips = leave
	}
	for _, a := range c.VIPs {
		m[key(kindVirtual, netip.AddrPortFrom(a, 0))] = vips
	}
	return m
}

func key(k kind, a netip.AddrPort) entry {
	e := entry{Port: [2]byte{byte(a.Port() >> 8), byte(a.Port())}, Kind: k, Fam: unix.AF_INET}
	ip := a.Addr().Unmap()
	if ip.Is6() {
		e.Fam = unix.AF_INET6
	}
	copy(e.Addr[:], ip.AsSlice())
	return e
}

// leaveOwn puts this machine's addresses into the table, as what is left alone: the kernel asks its own table first,
// and so comes a server's answer to a connection of this machine's (a health check, an operator's) to its socket. A
// virtual address stays one though somebody has configured it here (Routes).
func (s *Steering) leaveOwn(own []netip.Addr) error {
	want := map[entry]uint32{}
	for _, a := range own {
		for _, k := range []kind{kindVirtual, kindOwn} {
			if e := key(k, netip.AddrPortFrom(a, 0)); k == kindOwn || !has(s.fixed, e) {
				want[e] = leave
			}
		}
	}
	if len(want) > 2*ownMax {
		return fmt.Errorf("this machine has more than %d addresses of its own, which must all be known", ownMax)
	}
	for e := range s.own {
		if has(want, e) {
			continue
		}
		if err := s.table.Delete(e); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget an address of this machine: %w", err)
		}
		delete(s.own, e)
	}
	for e, v := range want {
		if has(s.own, e) {
			continue
		}
		if err := s.table.Put(e, v); err != nil {
			return fmt.Errorf("note an address of this machine: %w", err)
		}
		s.own[e] = v
	}
	return nil
}

func has(m map[entry]uint32, e entry) bool {
	_, ok := m[e]
	return ok
}

// Around is what the programs go by beside Config: how the machine is at present.
type Around struct {
	Own         []netip.Addr // this machine's addresses: what is to or from one is the kernel's
	ReversePath [2]bool      // on Front, on Back: the kernel's strict reverse path filter is on, so that they must go by it, too
	Obstacle    string       // in words, what must see packets that would be steered; empty: nothing
}

// Look puts the programs where they belong if they are not there: at the first time, if an interface is
// another one than before, if somebody has taken them away. With an obstacle it takes them away.
func (s *Steering) Look(around Around) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	was := s.why
	s.why = around.Obstacle
	if err := s.leaveOwn(around.Own); err != nil && s.why == "" {
		s.why = err.Error()
	}
	for h, name := range []string{s.cfg.Front, s.cfg.Back, s.cfg.TUN} {
		if s.why != "" {
			break
		}
		which := 0
		if Hook(h) != Out && around.ReversePath[h] {
			which = 1
		}
		if err := s.attach(Hook(h), name, which); err != nil {
			s.why = err.Error()
		}
	}
	if s.why != "" {
		s.detach()
	}
	switch {
	case s.why == was:
	case s.why == "":
		s.log.Info("packets are steered (eBPF) past routing and packet filter", "interfaces", []string{s.cfg.Front, s.cfg.Back, s.cfg.TUN})
	default:
		s.log.Info("packets take the way of routing and packet filter", "why", s.why, loglimit.Per("steering"))
	}
}

// attach sees to it that one program is where it belongs.
func (s *Steering) attach(h Hook, name string, which int) error {
	ifc, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("find interface %q: %w", name, err)
	}
	if s.links[h] != nil {
		if s.at[h] == ifc.Index && s.which[h] == which && attached(s.links[h]) && s.last(h) {
			return nil
		}
		_ = s.links[h].Close()
		s.links[h] = nil
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifc.Index, Program: s.progs[h][which], Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return fmt.Errorf("put a program on %s: %w", name, err)
	}
	s.links[h], s.at[h], s.which[h] = l, ifc.Index, which
	return nil
}

// attached: the kernel takes a link off an interface that is deleted, and so may anybody (bpftool link detach).
func attached(l link.Link) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	t := info.TCX()
	return t != nil && t.Ifindex != 0
}

// last: no program comes after ours, which would not see what ours takes. Put there again, ours is the last.
func (s *Steering) last(h Hook) bool {
	there, err := link.QueryPrograms(link.QueryOptions{Target: s.at[h], Attach: ebpf.AttachTCXIngress})
	if err != nil || len(there.Programs) == 0 {
		return false
	}
	info, err := s.progs[h][s.which[h]].Info()
	if err != nil {
		return false
	}
	id, ok := info.ID()
	return ok && there.Programs[len(there.Programs)-1].ID == id
}

func (s *Steering) detach() {
	for h := range s.links {
		if s.links[h] != nil {
			_ = s.links[h].Close()
			s.links[h] = nil
		}
	}
}

// Why says why nothing is steered; empty: packets are.
func (s *Steering) Why() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

// Packets counts what was steered, by hook.
func (s *Steering) Packets() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]uint64{}
	for h := range forwarded + 1 {
		var each []uint64 // per CPU
		if h == forwarded && s.flows == nil || s.ended || s.counts.Lookup(uint32(h), &each) != nil {
			continue
		}
		for _, n := range each {
			m[h.String()] += n
		}
	}
	return m
}

// Close takes the programs away. It may be called twice.
func (s *Steering) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.detach()
	var errs []error
	for _, both := range s.progs {
		for _, p := range both {
			errs = append(errs, p.Close()) // nil ones may be closed
		}
	}
	if s.flows != nil {
		errs = append(errs, s.flows.close())
	}
	return errors.Join(append(errs, s.table.Close(), s.counts.Close())...)
}

// errNoTCX says that the kernel is older than Linux 6.6, or built without eBPF.
var errNoTCX = errors.New("the kernel has no TCX (Linux 6.6 or later, CONFIG_BPF_SYSCALL and CONFIG_NET_XGRESS)")

// Ask says why New or Look would fail here, and changes nothing. Who may not ask gets os.ErrPermission.
func Ask() error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "lockstep_ask", Type: ebpf.SchedCLS, Instructions: nothing(), License: "GPL"})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return errNoTCX
	}
	if err != nil {
		return fmt.Errorf("load a program: %w", err)
	}
	defer p.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: p, Attach: ebpf.AttachTCXIngress})
	switch {
	case err == nil:
		return l.Close()
	case errors.Is(err, unix.ENODEV): // there is no such interface
		return nil
	case errors.Is(err, os.ErrPermission):
		return err
	}
	return errNoTCX
}

// Flows are what is passed on from NIC to NIC; nil: nothing is.
func (s *Steering) Flows() *Flows { return s.flows }
