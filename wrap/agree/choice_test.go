package agree

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lockstep/replication/identity"
	"lockstep/wrap/determinant"
)

// two are two deciders of which one decides at a time. What one has decided the other knows.
type two struct {
	mu      sync.Mutex
	active  int
	dies    bool // the active, when it has decided, before it answers
	decided map[string]string
	joins   map[uint64]uint64 // by serial
	runs    map[[16]byte]bool
}

// one is one of them.
type one struct {
	*two
	n int
}

func (d one) Arrive(s Server) (Part, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.runs[s.Run] = true
	if d.n != d.active {
		return nil, ErrElsewhere
	}
	return d, nil
}

// lost makes the other one the active, if this is to die.
func (d one) lost() error {
	if d.dies {
		d.dies, d.active = false, 1-d.active
	}
	if d.n != d.active {
		return ErrElsewhere
	}
	return nil
}

func (d one) Join(_ determinant.Connection, serial uint64) (determinant.Instance, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.joins[serial] == 0 {
		d.joins[serial] = uint64(len(d.joins)) + 1
	}
	return determinant.Instance{Number: d.joins[serial]}, d.lost()
}

func (d one) Decide(n determinant.Name, proposal []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(proposal) == 0 {
		return nil, errors.New("nothing proposed")
	}
	if _, ok := d.decided[n.Path]; !ok {
		d.decided[n.Path] = string(proposal)
	}
	return []byte(d.decided[n.Path]), d.lost()
}

func (d one) Leave(uint64) {}
func (d one) End()         {}

// Who is silent is left for the next one, in time.
func TestSilentOneIsLeft(t *testing.T) {
	dir := t.TempDir()
	if _, err := identity.WriteServers(dir, "p", []string{"a"}, []string{"s1"}, false); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts, as of a host that has died
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	free.Close()
	keys := map[string]*identity.Identity{}
	for _, node := range []string{"a", "s1"} {
		if keys[node], err = identity.Load(filepath.Join(dir, node)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var joined sync.WaitGroup
	defer joined.Wait()
	defer cancel()
	ready := make(chan struct{})
	joined.Go(func() {
		if err := Serve(ctx, Place{Addresses: []string{at}, Identity: keys["a"]}, Process(1), io.Discard, func() { close(ready) }); err != nil {
			t.Error(err)
		}
	})
	<-ready
	c, err := Dial(Place{Addresses: []string{silent.Addr().String(), at}, Identity: keys["s1"]}, "", 4*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// Who does not get an answer asks the other one the same again, and one refusal is not two.
func TestAsksTheOther(t *testing.T) {
	dir := t.TempDir()
	if _, err := identity.WriteServers(dir, "p", []string{"a", "b"}, []string{"s1"}, false); err != nil {
		t.Fatal(err)
	}
	load := func(node string) *identity.Identity {
		id, err := identity.Load(filepath.Join(dir, node))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	shared := &two{decided: map[string]string{}, joins: map[uint64]uint64{}, runs: map[[16]byte]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	var joined sync.WaitGroup
	defer joined.Wait()
	defer cancel()
	at := Place{Identity: load("s1")}
	for i, node := range []string{"a", "b"} {
		free, err := net.Listen("tcp", "127.0.0.1:0") // a port that nobody else gets within this test
		if err != nil {
			t.Fatal(err)
		}
		l := free.Addr().String()
		free.Close()
		at.Addresses = append(at.Addresses, l)
		joined.Go(func() {
			if err := Serve(ctx, Place{Addresses: []string{l}, Identity: load(node)}, one{shared, i}, io.Discard, nil); err != nil {
				t.Error(err)
			}
		})
	}
	c, err := Dial(at, "", 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	die := func() {
		shared.mu.Lock()
		defer shared.mu.Unlock()
		shared.dies = true
	}
	client := determinant.Connection{Client: netip.MustParseAddrPort("10.0.0.1:1")}
	for n := range uint64(6) {
		if n%2 == 1 {
			die()
		}
		if in, err := c.Join(client); err != nil || in.Number != n+1 {
			t.Fatalf("connection %d is instance %d, %v", n, in.Number, err)
		}
		die()
		name := determinant.Name{Path: determinant.Child("", n)}
		if got, err := c.Decide(name, []byte("first")); err != nil || string(got) != "first" {
			t.Fatalf("%q, %v", got, err)
		}
		if got, err := c.Decide(name, []byte("second")); err != nil || string(got) != "first" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	was := c.conn
	if _, err := c.Decide(determinant.Name{}, nil); err == nil || c.broken != nil || c.conn != was {
		t.Errorf("a refusal: %v, then %v", err, c.broken)
	}
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if len(shared.runs) != 1 {
		t.Errorf("one program, and %d runs", len(shared.runs))
	}
}

// That a server leaves a connection is told to who is connected, and nobody is looked for: it would be waited for.
func TestLeaveLooksForNobody(t *testing.T) {
	c := &Client{at: Place{Addresses: []string{"127.0.0.1:1", "127.0.0.1:1"}}, timeout: 100 * time.Millisecond}
	if err := c.Leave(1); err != nil || c.broken != nil {
		t.Errorf("%v, and from then on %v", err, c.broken)
	}
}
