package decide

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"lockstep/replication"
	"lockstep/replication/wire"
	"lockstep/wrap/agree"
	"lockstep/wrap/determinant"
)

// appliance is one of a pair: a core, and who decides by it.
type appliance struct {
	t      *testing.T
	mu     sync.Mutex
	core   *replication.Core
	speaks bool
	*Authority
}

func newAppliance(t *testing.T) *appliance {
	x := &appliance{t: t, core: replication.New(replication.Limits{})}
	x.Authority = New(x, x)
	return x
}

func (x *appliance) BeginLife(id replication.LifeID, name string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.core.BeginLife(0, id, name)
}

func (x *appliance) Decide(id replication.LifeID, key string, proposal []byte) (replication.Decision, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.core.Decide(0, id, key, proposal)
}

func (x *appliance) Forget(id replication.LifeID, number uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.core.Forget(0, id, number)
}

func (x *appliance) EndLife(id replication.LifeID) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.core.EndLife(0, id)
}

func (x *appliance) Lives(f func(id replication.LifeID, name string)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.core.Lives(f)
}

func (x *appliance) Find(id replication.LifeID, key string) ([]byte, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.core.DecidedHere(id, key)
}

func (x *appliance) MaySpeak() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.speaks
}

// Connection: those of 10.0.0.1 have their ports' numbers.
func (x *appliance) Connection(client, server netip.AddrPort) (replication.ConnID, bool) {
	return replication.ConnID(client.Port()), client.Addr() == netip.MustParseAddr("10.0.0.1") && server.Port() == 445
}

func (x *appliance) Service(host netip.Addr) (string, int, bool) {
	if host == netip.MustParseAddr("10.9.0.99") {
		return "others", 1, true
	}
	return "files", 2, netip.MustParsePrefix("10.9.0.0/24").Contains(host)
}

var drawn struct {
	sync.Mutex
	n uint64
}

func (x *appliance) Random(b []byte) {
	drawn.Lock()
	defer drawn.Unlock()
	drawn.n++
	binary.BigEndian.PutUint64(b, drawn.n)
}

// pair is two of them, and what goes between them.
type pair struct {
	t             *testing.T
	active, other *appliance
	apart         bool // nothing goes
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t, active: newAppliance(t), other: newAppliance(t)}
	p.active.speaks = true
	p.must(p.active.core.SetRole(replication.RoleActive, 1))
	p.must(p.other.core.SetRole(replication.RoleStandby, 1))
	p.join()
	return p
}

func (p *pair) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) join() {
	p.must(p.active.core.PeerJoined(0, wire.Version))
	p.must(p.other.core.PeerJoined(0, wire.Version))
	p.exchange()
}

// exchange moves what there is to be said, and tells what may be told.
func (p *pair) exchange() {
	for _, x := range []*appliance{p.active, p.other, p.active} {
		to := p.active
		if x == to {
			to = p.other
		}
		x.mu.Lock()
		var out []byte
		for !p.apart && x.core.Flushable() {
			out = append(out, x.core.Flush(nil)...)
		}
		x.mu.Unlock()
		to.mu.Lock()
		for len(out) > 0 {
			n, err := wire.FrameLen(out)
			if err == nil {
				err = to.core.Step(0, out[:n])
			}
			if err != nil {
				p.t.Error(err)
				break
			}
			out = out[n:]
		}
		to.mu.Unlock()
	}
	p.active.follow()
}

// follow does what follows.
func (x *appliance) follow() {
	x.mu.Lock()
	held := append([]replication.Held(nil), x.core.Ready().Held...)
	x.mu.Unlock()
	for _, h := range held {
		x.Decided(h)
	}
}

// takeover: the active dies.
func (p *pair) takeover() {
	p.t.Helper()
	p.other.core.PeerLost()
	_, err := p.other.core.Takeover(p.other.core.Epoch() + 1)
	p.must(err)
	p.active, p.other = p.other, newAppliance(p.t)
	p.must(p.other.core.SetRole(replication.RoleStandby, p.active.core.Epoch()))
	p.active.speaks, p.apart = true, false
}

