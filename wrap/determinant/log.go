package determinant

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Authority decides: who is asked first for a determinant sets it.
type Authority interface {
	// Join is asked once for each connection that a server accepts, and for the program's start.
	Join(c Connection) (Instance, error)
	// Decide returns what n is: the proposal, if nobody asked before.
	Decide(n Name, proposal []byte) ([]byte, error)
	// Leave says that this server has no process any more that serves the instance.
	Leave(instance uint64) error
}

// Limits of a Log.
const (
	MaxInstances = 65536    // that last at one time, and connections that one server has accepted and another has not
	MaxKept      = 16 << 20 // bytes of determinants that one instance waits with for a server that has not asked yet
	MaxValue     = 64 << 10 // bytes of one determinant
	perValue     = 64       // bytes, roughly, that keeping one takes beside key and value
)

var (
	errFull      = errors.New("too much waits for a server that does not ask")
	errInstances = fmt.Errorf("%d connections last already, or wait for a server that does not accept them", MaxInstances)
	errNoMember  = errors.New("asked by a server that has not joined this connection")
)

// Log is what has been decided, for a number of servers that is known. It is not safe for use by several goroutines.
type Log struct {
	servers int
	nonce   func() [16]byte
	last    uint64
	present map[string]bool
	seen    map[Connection]*seen
	lives   map[uint64]*life
}

// seen is how often each server that is present has accepted a connection of one name, for as long as they differ or one
// of the lives lasts.
type seen struct {
	joins  map[string]uint64
	newest uint64           // of joins
	lives  map[uint64]*life // by ordinal: those that nobody has left
	late   map[string]late
	own    int // lives that are out of order and last
}

// late is of a server that has come when others had accepted connections of the name. What it accepts next may be one of those,
// told again, or one that the others have not accepted yet.
type late uint8

const (
	inOrder    late = iota
	came            // it has accepted none since
	outOfOrder      // it has: which one is not known, so none of its is anybody else's, until all of the name are over
)

// life is an instance and who takes part.
type life struct {
	Instance
	of      Connection
	ordinal uint64
	members map[string]bool // by server: whether it has not left
	values  map[string]*value
	kept    int
	own     bool // counted in seen.own
}

type value struct {
	bytes []byte
	asked map[string]bool
}

// NewLog makes a Log for so many servers. nonce draws, and never the same twice.
func NewLog(servers int, nonce func() [16]byte) *Log {
	first := nonce() // numbers go on from a random one: those of another Log are not these
	return &Log{servers: servers, nonce: nonce, last: binary.BigEndian.Uint64(first[:]) &^ (1 << 63), present: map[string]bool{}, seen: map[Connection]*seen{}, lives: map[uint64]*life{}}
}

// Arrive begins a server's part, before its program does: what others have accepted by then it will not.
func (l *Log) Arrive(server string) {
	l.present[server] = true
	for _, s := range l.seen {
		s.joins[server], s.late[server] = s.newest, came
	}
}

// Join gives a server the instance that the others have: that of its n-th connection of a name with their n-th. The same
// randomness for another input would give secrets away, so each server gets each instance once, and nobody joins what somebody
// has left; who is late has one of its own, which is nobody else's (see late). The program's start is the same whichever of its runs it is: the newest is joined.
func (l *Log) Join(server string, c Connection) (Instance, error) {
	if !l.present[server] {
		return Instance{}, errNoMember
	}
	s := l.seen[c]
	if s == nil && len(l.seen) >= MaxInstances || len(l.lives) >= MaxInstances {
		return Instance{}, errInstances
	}
	if s == nil {
		s = &seen{joins: map[string]uint64{}, lives: map[uint64]*life{}, late: map[string]late{}}
		l.seen[c] = s
	}
	n := s.joins[server] + 1
	if c == (Connection{}) {
		n = s.newest + 1
		if in := s.lives[s.newest]; in != nil {
			if _, had := in.members[server]; !had {
				n = s.newest
			}
		}
	} else if s.outOfOrder(server, n) {
		in := l.begin(server, c, 0)
		in.own = true
		s.own++
		return in.Instance, nil
	}
	s.joins[server] = n
	if in := s.lives[n]; in != nil && len(in.members) < l.servers {
		in.members[server] = true
		return in.Instance, nil
	}
	in := l.begin(server, c, n)
	if n > s.newest {
		s.newest, s.lives[n] = n, in
	}
	return in.Instance, nil
}

// outOfOrder reports whether it is not known which connection of the name it is that a server accepts as its n-th.
func (s *seen) outOfOrder(server string, n uint64) bool {
	switch {
	case s.late[server] == came && n > s.newest:
		s.late[server] = outOfOrder
	case s.late[server] == came: // others have accepted a later one, so those before it are over
		delete(s.late, server)
	}
	return s.late[server] == outOfOrder
}

// begin makes an instance.
func (l *Log) begin(server string, c Connection, n uint64) *life {
	l.last++
	in := &life{Instance: Instance{Number: l.last, Nonce: l.nonce()}, of: c, ordinal: n, members: map[string]bool{server: true}, values: map[string]*value{}}
	l.lives[in.Number] = in
	return in
}

// Decide sets what nobody has asked for, and tells the others. What all have asked for is forgotten.
func (l *Log) Decide(server string, n Name, proposal []byte) ([]byte, error) {
	in := l.lives[n.Instance]
	if in == nil || !in.members[server] {
		return nil, errNoMember
	}
	key := n.key()
	v := in.values[key]
	if v == nil {
		size := len(key) + len(proposal) + perValue
		if len(proposal) > MaxValue || in.kept+size > MaxKept {
			return nil, errFull
		}
		if l.servers == 1 {
			return proposal, nil
		}
		in.kept += size
		in.values[key] = &value{append([]byte(nil), proposal...), map[string]bool{server: true}}
		return proposal, nil
	}
	v.asked[server] = true
	if len(v.asked) == l.servers {
		delete(in.values, key)
		in.kept -= len(key) + len(v.bytes) + perValue
	}
	return v.bytes, nil
}

// Leave ends a server's part. When all have left, the instance is forgotten.
func (l *Log) Leave(server string, instance uint64) {
	in := l.lives[instance]
	if in == nil || !in.members[server] {
		return
	}
	in.members[server] = false
	if s := l.seen[in.of]; s != nil {
		if in.own {
			s.own--
		} else if s.lives[in.ordinal] == in {
			delete(s.lives, in.ordinal)
		}
		l.forget(in.of)
	}
	for _, there := range in.members {
		if there {
			return
		}
	}
	delete(l.lives, instance)
}

// forget forgets a name of which all have accepted the same number of connections.
func (l *Log) forget(c Connection) {
	s := l.seen[c]
	if len(s.lives) > 0 || s.own > 0 {
		return
	}
	for server := range l.present {
		if s.joins[server] != s.newest && s.late[server] != outOfOrder {
			return
		}
	}
	delete(l.seen, c)
}

// LeaveAll ends every part of a server: its supervisor is gone.
func (l *Log) LeaveAll(server string) {
	for number := range l.lives {
		l.Leave(server, number)
	}
	delete(l.present, server)
	for c, s := range l.seen {
		delete(s.joins, server)
		delete(s.late, server)
		l.forget(c)
	}
}
