package pool

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Config is what a Pool needs.
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
}

// Share is what one server is to have of a service's connections.
type Share struct {
	Weight int  // beside the others'; 0: 1
	Backup bool // only while no other is up that is none
}

// slowest is the part of its weight with which a server begins that starts slowly.
const slowest = 0.05

// Pool is the servers of one service. Its methods may be called concurrently.
type Pool struct {
	cfg Config

	mu      sync.Mutex // a leaf: guards all below
	servers []server
	able    []Candidate // of Next, kept for its memory
	watch   Watch
	onCheck func(again bool)
}

// server is what is known of one. Two witnesses speak: clients' connections, which say
// how it was when they came, and health checks, which go on until it is well again.
type server struct {
	refused   bool // the last connection that was tried; a check has not found it up since
	refusedAt time.Time
	known     bool // it was checked, or serves clients, which its checks take for an answer
	failing   bool // its health check fails
	failed    uint64
	why       string // of failing

	conns  int       // that it serves, or that are on their way to it
	finish float64   // virtual time at which the last connection that it has taken is over
	backAt time.Time // when it has come back last, as its health checks saw it
}

// Watch is whoever checks the servers' health; it must not block, nor call the pool.
type Watch struct {
	// Doubt is told that a server has refused a connection or not answered, Alive that
	// it has accepted a client's.
	Doubt, Alive func(server int)
}

// New makes the pool of a service whose servers nobody has asked yet: they are taken for up.
func New(cfg Config) *Pool {
	if cfg.Policy == nil {
		cfg.Policy = First{}
	}
	return &Pool{cfg: cfg, servers: make([]server, len(cfg.Servers)), able: make([]Candidate, 0, len(cfg.Servers))}
}

// Servers returns the addresses; they must not be changed.
func (p *Pool) Servers() []netip.AddrPort { return p.cfg.Servers }

// Len is how many servers there are.
func (p *Pool) Len() int { return len(p.cfg.Servers) }

// Addr is the address of the i-th server.
func (p *Pool) Addr(i int) netip.AddrPort { return p.cfg.Servers[i] }

// Index is the server with that address; the first, if none has it.
func (p *Pool) Index(a netip.AddrPort) int { return max(slices.Index(p.cfg.Servers, a), 0) }

// Find is the server with that address.
func (p *Pool) Find(a netip.AddrPort) (i int, ok bool) {
	i = slices.Index(p.cfg.Servers, a)
	return i, i >= 0
}

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
	for _, t := range [...]struct{ down, backup bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		if t.down && !w.Any {
			break
		}
		p.able = p.able[:0]
		for d := range p.servers {
			i := (w.After + 1 + d) % len(p.servers)
			if p.passedOver(i, now) == t.down && p.share(i).Backup == t.backup && p.fits(i, w.Client.Addr()) && (w.Not == nil || !w.Not(i)) {
				p.able = append(p.able, p.candidate(i, now))
			}
		}
		if len(p.able) > 0 {
			i = p.able[p.cfg.Policy.Choose(w.Client, p.able)].Server
			if w.Take {
				p.take(i, w.Client.Addr())
			}
			return i, true
		}
	}
	return 0, false
}

// share is what the i-th server is to have.
func (p *Pool) share(i int) Share {
	if p.cfg.Shares == nil {
		return Share{Weight: 1}
	}
	s := p.cfg.Shares[i]
	s.Weight = max(s.Weight, 1)
	return s
}

// candidate is what a policy knows of the i-th server. p.mu is held.
func (p *Pool) candidate(i int, now time.Time) Candidate {
	s := &p.servers[i]
	c := Candidate{Server: i, Addr: p.cfg.Servers[i], Weight: float64(p.share(i).Weight), Conns: s.conns, Start: s.finish}
	if p.cfg.SlowStart > 0 && !s.backAt.IsZero() {
		c.Weight *= min(max(slowest, float64(now.Sub(s.backAt))/float64(p.cfg.SlowStart)), 1)
	}
	return c
}

// take counts a connection of that client at the i-th server, which was chosen among p.able. Those that it could have had,
// were they up, go with the time: who comes back has no turns to make up for. p.mu is held.
func (p *Pool) take(i int, client netip.Addr) {
	next := math.Inf(1) // when the next connection begins
	for k := range p.able {
		c := &p.able[k]
		s := &p.servers[c.Server]
		if c.Server == i {
			s.finish += 1 / c.Weight
			s.conns++
		}
		next = min(next, s.finish)
	}
	for k := range p.servers {
		if p.fits(k, client) && !slices.ContainsFunc(p.able, func(c Candidate) bool { return c.Server == k }) {
			p.servers[k].finish = max(p.servers[k].finish, next)
		}
	}
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
	return p.cfg.AnyFamily || p.cfg.Servers[i].Addr().Is6() == client.Is6()
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
		s.backAt = time.Now()
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
	Up    bool // also one of which nothing is known
	Known bool
	Why   string // it is not up
	Conns int    // that it serves
	Share Share
}

// Status returns what is known of each server, in their order. Of one that nobody checks
// a refusal is the last that is known, however long ago: it stays down until it accepts a
// client.
func (p *Pool) Status() []Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	all := make([]Status, len(p.servers))
	for i := range p.servers {
		s := &p.servers[i]
		all[i] = Status{Up: true, Known: s.known, Conns: s.conns, Share: p.share(i)}
		switch {
		case s.failing:
			all[i].Up, all[i].Why = false, s.why
		case p.passedOver(i, now), s.refused && p.watch.Doubt == nil:
			all[i].Up, all[i].Why = false, fmt.Sprintf("refused or did not answer, %v ago", now.Sub(s.refusedAt).Round(time.Second))
		}
	}
	return all
}