// while does something that waits for the standby.
func while[T any](p *pair, do func() (T, error)) (got T, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		got, err = do()
	}()
	for {
		select {
		case <-done:
			return got, err
		default:
			p.exchange()
			runtime.Gosched()
		}
	}
}

// server is a wrapped one.
func (p *pair) server(n, run byte) agree.Part {
	p.t.Helper()
	s := agree.Server{Name: fmt.Sprint("s", n), Run: [16]byte{run}, Address: netip.AddrFrom4([4]byte{10, 9, 0, n})}
	part, err := p.active.Arrive(s)
	p.must(err)
	return part
}

func client(port uint16) determinant.Connection {
	return determinant.Connection{Client: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port), Service: netip.MustParseAddrPort("0.0.0.0:445")}
}

func (p *pair) joinLife(s agree.Part, c determinant.Connection, serial uint64) (determinant.Instance, error) {
	return while(p, func() (determinant.Instance, error) { return s.Join(c, serial) })
}

func (p *pair) decided(s agree.Part, n determinant.Name, proposal string) string {
	p.t.Helper()
	got, err := while(p, func() ([]byte, error) { return s.Decide(n, []byte(proposal)) })
	p.must(err)
	return string(got)
}

func TestTwoServersAgree(t *testing.T) {
	p := newPair(t)
	a, b := p.server(1, 1), p.server(2, 2)
	for serial, c := range []determinant.Connection{{}, client(7), client(8)} {
		in, err := p.joinLife(a, c, uint64(serial))
		p.must(err)
		if again, err := p.joinLife(b, c, uint64(serial)); err != nil || again != in || in.Nonce == [16]byte{} {
			t.Fatalf("%v: %v and %v, %v", c, in, again, err)
		}
		for place := range uint64(3) {
			n := determinant.Name{Instance: in.Number, Path: determinant.Child("", place), Kind: determinant.Clock, Place: place}
			first, second := a, b
			if place == 1 {
				first, second = b, a
			}
			if got := p.decided(first, n, "noon"); got != "noon" {
				t.Errorf("who asks first is told %q", got)
			}
			if got := p.decided(second, n, "later"); got != "noon" {
				t.Errorf("%v place %d: %q", c, place, got)
			}
		}
	}
	// Of the start, what both have is forgotten.
	start, err := p.joinLife(a, determinant.Connection{}, 0)
	p.must(err)
	for place := range uint64(3) {
		n := determinant.Name{Path: determinant.Child("", place), Kind: determinant.Clock, Place: place}
		if _, ok := p.active.Find(replication.LifeID(start.Number), keyPlace+n.Within()); ok {
			t.Errorf("place %d of the start is kept", place)
		}
	}
	lasting := 0
	p.active.Sweep(func(id replication.ConnID) bool { return id == 8 })
	p.active.Lives(func(id replication.LifeID, _ string) {
		if lasting++; id == 7 {
			t.Error("the life of a connection that has ended is here")
		}
	})
	if lasting != 2 {
		t.Errorf("%d lives last", lasting)
	}
}

