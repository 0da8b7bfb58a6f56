package decide

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"lockstep/replication"
	"lockstep/wrap/agree"
	"lockstep/wrap/determinant"
)

const (
	// startBit tells lives of starts from those of connections, which have the connections' numbers.
	startBit = 1 << 63
	// startName begins their names; the service follows.
	startName = "start "
	// maxStarts is how many starts of a service's programs are kept; the oldest is ended when one more begins.
	maxStarts = 8
)

func isStart(id replication.LifeID) bool { return id&startBit != 0 }

var errNoConnection = errors.New("the pair has no such connection (a health check, or somebody who talks to this server directly)")

// Join implements agree.Part. A server may come to a connection more than once, and after a restart: the pair tells it the request again, all
// of it (as after a takeover), so what it draws from the nonce again is for the same input.
func (p *part) Join(of determinant.Connection, serial uint64) (in determinant.Instance, err error) {
	p.asks()
	if of == (determinant.Connection{}) {
		return p.joinStart(serial)
	}
	server := netip.AddrPortFrom(p.server.Address, of.Service.Port())
	conn, ok := p.a.host.Connection(of.Client, server)
	if !ok {
		return in, errNoConnection
	}
	id := replication.LifeID(conn)
	if err := p.a.begin(id, p.service); err != nil && !errors.Is(err, replication.ErrDuplicate) {
		return in, err
	}
	return p.join(id)
}

// begin begins a life.
func (a *Authority) begin(id replication.LifeID, name string) error {
	if !a.host.MaySpeak() {
		return agree.ErrElsewhere
	}
	err := a.journal.BeginLife(id, name)
	if errors.Is(err, replication.ErrRole) {
		return agree.ErrElsewhere
	}
	return err
}

// joinStart joins the newest start of the service that no earlier run of the server has joined, or begins one: a run that drew
// from another one's nonce would repeat what that has sent.
func (p *part) joinStart(serial uint64) (in determinant.Instance, err error) {
	p.a.starting.Lock()
	defer p.a.starting.Unlock()
	name := startName + p.service
	var starts []replication.LifeID
	p.a.journal.Lives(func(id replication.LifeID, its string) {
		if its == name && isStart(id) {
			starts = append(starts, id)
		}
	})
	if n := len(starts); n > 0 {
		id := starts[n-1]
		if is, ok := p.a.journal.Find(id, keyMember+p.server.Name); !ok || string(is) == string(p.self(serial)) {
			return p.takePart(id, serial)
		}
	}
	if len(starts) >= maxStarts {
		p.a.endLife(starts[0])
	}
	var number [8]byte
	p.a.host.Random(number[:])
	id := replication.LifeID(startBit | binary.BigEndian.Uint64(number[:]))
	if err := p.a.begin(id, name); err != nil {
		return in, err
	}
	return p.takePart(id, serial)
}

// self is a run of the server's program; one that begins twice is two.
func (p *part) self(serial uint64) []byte {
	return binary.BigEndian.AppendUint64(p.server.Run[:], serial)
}

// takePart joins a start, in which no other run of the server takes part.
func (p *part) takePart(id replication.LifeID, serial uint64) (in determinant.Instance, err error) {
	d, err := p.decide(id, keyMember+p.server.Name, p.self(serial))
	switch {
	case err != nil:
		return in, err
	case string(d.Value) != string(p.self(serial)):
		return in, errors.New("another run of this server takes part in that start")
	}
	return p.join(id)
}

// got notes that a server has got a decision of a start. When all have, nobody will ask for it again.
func (a *Authority) got(id replication.LifeID, number uint64, server string, hosts int) {
	a.mu.Lock()
	l := a.life(id)
	if l.got == nil {
		l.got = map[uint64]map[string]bool{}
	}
	if l.got[number] == nil {
		l.got[number] = map[string]bool{}
	}
	l.got[number][server] = true
	all := len(l.got[number]) >= hosts
	if all {
		delete(l.got, number)
	}
	a.mu.Unlock()
	if all {
		_ = a.journal.Forget(id, number) // it may be gone with its life
	}
}

func (a *Authority) endLife(id replication.LifeID) {
	_ = a.journal.EndLife(id) // another one may be the active by now
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.lives[id]
	if l == nil {
		return
	}
	delete(a.lives, id)
	for _, w := range l.waiting {
		w.over = true
		close(w.done)
	}
}

// Sweep ends the lives of connections that have ended.
func (a *Authority) Sweep(lasts func(id replication.ConnID) bool) {
	var lives []replication.LifeID
	a.journal.Lives(func(id replication.LifeID, _ string) {
		if !isStart(id) {
			lives = append(lives, id)
		}
	})
	for _, id := range lives {
		if !lasts(replication.ConnID(id)) {
			a.endLife(id)
		}
	}
}
