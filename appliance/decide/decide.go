// Package decide answers the questions of wrapped servers: the pair as the authority on what their calls return.
//
// It owns which life of determinants a server's question belongs to, who takes part in one, and that nobody is answered before the
// journal says that the standby holds what is told, nor while the appliance must not speak. It must not know how questions and answers travel, how
// decisions are replicated, what a determinant means, nor what becomes of a connection's bytes.
//
//	decide.go  servers and their questions
//	lives.go   lives: of connections, and of programs from their start on
package decide

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"lockstep/replication"
	"lockstep/wrap/agree"
	"lockstep/wrap/determinant"
)

// Journal is the replicated table of lives: see the methods of replication.Core with these names. Find is DecidedHere.
type Journal interface {
	BeginLife(id replication.LifeID, name string) error
	Decide(id replication.LifeID, key string, proposal []byte) (replication.Decision, error)
	Forget(id replication.LifeID, number uint64) error
	EndLife(id replication.LifeID) error
	Lives(f func(id replication.LifeID, name string))
	Find(id replication.LifeID, key string) (value []byte, ok bool)
}

// Host is the appliance.
type Host interface {
	// MaySpeak reports whether this appliance is the active, and its lease lasts.
	MaySpeak() bool
	// Connection is the one of a client that is served by a server.
	Connection(client, server netip.AddrPort) (id replication.ConnID, ok bool)
	// Service is the service whose server's host that is, and how many hosts of that address family it has. Hosts that
	// have one of its services in common have the same answer.
	Service(host netip.Addr) (name string, hosts int, ok bool)
	// Random fills b.
	Random(b []byte)
}

// maxWait is how long an answer waits for the standby. Who asked has gone elsewhere long before.
const maxWait = 10 * time.Second

// Authority implements agree.Decider.
type Authority struct {
	host    Host
	journal Journal

	starting sync.Mutex // one server at a time joins the life of a start; outside all else

	mu    sync.Mutex
	parts map[string]*part // by server
	lives map[replication.LifeID]*life
}

// life is what is known of one by the appliance that is active.
type life struct {
	held    replication.Held // of the newest epoch
	waiting []*waiter
	got     map[uint64]map[string]bool // of a start: decisions that not all servers have, and who has
}

// waiter waits until a decision may be told, or its life is over.
type waiter struct {
	d    replication.Decision
	done chan struct{}
	over bool // written before done is closed
}

// New makes one.
func New(h Host, j Journal) *Authority {
	return &Authority{host: h, journal: j, parts: map[string]*part{}, lives: map[replication.LifeID]*life{}}
}

// Decided takes replication.Ready.Held.
func (a *Authority) Decided(h replication.Held) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.life(h.Life)
	if h.Epoch > l.held.Epoch || h.Epoch == l.held.Epoch && h.Below > l.held.Below {
		l.held = h
	}
	rest := l.waiting[:0]
	for _, w := range l.waiting {
		if covers(h, w.d) {
			close(w.done)
		} else {
			rest = append(rest, w)
		}
	}
	clear(l.waiting[len(rest):])
	l.waiting = rest
}

// covers reports whether a decision may be told.
func covers(h replication.Held, d replication.Decision) bool {
	return d.Epoch == h.Epoch && d.Number < h.Below
}

// life is called with mu held.
func (a *Authority) life(id replication.LifeID) *life {
	l := a.lives[id]
	if l == nil {
		l = &life{}
		a.lives[id] = l
	}
	return l
}

// Mute ends all parts, as when this appliance ceases to be the active: whoever asks goes to the other one. What it was is forgotten.
func (a *Authority) Mute() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.parts {
		p.end()
	}
	clear(a.parts)
	clear(a.lives)
}

// Arrive implements agree.Decider. A server that is here already has lost its former connection.
func (a *Authority) Arrive(s agree.Server) (agree.Part, error) {
	if !a.host.MaySpeak() {
		return nil, agree.ErrElsewhere
	}
	service, hosts, ok := a.host.Service(s.Address)
	if !ok {
		return nil, fmt.Errorf("no service has a server at %s, from where %q asks", s.Address, s.Name)
	}
	p := &part{a: a, server: s, service: service, hosts: hosts, gone: make(chan struct{}), member: map[replication.LifeID]bool{}}
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.parts[s.Name]; old != nil {
		old.end()
	}
	a.parts[s.Name] = p
	return p, nil
}

// Servers are those that ask at present, by name.
func (a *Authority) Servers() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.parts))
}

// part implements agree.Part. All but gone, which is closed with Authority.mu held, belongs to the goroutine that asks.
type part struct {
	a       *Authority
	server  agree.Server
	service string
	hosts   int // that may take part in its starts
	gone    chan struct{}
	over    bool // gone is closed; guarded by Authority.mu
	member  map[replication.LifeID]bool
	told    func() // what follows from the next question: that the last answer has come
}

