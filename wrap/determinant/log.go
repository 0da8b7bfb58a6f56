package determinant

import (
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
	MaxInstances = 65536    // that last at one time
	MaxKept      = 16 << 20 // bytes of determinants that one instance waits with for a server that has not asked yet
	MaxValue     = 64 << 10 // bytes of one determinant
	perValue     = 64       // bytes, roughly, that keeping one takes beside key and value
)

var (
	errFull      = errors.New("too much waits for a server that does not ask")
	errInstances = fmt.Errorf("%d connections last already", MaxInstances)
	errNoMember  = errors.New("asked by a server that has not joined this connection")
)

// Log is what has been decided, for a number of servers that is known. It is not safe for use by several goroutines.
type Log struct {
	servers int
	nonce   func() [16]byte
	last    uint64
	current map[Connection]*life
	lives   map[uint64]*life
}

// life is an instance and who takes part.
type life struct {
	Instance
	of      Connection
	members map[string]bool // by server: whether it has not left
	values  map[string]*value
	kept    int
}

type value struct {
	bytes []byte
	asked map[string]bool
}

// NewLog makes a Log for so many servers. nonce draws, and never the same twice.
func NewLog(servers int, nonce func() [16]byte) *Log {
	return &Log{servers: servers, nonce: nonce, current: map[Connection]*life{}, lives: map[uint64]*life{}}
}

// Join gives a server the instance that the others have, if it has not had that one. Each server gets each instance
// once: who has it and comes again has another connection of the same name, or was started anew, and the same
// randomness for another input would give secrets away. For the same reason nobody joins what somebody has left.
func (l *Log) Join(server string, c Connection) (Instance, error) {
	if in := l.current[c]; in != nil {
		if _, had := in.members[server]; !had && len(in.members) < l.servers {
			in.members[server] = true
			return in.Instance, nil
		}
	}
	if len(l.lives) >= MaxInstances {
		return Instance{}, errInstances
	}
	l.last++
	in := &life{Instance: Instance{Number: l.last, Nonce: l.nonce()}, of: c, members: map[string]bool{server: true}, values: map[string]*value{}}
	l.current[c], l.lives[in.Number] = in, in
	return in.Instance, nil
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
	if l.current[in.of] == in {
		delete(l.current, in.of)
	}
	for _, there := range in.members {
		if there {
			return
		}
	}
	delete(l.lives, instance)
}

// LeaveAll ends every part of a server: its supervisor is gone.
func (l *Log) LeaveAll(server string) {
	for number := range l.lives {
		l.Leave(server, number)
	}
}
