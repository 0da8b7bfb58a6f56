package script

import (
	"fmt"
	"time"
)

// DefaultOpts are what a usual kernel offers.
var DefaultOpts = Opts{MSS: 1460, SACKOK: true, TS: true, WScale: 7}

// Handshake plays both handshakes up to the client's ACK; nil options are
// DefaultOpts.
func (c *Conn) Handshake(client, server *Opts) error {
	if client == nil {
		client = &DefaultOpts
	}
	if server == nil {
		server = &DefaultOpts
	}
	r := c.Client.rig
	await := func(what string, cond func() bool) error {
		if !r.Wait(waitLimit, cond, nil) {
			return fmt.Errorf("handshake: no %s: %v %v", what, c.Client, c.Server)
		}
		return nil
	}
	c.Client.Send(Out{Flags: SYN, Ack: Next, Win: 65535, Opts: client})
	if err := await("dial", func() bool { return c.Server.state == peerOpening }); err != nil {
		return err
	}
	c.Server.Send(Out{Flags: SYN | ACK, Ack: 1, Win: 65535, Opts: server})
	if err := await("SYN-ACK", func() bool { return c.Client.rcv == 1 }); err != nil {
		return err
	}
	c.Client.Send(Out{Flags: ACK, Seq: Next, Ack: 1, Win: Next})
	return await("ACK to the server", func() bool { return c.Server.state == peerOpen })
}

// State is what a peer knows; numbers are relative to the ISNs.
type State struct {
	Sent, Acked     int64 // SND.NXT and SND.UNA
	Received        int64 // RCV.NXT
	Edge            int64 // right edge of the window that the appliance announced
	Arrived         int   // segments of the appliance's
	Urgent          int   // of them, with an urgent mark
	Open, Dead, Fin bool  // Fin: the appliance's FIN is in
}

// State returns a snapshot; it must not be called from within Rig.Wait.
func (p *Peer) State() State {
	p.rig.mu.Lock()
	defer p.rig.mu.Unlock()
	return p.stateLocked()
}

func (p *Peer) stateLocked() State {
	urgent := 0
	for i := range p.log {
		if p.log[i].flags&URG != 0 {
			urgent++
		}
	}
	return State{
		Urgent: urgent, Sent: p.nxt, Acked: p.una, Received: p.rcv, Edge: p.edge, Arrived: len(p.log),
		Open: p.state == peerOpen, Dead: p.state == peerDead, Fin: p.theirFin > 0 && p.rcv > p.theirFin,
	}
}

// Await waits until cond holds of both ends; every, if set, is called about ten
// times a second meanwhile.
func (c *Conn) Await(cond func(client, server State) bool, every func()) bool {
	return c.Client.rig.Wait(waitLimit, func() bool { return cond(c.Client.stateLocked(), c.Server.stateLocked()) }, every)
}

// AwaitFor is Await for no longer than limit.
func (c *Conn) AwaitFor(limit time.Duration, cond func(client, server State) bool) bool {
	return c.Client.rig.Wait(limit, func() bool { return cond(c.Client.stateLocked(), c.Server.stateLocked()) }, nil)
}

// Addr returns the peer's own address and the one it talks to.
func (p *Peer) Addr() (self, to string) { return p.self.String(), p.to.String() }

// Forged makes a segment in p's name, with absolute numbers taken from relative
// ones, without any effect on p's state.
func (p *Peer) Forged(flags uint8, seq, ack int64, win uint16, opts Opts, payload []byte) *Segment {
	p.rig.mu.Lock()
	defer p.rig.mu.Unlock()
	return &Segment{
		Src: p.self, Dst: p.to, Flags: flags, Seq: p.isn + uint32(seq), Ack: p.irs + uint32(ack),
		Win: win, Opts: opts, Payload: payload,
	}
}

// MayReset says that RSTs to both ends are expected from now on.
func (p *Peer) MayReset() {
	p.rig.mu.Lock()
	p.mayReset, p.far.mayReset = true, true
	p.rig.mu.Unlock()
}
