package stack

import (
	"bytes"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// IPv4 fragments of TCP segments to our addresses are put together: whoever sends over
// a path narrower than 552 bytes may let routers fragment. IPv6 has no such routers,
// and its hosts have no need to.

const (
	// fragmentsMax bounds how many packets are put together at a time; the oldest
	// gives way. Together they hold fragmentsMax*fragmentSize bytes at most.
	fragmentsMax = 256
	// fragmentSize is the largest packet that is put together, bytes: nobody fragments
	// what is larger than an Ethernet frame to get it through a narrow path.
	fragmentSize = 2048
	// fragmentLife is how long the rest of a packet is awaited. An identification may
	// come again soon (RFC 4963).
	fragmentLife = 2 * time.Second
)

// fragments are packets of which a part is here. Only the reader's goroutine has it.
type fragments struct {
	parts map[fragmentKey]*fragmented
	order []*fragmented // oldest first; those that are done are still in it
}

type fragmentKey struct {
	addrs [8]byte
	id    uint16
}

type fragmented struct {
	key   fragmentKey
	until time.Duration
	head  []byte // IP header of the first fragment; nil: not here yet
	data  [fragmentSize]byte
	have  [fragmentSize / 8]bool // by units of the offset (RFC 791)
	got   int                    // units
	size  int                    // bytes of payload; 0: the last fragment is not here yet
}

// fragment takes a part of a packet and returns the whole when it is complete. It
// counts what it drops.
func (e *Engine) fragment(b []byte, total int) []byte {
	ip := header.IPv4(b)
	hl := int(ip.HeaderLength())
	at, n := int(ip.FragmentOffset()), total-hl
	if b[0]>>4 != 4 || !e.owned[destination(b)] || len(b) < total || n <= 0 || at+n > fragmentSize || ip.More() && n%8 != 0 {
		e.C.drop(DropFragment)
		return nil
	}
	f := e.frags.find(fragmentKey{[8]byte(b[12:20]), ip.ID()}, e.now(), &e.C)
	if !f.add(at, b[hl:total], ip.More()) {
		e.frags.drop(f) // parts that overlap hide something (RFC 5722 says it for IPv6)
		e.C.drop(DropFragment)
		return nil
	}
	if at == 0 {
		f.head = bytes.Clone(b[:hl])
	}
	if f.head == nil || f.size == 0 || f.got < (f.size+7)/8 {
		return nil
	}
	e.frags.drop(f)
	whole := append(f.head, f.data[:f.size]...)
	ip = header.IPv4(whole)
	ip.SetFlagsFragmentOffset(0, 0)
	ip.SetTotalLength(uint16(len(whole)))
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	return whole
}

// add takes a part; false if it overlaps another or contradicts it.
func (f *fragmented) add(at int, part []byte, more bool) bool {
	end := at + len(part)
	if f.size > 0 && (end > f.size || !more) {
		return false
	}
	for u := at / 8; u < (end+7)/8; u++ {
		if f.have[u] {
			return false
		}
		f.have[u] = true
		f.got++
	}
	if !more {
		f.size = end
		for _, behind := range f.have[(end+7)/8:] {
			if behind {
				return false // something lies behind the end
			}
		}
	}
	copy(f.data[at:], part)
	return true
}

// find returns what is here of a packet.
func (s *fragments) find(k fragmentKey, now time.Duration, c *Counters) *fragmented {
	for len(s.order) > 0 && (s.order[0].until <= now || len(s.order) >= fragmentsMax || s.parts[s.order[0].key] != s.order[0]) {
		if old := s.order[0]; s.parts[old.key] == old {
			s.drop(old)
			c.drop(DropFragment)
		}
		s.order[0] = nil
		s.order = s.order[1:]
	}
	if f := s.parts[k]; f != nil {
		return f
	}
	f := &fragmented{key: k, until: now + fragmentLife}
	if s.parts == nil {
		s.parts = map[fragmentKey]*fragmented{}
	}
	s.parts[k] = f
	s.order = append(s.order, f)
	return f
}

func (s *fragments) drop(f *fragmented) { delete(s.parts, f.key) }
