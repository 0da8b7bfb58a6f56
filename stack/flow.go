package stack

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"lockstep/splice"
)

// flow names one leg by its addresses as seen from this appliance. IPv4
// addresses are kept in their 4-in-6 form so that one map serves both.
type flow struct {
	local, remote         [16]byte
	localPort, remotePort uint16
}

func flowOf(local, remote netip.AddrPort) flow {
	return flow{
		local:      local.Addr().As16(),
		remote:     remote.Addr().As16(),
		localPort:  local.Port(),
		remotePort: remote.Port(),
	}
}

// shardCount is a power of two; it spreads lock contention between the TUN
// reader, netstack's processors and the relay's workers.
const shardCount = 64

// table maps flows to legs. Its locks are leaves: nothing else is locked or
// called while one is held.
type table struct {
	shards [shardCount]struct {
		sync.RWMutex
		legs   byFlow[*Leg]
		passed byFlow[splicedSide]
	}
	nPassed atomic.Int64 // flows in passed
}

func newTable() *table {
	return &table{}
}

// byFlow is a map from flows. IPv4's are a third as long as IPv6's, and there may be two million.
type byFlow[T any] struct {
	v4 map[flow4]T
	v6 map[flow]T
}

// flow4 is a flow of IPv4 addresses.
type flow4 struct {
	local, remote         [4]byte
	localPort, remotePort uint16
}

// mapped is how an IPv4 address begins in its 4-in-6 form.
var mapped = [12]byte{10: 0xff, 11: 0xff}

// short is f if both addresses are IPv4's.
func (f *flow) short() (s flow4, ok bool) {
	if [12]byte(f.local[:12]) != mapped || [12]byte(f.remote[:12]) != mapped {
		return s, false
	}
	return flow4{[4]byte(f.local[12:]), [4]byte(f.remote[12:]), f.localPort, f.remotePort}, true
}

func (m *byFlow[T]) get(f *flow) (v T, ok bool) {
	if s, short := f.short(); short {
		v, ok = m.v4[s]
	} else {
		v, ok = m.v6[*f]
	}
	return v, ok
}

func (m *byFlow[T]) set(f *flow, v T) {
	if s, short := f.short(); short {
		if m.v4 == nil {
			m.v4 = make(map[flow4]T)
		}
		m.v4[s] = v
		return
	}
	if m.v6 == nil {
		m.v6 = make(map[flow]T)
	}
	m.v6[*f] = v
}

func (m *byFlow[T]) delete(f *flow) {
	if s, short := f.short(); short {
		delete(m.v4, s)
	} else {
		delete(m.v6, *f)
	}
}

func (m *byFlow[T]) len() int { return len(m.v4) + len(m.v6) }

func (f *flow) shard() int {
	h := uint32(f.remotePort)*0x9E3779B1 ^ uint32(f.localPort)*0x85EBCA6B
	h ^= uint32(f.remote[15])<<8 | uint32(f.remote[14])<<16 | uint32(f.local[15])
	h *= 0xC2B2AE35
	return int(h>>16) % shardCount
}

func (t *table) get(f *flow) *Leg {
	s := &t.shards[f.shard()]
	s.RLock()
	l, _ := s.legs.get(f)
	s.RUnlock()
	return l
}

// add puts l in the table unless its flow is taken.
func (t *table) add(l *Leg) bool {
	s := &t.shards[l.flow.shard()]
	s.Lock()
	defer s.Unlock()
	if _, taken := s.legs.get(&l.flow); taken {
		return false
	}
	if _, taken := s.passed.get(&l.flow); taken {
		return false
	}
	s.legs.set(&l.flow, l)
	return true
}

// addBeside puts l into the table beside the connection that has its flow and is passed on.
func (t *table) addBeside(l *Leg) {
	s := &t.shards[l.flow.shard()]
	s.Lock()
	s.legs.set(&l.flow, l)
	s.Unlock()
}

// remove takes l out; a different leg that has meanwhile taken the flow stays.
func (t *table) remove(l *Leg) {
	s := &t.shards[l.flow.shard()]
	s.Lock()
	if has, _ := s.legs.get(&l.flow); has == l {
		s.legs.delete(&l.flow)
	}
	s.Unlock()
}

// spliced returns the connection that is passed on and has the flow.
func (t *table) spliced(f *flow) splicedSide {
	if t.nPassed.Load() == 0 {
		return splicedSide{}
	}
	s := &t.shards[f.shard()]
	s.RLock()
	p, _ := s.passed.get(f)
	s.RUnlock()
	return p
}

// addSpliced gives a flow to a connection that is passed on, unless it is taken.
func (t *table) addSpliced(f *flow, p splicedSide) bool {
	s := &t.shards[f.shard()]
	s.Lock()
	defer s.Unlock()
	if _, taken := s.legs.get(f); taken {
		return false
	}
	if _, taken := s.passed.get(f); taken {
		return false
	}
	s.passed.set(f, p)
	t.nPassed.Add(1)
	return true
}

// removeSpliced takes the flow from p; another one that has it meanwhile keeps it.
func (t *table) removeSpliced(f *flow, p *Spliced) {
	s := &t.shards[f.shard()]
	s.Lock()
	if has, _ := s.passed.get(f); has.Spliced == p {
		s.passed.delete(f)
		t.nPassed.Add(-1)
	}
	s.Unlock()
}

// taken reports whether anybody has the flow.
func (t *table) taken(f *flow) bool { return t.get(f) != nil || t.spliced(f).Spliced != nil }

// count counts flows.
func (t *table) count() int {
	n := 0
	for i := range t.shards {
		s := &t.shards[i]
		s.RLock()
		n += s.legs.len() + s.passed.len()
		s.RUnlock()
	}
	return n
}

// all returns every leg; for shutdown and for the janitor's rare full walks.
func (t *table) all() []*Leg {
	var legs []*Leg
	for i := range t.shards {
		s := &t.shards[i]
		s.RLock()
		for _, l := range s.legs.v4 {
			legs = append(legs, l)
		}
		for _, l := range s.legs.v6 {
			legs = append(legs, l)
		}
		s.RUnlock()
	}
	return legs
}

// eachSpliced calls f with every connection that is passed on. No lock of the table's is held meanwhile.
func (t *table) eachSpliced(f func(*Spliced)) {
	var some []*Spliced
	for i := range t.shards {
		s := &t.shards[i]
		some = some[:0]
		s.RLock()
		for _, side := range s.passed.v4 {
			some = side.ofClient(some)
		}
		for _, side := range s.passed.v6 {
			some = side.ofClient(some)
		}
		s.RUnlock()
		for _, p := range some {
			f(p)
		}
	}
}

// ofClient appends the connection, if that is its client's flow.
func (p splicedSide) ofClient(to []*Spliced) []*Spliced {
	if p.from == splice.Client {
		to = append(to, p.Spliced)
	}
	return to
}
