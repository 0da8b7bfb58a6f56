package stack

import (
	"net/netip"
	"sync"
	"sync/atomic"
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
		legs   map[flow]*Leg
		passed map[flow]splicedSide
	}
	nPassed atomic.Int64 // flows in passed
}

func newTable() *table {
	t := &table{}
	for i := range t.shards {
		t.shards[i].legs = make(map[flow]*Leg)
		t.shards[i].passed = make(map[flow]splicedSide)
	}
	return t
}

func (f *flow) shard() int {
	h := uint32(f.remotePort)*0x9E3779B1 ^ uint32(f.localPort)*0x85EBCA6B
	h ^= uint32(f.remote[15])<<8 | uint32(f.remote[14])<<16 | uint32(f.local[15])
	h *= 0xC2B2AE35
	return int(h>>16) % shardCount
}

func (t *table) get(f *flow) *Leg {
	s := &t.shards[f.shard()]
	s.RLock()
	l := s.legs[*f]
	s.RUnlock()
	return l
}

// add puts l in the table unless its flow is taken.
func (t *table) add(l *Leg) bool {
	s := &t.shards[l.flow.shard()]
	s.Lock()
	defer s.Unlock()
	if _, taken := s.legs[l.flow]; taken {
		return false
	}
	if _, taken := s.passed[l.flow]; taken {
		return false
	}
	s.legs[l.flow] = l
	return true
}

// addBeside puts l into the table beside the connection that has its flow and is passed on.
func (t *table) addBeside(l *Leg) {
	s := &t.shards[l.flow.shard()]
	s.Lock()
	s.legs[l.flow] = l
	s.Unlock()
}

// remove takes l out; a different leg that has meanwhile taken the flow stays.
func (t *table) remove(l *Leg) {
	s := &t.shards[l.flow.shard()]
	s.Lock()
	if s.legs[l.flow] == l {
		delete(s.legs, l.flow)
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
	p := s.passed[*f]
	s.RUnlock()
	return p
}

// addSpliced gives a flow to a connection that is passed on, unless it is taken.
func (t *table) addSpliced(f *flow, p splicedSide) bool {
	s := &t.shards[f.shard()]
	s.Lock()
	defer s.Unlock()
	if _, taken := s.legs[*f]; taken {
		return false
	}
	if _, taken := s.passed[*f]; taken {
		return false
	}
	s.passed[*f] = p
	t.nPassed.Add(1)
	return true
}

// removeSpliced takes the flow from p; another one that has it meanwhile keeps it.
func (t *table) removeSpliced(f *flow, p *Spliced) {
	s := &t.shards[f.shard()]
	s.Lock()
	if s.passed[*f].Spliced == p {
		delete(s.passed, *f)
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
		n += len(s.legs) + len(s.passed)
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
		for _, l := range s.legs {
			legs = append(legs, l)
		}
		s.RUnlock()
	}
	return legs
}
