package stack_test

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"lockstep/internal/script"
	"lockstep/tun"
)

// Ways for a connection to go.
const (
	clientFirst = iota // FIN of the client, then of the server
	serverFirst
	clientResets
	serverResets
	refused  // by the server
	givenUp  // by the client, when its SYN is answered
	atOnce   // both FINs cross
	numKinds // keep last
)

// flood plays thousands of clients and their servers with as little state and
// work as possible. Every client has an address of its own.
type flood struct {
	t     *testing.T
	rig   *script.Rig
	total int

	mu     sync.Mutex
	cond   *sync.Cond
	open   map[uint32]*floodConn
	opened int
	moves  int // segments that brought a connection on
	done   [numKinds]int
}

// floodEnd is one end of a connection; sequence numbers are absolute.
type floodEnd struct {
	snd, rcv uint32
	una      uint32
	finSent  bool
	finSeen  bool
	reset    bool
	port     uint16 // of the appliance, at a server
}

type floodConn struct {
	kind   int
	client floodEnd
	server floodEnd
}

const (
	floodISN  = 77
	floodUp   = 100 // bytes of request and response
	floodDown = 300
	// floodOpen is how many connections exist at the same time.
	floodOpen = 200
)

var (
	floodVIP    = [4]byte{203, 0, 113, 10}
	floodServer = [4]byte{10, 20, 0, 11}
)

func newFlood(t *testing.T, v script.Options) *flood {
	t.Helper()
	f := &flood{t: t, open: make(map[uint32]*floodConn)}
	f.cond = sync.NewCond(&f.mu)
	v.Light, v.Raw = true, f.take
	var err error
	if f.rig, err = script.New(v); err != nil {
		t.Fatal(err)
	}
	return f
}

// play opens n connections more, a bounded number at a time, and waits until all
// have gone their way.
func (f *flood) play(n int) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.total += n
	for range min(n, floodOpen) {
		f.begin()
	}
	// They go on side by side: on a busy machine the first of them ends when all are about to.
	last := -1
	for f.opened < f.total || len(f.open) > 0 {
		before := f.moves
		timer := time.AfterFunc(benchLimit, f.cond.Broadcast)
		f.cond.Wait()
		if !timer.Stop() && f.moves == before && f.moves == last {
			f.t.Fatalf("%d connections hang: %+v; done %v", len(f.open), f.some(), f.done)
		}
		last = f.moves
	}
}

func (f *flood) some() (all []floodConn) {
	for _, c := range f.open {
		if all = append(all, *c); len(all) == 5 {
			break
		}
	}
	return all
}

// begin sends the SYN of one more client, if there is one. mu is held.
func (f *flood) begin() {
	if f.opened == f.total {
		return
	}
	id := uint32(f.opened)
	f.opened++
	c := &floodConn{kind: int(id) % numKinds}
	c.client.snd = floodISN + id
	f.open[id] = c
	f.send(id, &c.client, false, script.SYN, 0)
	c.client.snd++
}

// send makes a segment with n bytes.
func (f *flood) send(id uint32, e *floodEnd, server bool, flags uint8, n int) {
	const ipLen, tcpLen = 20, 20
	p := make([]byte, ipLen+tcpLen+n)
	p[0], p[8], p[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	client := [4]byte{100, 64 | byte(id>>16), byte(id >> 8), byte(id)}
	tcp := p[ipLen:]
	if server {
		copy(p[12:], floodServer[:])
		copy(p[16:], client[:])
		binary.BigEndian.PutUint16(tcp, 8080)
		binary.BigEndian.PutUint16(tcp[2:], e.port)
	} else {
		copy(p[12:], client[:])
		copy(p[16:], floodVIP[:])
		binary.BigEndian.PutUint16(tcp, 40000)
		binary.BigEndian.PutUint16(tcp[2:], 80)
	}
	binary.BigEndian.PutUint32(tcp[4:], e.snd)
	if flags&script.ACK != 0 {
		binary.BigEndian.PutUint32(tcp[8:], e.rcv)
	}
	tcp[12], tcp[13] = 5<<4, flags
	binary.BigEndian.PutUint16(tcp[14:], 60000)
	hdr := make([]byte, tun.VnetHeaderLen)
	hdr[0] = tun.FlagDataValid // as from a NIC that has verified the checksum
	if err := f.rig.Inject(hdr, p); err != nil {
		f.t.Error(err)
	}
}

// take gets a packet of the appliance's.
func (f *flood) take(_, pkt []byte) {
	if pkt[0] != 0x45 || pkt[9] != 6 {
		return
	}
	tcp := pkt[20:]
	fl, seq, ack := tcp[13], binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:])
	n := uint32(len(tcp) - int(tcp[12]>>4)*4)
	server := [4]byte(pkt[16:20]) == floodServer
	addr := pkt[16:20]
	if server {
		addr = pkt[12:16]
	}
	id := binary.BigEndian.Uint32(addr) & 0x3fffff
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.open[id]
	if c == nil {
		return
	}
	was := *c
	if server {
		c.server.port = binary.BigEndian.Uint16(tcp)
		f.atServer(id, c, fl, seq, ack, n)
	} else {
		f.atClient(id, c, fl, seq, ack, n)
	}
	if *c != was {
		f.moves++
	}
	if c.ended() {
		delete(f.open, id)
		f.done[c.kind]++
		f.begin()
		f.cond.Broadcast()
	}
}

