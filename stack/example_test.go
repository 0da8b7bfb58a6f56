package stack_test

import (
	"fmt"
	"net/netip"

	"lockstep/stack"
	"lockstep/tun/tuntest"
)

// side is one engine with one leg, and what wakes its worker.
type side struct {
	eng  *stack.Engine
	legs chan *stack.Leg
	wake chan struct{}
}

func newSide(dev *tuntest.End, addr netip.Addr) (*side, error) {
	s := &side{legs: make(chan *stack.Leg, 1), wake: make(chan struct{}, 1)}
	var err error
	if s.eng, err = stack.New(stack.Options{Device: dev, Handler: s, Addresses: []netip.Addr{addr}}); err != nil {
		return nil, err
	}
	s.eng.SetActive(true)
	return s, nil
}

// Incoming implements stack.Handler.
func (s *side) Incoming(l *stack.Leg) {
	l.SetEvents(s)
	s.legs <- l
}

// Wake implements stack.Events: it is on the packet path, and only notes that there is news.
func (s *side) Wake(*stack.Leg) {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Delivered implements stack.Events.
func (s *side) Delivered(l *stack.Leg, _ uint64) { s.Wake(l) }

// until waits for news until done says so.
func (s *side) until(done func() bool) {
	for !done() {
		<-s.wake
	}
}

// up waits until a leg has its endpoint; one whose client was listened for has to be given it.
func (s *side) up(l *stack.Leg) error {
	s.until(func() bool { return l.Established() || l.Waiting() || l.Err() != nil })
	if l.Waiting() {
		if err := l.Attach(); err != nil {
			return err
		}
		s.until(func() bool { return l.Established() || l.Err() != nil })
	}
	return l.Err()
}

// An engine takes a client's bytes; the client learns that they are there only when Permit says that
// they are safe. Here the client is an engine, too, with nothing but memory between the two.
func Example() {
	near, far := tuntest.Pipe()
	vip, own := netip.MustParseAddrPort("203.0.113.10:80"), netip.MustParseAddrPort("198.51.100.7:40000")
	server, err := newSide(near, vip.Addr())
	if err != nil {
		panic(err)
	}
	defer server.eng.Close()
	client, err := newSide(far, own.Addr())
	if err != nil {
		panic(err)
	}
	defer client.eng.Close()
	server.eng.Listen(vip, 1000, 1000)
	server.eng.Run()
	client.eng.Run()

	c, err := client.eng.Dial(stack.Params{Local: own, Remote: vip}, false, client)
	if err != nil {
		panic(err)
	}
	s := <-server.legs
	s.Accept() // the SYN-ACK leaves
	if err = client.up(c); err == nil {
		err = server.up(s)
	}
	if err != nil {
		panic(err)
	}
	c.Open() // nobody has to hear of what the client receives

	if _, err = c.Write([][]byte{[]byte("GET /")}, 5); err != nil {
		panic(err)
	}
	var bufs [][]byte
	server.until(func() bool {
		var n int
		bufs, n, _ = s.Peek(nil, 0, 100)
		return n == 5
	})
	fmt.Printf("the server has %q, the client knows of %d bytes\n", bufs[0], c.Delivered())

	s.Permit(5)
	client.until(func() bool { return c.Delivered() == 5 })
	fmt.Println("permitted: the client knows of", c.Delivered())
	s.Discard(5)
	// Output:
	// the server has "GET /", the client knows of 0 bytes
	// permitted: the client knows of 5
}