// end is called with Authority.mu held.
func (p *part) end() {
	if !p.over {
		p.over = true
		close(p.gone)
	}
}

// End implements agree.Part.
func (p *part) End() {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	if p.end(); p.a.parts[p.server.Name] == p {
		delete(p.a.parts, p.server.Name)
	}
}

// Leave implements agree.Part. A connection's life ends with the connection.
func (p *part) Leave(uint64) {}

// decide decides, and waits until it may be told.
func (p *part) decide(id replication.LifeID, key string, proposal []byte) (replication.Decision, error) {
	if !p.a.host.MaySpeak() {
		return replication.Decision{}, agree.ErrElsewhere // nothing more is to come, as in a hand-over
	}
	d, err := p.a.journal.Decide(id, key, proposal)
	switch {
	case errors.Is(err, replication.ErrRole):
		return d, agree.ErrElsewhere
	case err != nil:
		return d, err
	case !d.Held:
		if err := p.wait(id, key, d); err != nil {
			return d, err
		}
	}
	// An active that is deposed is mute before it lets go of what its standby has not confirmed.
	if !p.a.host.MaySpeak() || p.isOver() {
		return d, agree.ErrElsewhere
	}
	return d, nil
}

func (p *part) isOver() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// wait waits until the decision may be told. The error says why it is not.
func (p *part) wait(id replication.LifeID, key string, d replication.Decision) error {
	w := &waiter{d: d, done: make(chan struct{})}
	p.a.mu.Lock()
	l := p.a.life(id)
	if covers(l.held, d) {
		p.a.mu.Unlock()
		return nil
	}
	l.waiting = append(l.waiting, w)
	p.a.mu.Unlock()
	if _, is := p.a.journal.Find(id, key); !is { // ended before it was known that we wait
		p.a.forgetWaiter(id, w)
		return errNoMember
	}
	limit := time.NewTimer(maxWait)
	defer limit.Stop()
	select {
	case <-w.done:
		if w.over {
			return errNoMember
		}
		return nil
	case <-p.gone:
	case <-limit.C:
	}
	p.a.forgetWaiter(id, w)
	return agree.ErrElsewhere
}

func (a *Authority) forgetWaiter(id replication.LifeID, w *waiter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.lives[id]
	if l == nil {
		return
	}
	if i := slices.Index(l.waiting, w); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	if len(l.waiting) == 0 && l.held == (replication.Held{}) && l.got == nil {
		delete(a.lives, id)
	}
}

// asks begins a question: the answer to the one before has come.
func (p *part) asks() {
	if p.told != nil {
		p.told()
		p.told = nil
	}
}

var errNoMember = errors.New("the connection has ended, or the server has not joined it")

// Decide implements agree.Part.
func (p *part) Decide(n determinant.Name, proposal []byte) ([]byte, error) {
	p.asks()
	id := replication.LifeID(n.Instance)
	if !p.isMember(id) {
		return nil, errNoMember
	}
	d, err := p.decide(id, keyPlace+n.Within(), proposal)
	if err == nil && isStart(id) {
		p.told = func() { p.a.got(id, d.Number, p.server.Name, p.hosts) }
	}
	return d.Value, err
}

// isMember reports whether the server may take part in a life: that of one of its service's connections, or of a start that this
// run of it has joined, be it with the active before.
func (p *part) isMember(id replication.LifeID) bool {
	if p.member[id] {
		return true
	}
	if isStart(id) {
		is, ok := p.a.journal.Find(id, keyMember+p.server.Name)
		p.member[id] = ok && len(is) > len(p.server.Run) && [16]byte(is[:16]) == p.server.Run
	} else {
		_, p.member[id] = p.a.journal.Find(id, keyNonce+p.service)
	}
	return p.member[id]
}

// Keys of decisions that are not places of the servers' own.
const (
	keyMember = "m" // and the server, of a start: which run of it takes part
	keyNonce  = "n" // and the service
	keyPlace  = "p" // and the place
)

// join makes the server a member of a life.
func (p *part) join(id replication.LifeID) (in determinant.Instance, err error) {
	nonce := make([]byte, len(in.Nonce))
	p.a.host.Random(nonce)
	d, err := p.decide(id, keyNonce+p.service, nonce)
	if err != nil {
		return in, err
	}
	if len(d.Value) != len(in.Nonce) {
		return in, fmt.Errorf("a nonce of %d bytes", len(d.Value))
	}
	p.member[id] = true
	return determinant.Instance{Number: uint64(id), Nonce: [16]byte(d.Value)}, nil
}