// Nobody is answered before the standby holds what it is told; and all is the same after a takeover.
func TestTakeover(t *testing.T) {
	p := newPair(t)
	a := p.server(1, 1)
	in, err := p.joinLife(a, client(7), 1)
	p.must(err)
	told := determinant.Name{Instance: in.Number, Kind: determinant.File, Place: 1}
	if got := p.decided(a, told, "told"); got != "told" {
		t.Fatal(got)
	}
	p.apart = true
	lost := determinant.Name{Instance: in.Number, Kind: determinant.File, Place: 2}
	answer := make(chan error)
	go func() {
		_, err := a.Decide(lost, []byte("lost"))
		answer <- err
	}()
	for id := replication.LifeID(in.Number); ; runtime.Gosched() {
		if _, ok := p.active.Find(id, keyPlace+lost.Within()); ok {
			break
		}
	}
	p.exchange()
	select {
	case err := <-answer:
		t.Fatalf("answered (%v), and the standby holds nothing", err)
	default:
	}
	was := p.active
	p.takeover()
	was.Mute()
	if err := <-answer; !errors.Is(err, agree.ErrElsewhere) {
		t.Errorf("one that was deposed answers: %v", err)
	}
	p.join()
	a, b := p.server(1, 1), p.server(2, 1)
	if got := p.decided(a, told, "anew"); got != "told" {
		t.Errorf("the successor says %q", got)
	}
	if got := p.decided(a, lost, "again"); got != "again" {
		t.Errorf("what nobody was told is %q", got)
	}
	if again, err := p.joinLife(a, client(7), 1); err != nil || again != in {
		t.Errorf("the same accept is %v, was %v, %v", again, in, err)
	}
	if other, err := p.joinLife(b, client(7), 1); err != nil || other != in {
		t.Errorf("the other server has %v, not %v, %v", other, in, err)
	}
	if got := p.decided(b, lost, "mine"); got != "again" {
		t.Errorf("%q", got)
	}
	if _, err := p.server(99, 1).Decide(told, nil); !errors.Is(err, errNoMember) {
		t.Errorf("another service's server is answered: %v", err)
	}
	// A start is continued by the run that has joined it, and by no other.
	start, err := p.joinLife(p.server(1, 1), determinant.Connection{}, 1)
	p.must(err)
	p.takeover()
	p.join()
	n := determinant.Name{Instance: start.Number, Kind: determinant.Clock}
	if got := p.decided(p.server(1, 1), n, "noon"); got != "noon" {
		t.Error(got)
	}
	if _, err := p.server(1, 2).Decide(n, nil); !errors.Is(err, errNoMember) {
		t.Errorf("another run of the server is answered: %v", err)
	}
}

// An active that is deposed lets go of what its standby has not confirmed, and is mute before.
func TestDeposedAnswersNobody(t *testing.T) {
	p := newPair(t)
	a := p.server(1, 1)
	in, err := p.joinLife(a, client(7), 1)
	p.must(err)
	p.apart = true
	n := determinant.Name{Instance: in.Number}
	answer := make(chan error)
	go func() {
		_, err := a.Decide(n, []byte("mine"))
		answer <- err
	}()
	for id := replication.LifeID(in.Number); ; runtime.Gosched() {
		if _, ok := p.active.Find(id, keyPlace+n.Within()); ok {
			break
		}
	}
	p.active.mu.Lock()
	p.active.speaks = false
	p.active.core.PeerLost()
	p.active.mu.Unlock()
	p.active.follow()
	if err := <-answer; !errors.Is(err, agree.ErrElsewhere) {
		t.Errorf("answered: %v", err)
	}
	if _, err := p.active.Arrive(agree.Server{Name: "s2", Address: netip.MustParseAddr("10.9.0.2")}); !errors.Is(err, agree.ErrElsewhere) {
		t.Errorf("it lets in a server: %v", err)
	}
}

// What a former tenure lets go of says nothing of a later one, whose numbers are other decisions'.
func TestHeldOfAnotherEpoch(t *testing.T) {
	p := newPair(t)
	a := p.server(1, 1)
	in, err := p.joinLife(a, client(7), 1)
	p.must(err)
	id := replication.LifeID(in.Number)
	p.apart = true
	former := replication.Held{Life: id, Below: 100, Epoch: p.active.core.Epoch() - 1}
	p.active.Decided(former)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = a.Decide(determinant.Name{Instance: in.Number}, []byte("mine"))
	}()
	for waits := false; !waits; runtime.Gosched() {
		p.active.Authority.mu.Lock()
		waits = len(p.active.life(id).waiting) == 1
		p.active.Authority.mu.Unlock()
		select {
		case <-done:
			t.Fatal("answered, and the standby holds nothing")
		default:
		}
	}
	p.active.Decided(former)
	p.active.Authority.mu.Lock()
	if len(p.active.life(id).waiting) != 1 {
		t.Error("it may be told by the word of a former tenure")
	}
	p.active.Authority.mu.Unlock()
	p.apart = false
	for {
		select {
		case <-done:
			return
		default:
			p.exchange()
		}
	}
}

