//go:build amd64

package wrap

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/wrap/determinant"
	"lockstep/wrap/jail"
	"lockstep/wrap/trace"
)

// supervisor is the handler of one program's calls. All but what mu guards belongs to the tracer's thread.
type supervisor struct {
	options   Options
	jail      *jail.Jail
	monotonic int64 // added to the monotonic clock, as in the program's time namespace, ns
	maxPID    uint64
	main      *trace.Process
	status    unix.WaitStatus // the main process's
	mainEnded atomic.Bool
	refused   string // why the program was not carried
	failed    error  // why it could not be followed
	said      map[string]bool
	inodes    inodes
	listings  listings

	mu        sync.Mutex
	processes map[*trace.Process]*process
}

// instance is a connection as the processes that serve it see it.
type instance struct {
	determinant.Instance
	of        determinant.Connection
	processes int
	alone     bool // nobody is asked any more
}

// process is what a process's determinants are named by, and what its clocks show.
type process struct {
	serves   *instance
	path     string
	children uint64
	places   [determinant.Kinds]uint64
	files    map[uint64]uint64 // how often was asked for one of that name, see called
	random   *determinant.Random
	socket   int    // number of the connection's descriptor
	position uint64 // how many bytes of the request it had read, when last looked at

	starting bool // reads of its clock are counted; guarded by mu for those who write it, and for others than the tracer's thread
	clock    trace.Clock
	at       time.Time // when it was set
}

func newSupervisor(o Options) (*supervisor, error) {
	s := &supervisor{options: o, said: map[string]bool{}, processes: map[*trace.Process]*process{}, inodes: inodes{map[identity]identity{}, map[identity]identity{}},
		listings: listings{of: map[descriptor]*listing{}}}
	var err error
	if s.maxPID, err = maxPID(); err != nil {
		return nil, err
	}
	return s, nil
}

// say says something once.
func (s *supervisor) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.sayFor(text, "%s", text)
}

// sayFor says something once for a reason.
func (s *supervisor) sayFor(reason, format string, args ...any) {
	if !s.said[reason] && len(s.said) < 1000 {
		s.said[reason] = true
		fmt.Fprintf(s.options.Messages, "lockstep wrap: "+format+"\n", args...)
	}
}

// start is what the first process serves, before anybody is there. It says what the program's monotonic clock shows.
func (s *supervisor) start() (*instance, error) {
	in := s.join(determinant.Connection{})
	own := now(0)
	agreed := s.decide(in, determinant.Name{Instance: in.Number, Kind: determinant.Epoch}, appendInt(nil, own.Mono-own.Real))
	if len(agreed) != 8 {
		return nil, fmt.Errorf("the monotonic clock's epoch has %d bytes", len(agreed))
	}
	s.monotonic = int64(binary.BigEndian.Uint64(agreed)) + own.Real - own.Mono
	return in, nil
}

func appendInt(b []byte, v int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(v)) }

// join asks which instance of a connection this is. Without an answer it is one of our own.
func (s *supervisor) join(c determinant.Connection) *instance {
	got, err := s.options.Authority.Join(c)
	in := &instance{Instance: got, of: c}
	if err != nil {
		in.alone = true
		_, _ = rand.Read(in.Nonce[:]) // it never fails (crypto/rand)
		s.sayFor("join: "+err.Error(), "%s has results of its own, and so has each that follows for the same reason: %v", c, err)
	}
	return in
}

// decide asks for a determinant. An instance for which there is no answer goes on with results of its own, for good.
func (s *supervisor) decide(in *instance, n determinant.Name, proposal []byte) []byte {
	if in.alone {
		return proposal
	}
	got, err := s.options.Authority.Decide(n, proposal)
	if err != nil {
		in.alone = true
		s.sayFor("decide: "+err.Error(), "%s has results of its own from now on: %v", in.of, err)
		return proposal
	}
	return got
}

// ask is decide for the next call of a kind.
func (s *supervisor) ask(p *process, kind determinant.Kind, proposal []byte) []byte {
	n := determinant.Name{Instance: p.serves.Number, Path: p.path, Kind: kind, Place: p.places[kind]}
	p.places[kind]++
	return s.decide(p.serves, n, proposal)
}

// serve makes a process one that serves an instance, by that path.
func (s *supervisor) serve(p *process, in *instance, path string) {
	s.leave(p)
	random, err := determinant.NewRandom(s.options.Secret, in.Instance, in.of, path)
	if err != nil {
		panic(err) // the secret's size was looked at when it was read
	}
	in.processes++
	p.serves, p.path, p.random = in, path, random
	p.children, p.places, p.files, p.position = 0, [determinant.Kinds]uint64{}, map[uint64]uint64{}, 0
	s.starting(p)
}

// leave ends what a process serves.
func (s *supervisor) leave(p *process) {
	in := p.serves
	if p.serves = nil; in == nil {
		return
	}
	if in.processes--; in.processes > 0 || in.alone {
		return
	}
	if err := s.options.Authority.Leave(in.Number); err != nil {
		s.say("the end of %s could not be told: %v", in.of, err)
	}
}

// of is what is known of a traced process.
func of(p *trace.Process) *process { return p.Data.(*process) }

func (s *supervisor) add(t *trace.Process, p *process) {
	t.Data = p
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes[t] = p
}

// Forked implements trace.Handler: a child serves what its parent serves, by a path of its own.
func (s *supervisor) Forked(parent, child *trace.Process) {
	from := of(parent)
	p := &process{socket: from.socket}
	p.clock, p.at = s.shown(from)
	s.serve(p, from.serves, determinant.Child(from.path, from.children))
	p.position = from.position
	from.children++
	s.mu.Lock()
	p.clock.Calls = p.starting
	s.mu.Unlock()
	_ = child.SetClock(p.clock) // its copy may be of a moment at which the clock was being set; it fails for one that was killed
	s.add(child, p)
	s.listings.forked(parent.PID, child.PID)
}

// Ended implements trace.Handler.
func (s *supervisor) Ended(t *trace.Process, status unix.WaitStatus) {
	s.leave(of(t))
	s.mu.Lock()
	delete(s.processes, t)
	s.mu.Unlock()
	s.listings.ended(t.PID)
	if t != s.main {
		return
	}
	s.status = status
	s.mainEnded.Store(true)
	if !status.Exited() || status.ExitStatus() != 0 {
		s.jail.Kill()
	}
}

// Refused implements trace.Handler.
func (s *supervisor) Refused(t *trace.Process, why string) {
	if t == s.main && s.refused == "" {
		s.refused = fmt.Sprintf("%s %s: wrap carries programs of 64 bits for x86-64", s.options.Command[0], why)
	}
	s.say("process %d %s and was ended: wrap carries programs of 64 bits for x86-64", t.PID, why)
}

// Failed implements trace.Handler.
func (s *supervisor) Failed(t *trace.Process, err error) {
	if t == s.main {
		s.failed = err
	}
	s.say("process %d cannot be followed and was ended: %v", t.PID, err)
}

// Exec implements trace.Handler.
func (s *supervisor) Exec(t *trace.Process) []byte {
	if randomAddresses(t.PID) {
		s.say("a program that got more rights than its caller's has addresses at random: its output may depend on them")
	}
	s.listings.ended(t.PID)
	b := make([]byte, 16)
	of(t).random.Draw(b)
	return b
}

// Ready implements trace.Handler.
func (s *supervisor) Ready(t *trace.Process) { s.advance(t) }
