package pool

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a Pool needs, and what may be changed of it while it runs (Change).
type Config struct {
	Servers []netip.AddrPort // in the order of the configuration
	// AnyFamily: a client of one address family can have a server of the other. Else a
	// server is reached from the client's address, so both must be of one family.
	AnyFamily bool
	// Retry is how long a server that has refused a connection, or not answered, is
	// passed over. Then it is as good as before.
	Retry  time.Duration
	Policy Policy // nil: First
	// Shares are what each server is to have, in the order of Servers; nil: the same.
	Shares []Share
	// SlowStart is for how long a server that has come back gets less than its share, from little to all; 0: at once.
	SlowStart time.Duration
	// Most is how many servers can be told apart, those that have left the list included; 0: any number.
	Most int
}

// Share is what one server is to have of a service's connections.
type Share struct {
	Weight int  // beside the others'; 0: 1
	Backup bool // only while no other is up that is none
	State  State
}

// State is what the operator has ordered of a server.
type State uint8

// States. A server that is not Ready gets no new connection, whatever the others are like.
const (
	Ready State = iota
	Drained
	Disabled
)

var stateNames = [...]string{Ready: "ready", Drained: "drained", Disabled: "disabled"}

func (s State) String() string { return stateNames[s] }

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *State) UnmarshalText(text []byte) error {
	i := slices.Index(stateNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("a server cannot be %q", text)
	}
	*s = State(i)
	return nil
}

// slowest is the part of its weight with which a server begins that starts slowly.
const slowest = 0.05

// Pool is the servers of one service. Its methods may be called concurrently. A server's number stays the same as long as
// anybody may know it, whatever becomes of the list: one that leaves it keeps its number, and has it again when it comes back.
type Pool struct {
	addrs  atomic.Pointer[[]netip.AddrPort] // by number; copied on change
	leaves atomic.Pointer[[]bool]           // by number; nil: none is to be left

	mu      sync.Mutex // a leaf: guards all below
	cfg     Config
	order   []int // the numbers of those in the list
	servers []server
	able    []Candidate // of Next, kept for its memory
	watch   Watch
	onCheck func(again bool)
}

// server is what is known of one. Two witnesses speak: clients' connections, which say
// how it was when they came, and health checks, which go on until it is well again.
type server struct {
	share  Share
	gone   bool // it is not in the list any more
	goneAt time.Time

	refused   bool // the last connection that was tried; a check has not found it up since
	refusedAt time.Time
	known     bool // it was checked, or serves clients, which its checks take for an answer
	failing   bool // its health check fails
	failed    uint64
	why       string // of failing

	conns  int       // that it serves, or that are on their way to it
	turn   float64   // of those that are equal to their policy the one with the highest is next, see take
	backAt time.Time // when it has come back last, as its health checks saw it
}

// Watch is whoever checks the servers' health; it must not block, nor call the pool.
type Watch struct {
	// Doubt is told that a server has refused a connection or not answered, Alive that
	// it has accepted a client's.
	Doubt, Alive func(server int)
}

// Addr is the address of the i-th server.
func (p *Pool) Addr(i int) netip.AddrPort { return (*p.addrs.Load())[i] }

// Watched sets who checks the servers' health. It is called once at most, before the
// first connection.
func (p *Pool) Watched(w Watch) {
	p.mu.Lock()
	p.watch = w
	p.mu.Unlock()
}

// OnCheck sets what is called after a health check that a server has failed, or after
// which it is well again. again: it failed the one before, too. It is called with nothing
// locked.
func (p *Pool) OnCheck(f func(again bool)) {
	p.mu.Lock()
	p.onCheck = f
	p.mu.Unlock()
}

// Want says for whom a server is wanted.
type Want struct {
	Client netip.AddrPort
	// After is the server behind which the search begins: the one that was tried last; -1:
	// with the first.
	After int
	// Not, if set, says which servers will not do.
	Not func(server int) bool
	// Any: if all that are left are down, one of them is to be had all the same.
	Any bool
	// Take: the connection comes, so it is counted (see Take).
	Take bool
}

// Next chooses a server among those that are up, or, if there is none and that is
// wanted, among those that are down. ok is false if there is none.
func (p *Pool) Next(w Want) (i int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	first := slices.Index(p.order, w.After) + 1 // the first, if that one has left the list
	for _, t := range [...]struct{ down, backup bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		if t.down && !w.Any {
			break
		}
		p.able = p.able[:0]
		for d := range p.order {
			i := p.order[(first+d)%len(p.order)]
			if p.passedOver(i, now) == t.down && p.servers[i].share.State == Ready && p.servers[i].share.Backup == t.backup && p.fits(i, w.Client.Addr()) && (w.Not == nil || !w.Not(i)) {
				p.able = append(p.able, p.candidate(i, now))
			}
		}
		if len(p.able) > 0 {
			return p.choose(w), true
		}
	}
	return 0, false
}