// A server that is told a request again is what it was for it. No run of its program starts as another one did.
func TestNobodyStartsTwice(t *testing.T) {
	p := newPair(t)
	a := p.server(1, 1)
	first, err := p.joinLife(a, client(7), 1)
	p.must(err)
	for run := range byte(2) {
		if again, err := p.joinLife(p.server(1, 1+run), client(7), 2); err != nil || again != first {
			t.Errorf("told the request again, it is %v, %v", again, err)
		}
	}
	seen := map[[16]byte]bool{}
	for run := range byte(2 * maxStarts) {
		in, err := p.joinLife(p.server(1, run), determinant.Connection{}, 1)
		p.must(err)
		if again, err := p.joinLife(p.server(1, run), determinant.Connection{}, 1); err != nil || again != in {
			t.Errorf("asked again: %v, %v", again, err)
		}
		other, err := p.joinLife(p.server(2, run), determinant.Connection{}, 1)
		p.must(err)
		if seen[in.Nonce] || other != in {
			t.Errorf("run %d starts with %v, the other server with %v", run, in, other)
		}
		seen[in.Nonce] = true
	}
	starts := 0
	p.active.Lives(func(id replication.LifeID, _ string) {
		if isStart(id) {
			starts++
		}
	})
	if starts != maxStarts {
		t.Errorf("%d starts are kept", starts)
	}
}

func TestUnknown(t *testing.T) {
	p := newPair(t)
	if _, err := p.active.Arrive(agree.Server{Name: "s1", Address: netip.MustParseAddr("10.8.0.1")}); err == nil || errors.Is(err, agree.ErrElsewhere) {
		t.Errorf("a host that has no server: %v", err)
	}
	a := p.server(1, 1)
	c := client(7)
	c.Client = netip.MustParseAddrPort("10.0.0.2:7")
	if _, err := a.Join(c, 1); err == nil || errors.Is(err, agree.ErrElsewhere) {
		t.Errorf("a connection that is none of the pair's: %v", err)
	}
	if _, err := a.Decide(determinant.Name{Instance: 99}, nil); !errors.Is(err, errNoMember) {
		t.Errorf("a life that is none: %v", err)
	}
	// Who comes again ends its former connection.
	in, err := p.joinLife(a, client(7), 1)
	p.must(err)
	known := determinant.Name{Instance: in.Number}
	p.decided(a, known, "x")
	again := p.server(1, 1)
	if _, err := a.Decide(known, nil); !errors.Is(err, agree.ErrElsewhere) {
		t.Errorf("a former connection is answered what is known: %v", err)
	}
	if _, err := a.Decide(determinant.Name{Instance: in.Number, Place: 1}, nil); !errors.Is(err, agree.ErrElsewhere) {
		t.Errorf("a former connection is answered: %v", err)
	}
	if got := p.decided(again, determinant.Name{Instance: in.Number, Place: 2}, "x"); got != "x" {
		t.Error(got)
	}
	a.End()
	if got := p.decided(again, determinant.Name{Instance: in.Number, Place: 3}, "x"); got != "x" {
		t.Error(got)
	}
}

// Who waits in a life that ends is told so, and does not wait for a standby that will never hold it.
func TestWaitsInALifeThatEnds(t *testing.T) {
	p := newPair(t)
	s := p.server(1, 1)
	in, err := p.joinLife(s, client(5), 1)
	p.must(err)
	done := make(chan error, 1)
	go func() {
		_, err := s.Decide(determinant.Name{Instance: in.Number}, []byte("x"))
		done <- err
	}()
	for waiting := 0; waiting == 0; runtime.Gosched() {
		p.active.Authority.mu.Lock()
		waiting = len(p.active.life(replication.LifeID(in.Number)).waiting)
		p.active.Authority.mu.Unlock()
	}
	p.active.Sweep(func(replication.ConnID) bool { return false })
	if err := <-done; !errors.Is(err, errNoMember) {
		t.Error(err)
	}
	p.active.Authority.mu.Lock()
	defer p.active.Authority.mu.Unlock()
	if n := len(p.active.Authority.lives); n > 0 {
		t.Errorf("%d lives are remembered", n)
	}
}
