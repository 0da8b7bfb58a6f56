package agree

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"lockstep/wrap/determinant"
)

// Decider is who decides. Its methods may be called at any time.
type Decider interface {
	// Arrive begins a server's part.
	Arrive(s Server) (Part, error)
}

// Server is who asks.
type Server struct {
	Name    string
	Run     [16]byte   // drawn when its program was started
	Address netip.Addr // its host's; invalid at a socket
}

// Part is what one server takes part in, until End. One question is asked at a time; the answer to a question is there when the next one is asked.
// An error other than ErrElsewhere is for good: the server has a result of its own.
type Part interface {
	// Join and Decide are those of determinant.Authority. serial numbers the connections that the server's program has accepted: who
	// has had no answer asks again, with the same one.
	Join(of determinant.Connection, serial uint64) (determinant.Instance, error)
	Decide(n determinant.Name, proposal []byte) ([]byte, error)
	Leave(instance uint64)
	End()
}

// ErrElsewhere says that another one decides at present.
var ErrElsewhere = errors.New("somebody else decides")

// Process decides for so many servers by what it knows itself.
func Process(servers int) Decider {
	return &process{log: determinant.NewLog(servers, nonce), here: map[string]bool{}}
}

func nonce() (n [16]byte) {
	_, _ = rand.Read(n[:]) // it never fails (crypto/rand)
	return n
}

type process struct {
	mu   sync.Mutex
	log  *determinant.Log
	here map[string]bool
}

func (p *process) Arrive(s Server) (Part, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.here[s.Name] {
		return nil, fmt.Errorf("server %q is here already: each needs a name of its own, and one whose host is gone is missed after %v", s.Name, goneAfter)
	}
	p.here[s.Name] = true
	p.log.Arrive(s.Name)
	return part{p, s.Name}, nil
}

type part struct {
	p      *process
	server string
}

func (p part) Join(of determinant.Connection, _ uint64) (determinant.Instance, error) {
	p.p.mu.Lock()
	defer p.p.mu.Unlock()
	return p.p.log.Join(p.server, of)
}

func (p part) Decide(n determinant.Name, proposal []byte) ([]byte, error) {
	p.p.mu.Lock()
	defer p.p.mu.Unlock()
	return p.p.log.Decide(p.server, n, proposal)
}

func (p part) Leave(instance uint64) {
	p.p.mu.Lock()
	defer p.p.mu.Unlock()
	p.p.log.Leave(p.server, instance)
}

func (p part) End() {
	p.p.mu.Lock()
	defer p.p.mu.Unlock()
	p.p.log.LeaveAll(p.server)
	delete(p.p.here, p.server)
}