// choose is the one among p.able. p.mu is held.
func (p *Pool) choose(w Want) (i int) {
	least := math.Inf(1)
	equal := p.able[:0] // those with the least figure
	for k := range p.able {
		switch f := p.cfg.Policy.Figure(w.Client, &p.able[k]); {
		case f < least:
			least, equal = f, append(p.able[:0], p.able[k])
		case f == least:
			equal = append(equal, p.able[k])
		}
	}
	best, highest, all := equal[0].Server, math.Inf(-1), 0.0
	for k := range equal {
		c := &equal[k]
		all += c.Weight
		if next := p.servers[c.Server].turn + c.Weight; next > highest {
			best, highest = c.Server, next
		}
	}
	if !w.Take {
		return best
	}
	// Smooth weighted round robin, as nginx and LVS have it: all come nearer to their turn by their weight, and who has had it
	// waits for as much as all of them have. Only among equals: who was not to be chosen has nothing to make up for.
	for k := range equal {
		p.servers[equal[k].Server].turn += equal[k].Weight
	}
	p.servers[best].turn -= all
	p.servers[best].conns++
	return best
}

// candidate is what a policy knows of the i-th server. p.mu is held.
func (p *Pool) candidate(i int, now time.Time) Candidate {
	s := &p.servers[i]
	c := Candidate{Server: i, Addr: p.Addr(i), Place: len(p.able), Weight: float64(s.share.Weight), Conns: s.conns}
	if p.cfg.SlowStart > 0 && !s.backAt.IsZero() {
		c.Weight *= min(max(slowest, float64(now.Sub(s.backAt))/float64(p.cfg.SlowStart)), 1)
	}
	return c
}

// Take counts a connection that the i-th server has, although nobody has chosen it now: it comes from a takeover, say,
// or from another server.
func (p *Pool) Take(i int) {
	p.mu.Lock()
	p.servers[i].conns++
	p.mu.Unlock()
}

// Left tells that a connection which was counted at the i-th server is over, or has gone to another one.
func (p *Pool) Left(i int) {
	p.mu.Lock()
	p.servers[i].conns--
	p.mu.Unlock()
}

// fits reports whether a client can have the i-th server.
func (p *Pool) fits(i int, client netip.Addr) bool {
	return p.cfg.AnyFamily || p.Addr(i).Addr().Is6() == client.Is6()
}

// passedOver reports whether a server is passed over as long as there is another one: its
// health check fails, or it has refused lately. p.mu is held.
func (p *Pool) passedOver(i int, now time.Time) bool {
	s := &p.servers[i]
	return s.failing || s.refused && now.Sub(s.refusedAt) <= p.cfg.Retry
}

// Accepted tells that a server has accepted a client's connection.
func (p *Pool) Accepted(i int) {
	p.mu.Lock()
	s, alive := &p.servers[i], p.watch.Alive
	s.refused, s.known = false, s.known || alive != nil
	p.mu.Unlock()
	if alive != nil {
		alive(i)
	}
}

// Refused tells that a server has refused a connection, or not answered.
func (p *Pool) Refused(i int) {
	p.mu.Lock()
	p.servers[i].refused, p.servers[i].refusedAt = true, time.Now()
	doubt := p.watch.Doubt
	p.mu.Unlock()
	if doubt != nil {
		doubt(i)
	}
}

// Checked tells what a health check has left of a server's standing: up or down, and why.
// It is told after each check, also if nothing has changed.
func (p *Pool) Checked(i int, up bool, why string) {
	p.mu.Lock()
	s := &p.servers[i]
	was := s.failing
	s.known, s.failing, s.why = true, !up, why
	switch {
	case !up:
		s.failed++
	case was:
		s.refused = false // that was when it was down
		s.backAt, s.turn = time.Now(), 0
	}
	tell := p.onCheck
	p.mu.Unlock()
	if tell != nil && (was || !up) {
		tell(was && !up)
	}
}

// Failing reports whether the health check of a server fails, and how many it has failed
// so far: who uses it although it was down learns so that it is down now, and not only was.
func (p *Pool) Failing(i int) (now bool, checks uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.servers[i].failing, p.servers[i].failed
}

// Status is what is known of one server.
type Status struct {
	Number int
	Addr   netip.AddrPort
	Up     bool // also one of which nothing is known
	Known  bool
	Why    string // it is not up
	Conns  int    // that it serves
	Share  Share
	Gone   bool // it is not in the list any more, and serves connections still
}

// Status returns what is known of each server, in their order, and then of those that have left the list and
// serve connections. Of one that nobody checks
// a refusal is the last that is known, however long ago: it stays down until it accepts a
// client.
func (p *Pool) Status() []Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	all := make([]Status, 0, len(p.servers))
	for _, i := range p.order {
		all = append(all, p.statusOf(i, now))
	}
	for i := range p.servers {
		if p.servers[i].gone && p.servers[i].conns > 0 {
			all = append(all, p.statusOf(i, now))
		}
	}
	return all
}

// statusOf is of the i-th. p.mu is held.
func (p *Pool) statusOf(i int, now time.Time) Status {
	s := &p.servers[i]
	st := Status{Number: i, Addr: p.Addr(i), Up: true, Known: s.known, Conns: s.conns, Share: s.share, Gone: s.gone}
	switch {
	case s.failing:
		st.Up, st.Why = false, s.why
	case p.passedOver(i, now), s.refused && p.watch.Doubt == nil:
		st.Up, st.Why = false, fmt.Sprintf("refused or did not answer, %v ago", now.Sub(s.refusedAt).Round(time.Second))
	}
	return st
}