// common takes what is the same at both ends, and reports news.
func (e *floodEnd) common(fl uint8, seq, ack, n uint32) (news bool) {
	if fl&script.ACK != 0 && int32(ack-e.una) > 0 {
		e.una, news = ack, true
	}
	if seq != e.rcv {
		return news
	}
	e.rcv += n
	if fl&script.FIN != 0 {
		e.rcv++
		e.finSeen = true
	}
	return news || n > 0 || fl&script.FIN != 0
}

func (f *flood) close(id uint32, e *floodEnd, server bool, n int) {
	f.send(id, e, server, script.ACK|script.FIN|script.PSH, n)
	e.snd += uint32(n) + 1
	e.finSent = true
}

func (f *flood) atClient(id uint32, c *floodConn, fl uint8, seq, ack, n uint32) {
	e := &c.client
	switch {
	case fl&script.RST != 0:
		e.reset = true
		return
	case fl&script.SYN != 0:
		if e.rcv != 0 {
			return
		}
		e.rcv, e.una = seq+1, ack
		switch c.kind {
		case givenUp:
			f.send(id, e, false, script.RST, 0)
			e.reset = true
		case clientFirst:
			f.close(id, e, false, floodUp)
		default:
			f.send(id, e, false, script.ACK|script.PSH, floodUp)
			e.snd += floodUp
		}
		return
	}
	before := e.rcv
	e.common(fl, seq, ack, n)
	switch {
	case c.kind == clientResets && e.una == e.snd && !e.reset:
		f.send(id, e, false, script.RST|script.ACK, 0)
		e.reset = true
	case (c.kind == serverFirst && e.finSeen || c.kind == atOnce && e.una == e.snd) && !e.finSent:
		f.close(id, e, false, 0)
	case e.rcv != before || n > 0:
		f.send(id, e, false, script.ACK, 0)
	}
}

func (f *flood) atServer(id uint32, c *floodConn, fl uint8, seq, ack, n uint32) {
	e := &c.server
	switch {
	case fl&script.RST != 0:
		e.reset = true
		return
	case fl&script.SYN != 0:
		e.rcv, e.snd = seq+1, floodISN
		if c.kind == refused {
			e.snd = 0
			f.send(id, e, true, script.RST|script.ACK, 0)
			e.reset = true
			return
		}
		f.send(id, e, true, script.SYN|script.ACK, 0)
		e.snd++
		return
	}
	before := e.rcv
	e.common(fl, seq, ack, n)
	got := e.rcv != before
	switch {
	case c.kind == serverResets && n > 0 && got:
		f.send(id, e, true, script.RST|script.ACK, 0)
		e.reset = true
	case !e.finSent && got && (c.kind == serverFirst || c.kind == atOnce || c.kind == clientFirst && e.finSeen):
		f.close(id, e, true, floodDown)
	case got || n > 0:
		f.send(id, e, true, script.ACK, 0)
	}
}

// ended reports whether both ends have seen all that is to come.
func (c *floodConn) ended() bool {
	switch c.kind {
	case clientFirst, serverFirst, atOnce:
		for _, e := range []*floodEnd{&c.client, &c.server} {
			if !e.finSent || !e.finSeen || e.una != e.snd {
				return false
			}
		}
		return true
	case refused, serverResets, clientResets, givenUp:
		return c.client.reset && c.server.reset
	}
	return false
}
