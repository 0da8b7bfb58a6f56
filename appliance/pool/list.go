package pool

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// goneFor is for how long at least a server that has left the list keeps its number.
const goneFor = time.Minute

// New makes the pool of a service whose servers nobody has asked yet: they are taken for up.
func New(cfg Config) *Pool {
	p := &Pool{}
	p.addrs.Store(new([]netip.AddrPort))
	p.set(cfg)
	return p
}

// Change takes another configuration: its servers, their shares, the policy, the times. Servers that stay keep what is known of
// them, and their connections and numbers; new ones are taken for up; those that are not in the list any more get no
// new connections, and what they serve goes on. An error says why nothing was changed.
func (p *Pool) Change(cfg Config) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := 0
	for _, a := range cfg.Servers {
		if _, known := p.Find(a); !known {
			fresh++
		}
	}
	if room := p.room(time.Now()); cfg.Most > 0 && fresh > room {
		return fmt.Errorf("change a service's servers: %d new ones, and room for %d: those that have left count for %v, and while they serve connections (limit: %d in all)", fresh, room, goneFor, cfg.Most)
	}
	p.set(cfg)
	return nil
}

// set makes cfg the configuration. p.mu is held, or nobody else knows p.
func (p *Pool) set(cfg Config) {
	if cfg.Policy == nil {
		cfg.Policy = First{}
	}
	now := time.Now()
	p.cfg = cfg
	p.order = make([]int, 0, len(cfg.Servers))
	for k, a := range cfg.Servers {
		i, known := p.Find(a)
		if !known {
			i = p.number(a, now)
		}
		s := &p.servers[i]
		if s.gone { // it comes back: of what was known nothing counts any more
			*s = server{conns: s.conns, failed: s.failed}
		}
		s.share = Share{Weight: 1}
		if cfg.Shares != nil {
			s.share = cfg.Shares[k]
			s.share.Weight = max(s.share.Weight, 1)
		}
		p.order = append(p.order, i)
	}
	for i := range p.servers {
		if s := &p.servers[i]; !s.gone && !slices.Contains(p.order, i) {
			s.gone, s.goneAt = true, now
		}
	}
	p.able = make([]Candidate, 0, len(p.servers))
	p.leave()
}

// leave notes which servers' connections are to go elsewhere. p.mu is held, or nobody else knows p.
func (p *Pool) leave() {
	var leaves *[]bool
	for i := range p.servers {
		if s := &p.servers[i]; s.gone || s.share.State == Drained {
			if leaves == nil {
				leaves = new(make([]bool, len(p.servers)))
			}
			(*leaves)[i] = true
		}
	}
	p.leaves.Store(leaves)
}

// Leaves reports whether the connections of a server, those that can, are to go to another one: it is drained, or in the list no
// more.
func (p *Pool) Leaves(server int) bool {
	l := p.leaves.Load()
	return l != nil && server < len(*l) && (*l)[server]
}

// room is how many numbers are left. p.mu is held.
func (p *Pool) room(now time.Time) int {
	n := p.cfg.Most - len(p.servers)
	for i := range p.servers {
		if p.free(i, now) {
			n++
		}
	}
	return n
}

// free reports whether a number may be another server's. p.mu is held.
func (p *Pool) free(i int, now time.Time) bool {
	s := &p.servers[i]
	return s.gone && s.conns == 0 && now.Sub(s.goneAt) >= goneFor
}

// number gives an address a number. p.mu is held, or nobody else knows p.
func (p *Pool) number(a netip.AddrPort, now time.Time) int {
	addrs := slices.Clone(*p.addrs.Load())
	i := 0
	for i < len(p.servers) && !p.free(i, now) {
		i++
	}
	if i < len(p.servers) {
		addrs[i], p.servers[i] = a, server{}
	} else {
		addrs, p.servers = append(addrs, a), append(p.servers, server{})
	}
	p.addrs.Store(&addrs)
	return i
}

// Servers returns the addresses of those in the list, in its order.
func (p *Pool) Servers() []netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.cfg.Servers)
}

// Ready is how many servers there are in the list that take connections.
func (p *Pool) Ready() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, i := range p.order {
		if p.servers[i].share.State == Ready {
			n++
		}
	}
	return n
}

// Index is the server with that address; the first, if none has it.
func (p *Pool) Index(a netip.AddrPort) int {
	i, _ := p.Find(a)
	return max(i, 0)
}

// Find is the server with that address, be it in the list or not any more.
func (p *Pool) Find(a netip.AddrPort) (i int, ok bool) {
	i = slices.Index(*p.addrs.Load(), a)
	return i, i >= 0
}

// All reports whether something holds of each server in the list. f must not call the pool.
func (p *Pool) All(f func(server int) bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.ContainsFunc(p.order, func(i int) bool { return !f(i) })
}
