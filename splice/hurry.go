package splice

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// What was in flight when the appliance died that passed a connection on is lost, in both directions,
// and a sender whose window is full waits for its retransmission time-out: 200 ms and more. So both
// ends are asked where they are, and their answers passed on: an acknowledgement that was lost
// moves its sender on, and what the one has sent and the other has not shows what is lost. A sender
// that lacks two full segments or more is told so by a SACK block, and sends again at once
// (RFC 8985). The block is not true: its segments are lost as well. That costs no byte: a sender
// keeps what is reported until it is acknowledged, and sends it again when that turns out to be
// missing, since a receiver may discard what it has reported (RFC 2018, section 8).

const (
	// quickOutage is how long ago a sender may have heard from its receiver for its time-out not to
	// have struck (Linux's least one is 200 ms): behind that it would take the reported segment's
	// age for a round trip.
	quickOutage = 150 * time.Millisecond
	// reportsMax is how many such blocks a sender is told.
	reportsMax = 4
	// questionsMax is how often the ends are asked that have not answered: for ten seconds. Then
	// their own timers are left.
	questionsMax = 50
)

// questionDelays are the spans between questions; the last one lasts.
var questionDelays = [...]time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond}

// Hurry makes a connection move on that was restored after a takeover. The zero value begins: Next
// has the first questions. It is needed until Done.
type Hurry struct {
	ends  [2]hurried // indexed by Side
	due   time.Duration
	asked int // questions to each end
	next  Side
	done  bool
}

// hurried is what one end has said and got since the takeover.
type hurried struct {
	said    bool // by a segment without payload, of which the number is SND.NXT
	sent    bool // something has come of it that takes sequence space,
	lowest  uint32
	echo    uint32 // TSecr of what it said
	reports int
	round   int // of questions, in which the newest report was made
}

// Done reports whether nothing is left to do.
func (h *Hurry) Done() bool { return h.done }

// Due is when Next is to be called, by the clock of now in Next.
func (h *Hurry) Due() time.Duration { return h.due }

// Next makes the next question, in buf of MaxMade bytes, or returns nil: then it is to be called
// again at Due, unless Done.
func (h *Hurry) Next(c *Conn, now time.Duration, buf []byte) []byte {
	if h.done || h.next == 0 && now < h.due {
		return nil
	}
	if c.state >= Closed || h.asked >= questionsMax {
		h.done = true
		return nil
	}
	for s := h.next; s <= Server; s++ {
		// Who has said where it is, is asked again only for the other's sake: what it lacks does not come.
		if !h.ends[s].said || h.stalls(c, s) || h.stalls(c, s.Other()) {
			h.next = s + 1
			return c.Probe(s, buf)
		}
	}
	h.next = 0
	h.due = now + questionDelays[min(h.asked, len(questionDelays)-1)]
	h.asked++
	h.settle(c)
	return nil
}

// Passed takes a segment of one side that Forward has just translated: tcp is its header with options, payload
// its bytes of payload. What it returns, made in buf of MaxMade bytes, goes to the side told, behind it.
func (h *Hurry) Passed(c *Conn, from Side, tcp []byte, payload uint32, buf []byte) (to Side, pkt []byte) {
	if h.done {
		return 0, nil
	}
	e := &h.ends[from]
	if n := payload + uint32(tcp[13]&flagFIN); n > 0 {
		if seq := be32(tcp[4:]); !e.sent || after(e.lowest, seq) {
			e.sent, e.lowest = true, seq
		}
	} else if tcp[13]&(flagACK|flagSYN|flagRST) == flagACK {
		e.said = true
		if at, ok := timestamp(tcp[header.TCPMinimumSize:]); ok {
			e.echo = be32(tcp[header.TCPMinimumSize+at+4:])
		}
	}
	if !c.located || !h.ends[Client].said || !h.ends[Server].said {
		return 0, nil
	}
	for s := Client; s <= Server; s++ {
		if pkt = h.report(c, s, buf); pkt != nil {
			return s, pkt
		}
	}
	h.settle(c)
	return 0, nil
}

// stalls reports whether s has sent what the other end lacks, and has not begun to send it again.
func (h *Hurry) stalls(c *Conn, s Side) bool {
	e, ack := &h.ends[s], c.ends[s.Other()].ack
	return c.located && h.ends[s].said && after(c.ends[s].next, ack) && (!e.sent || after(e.lowest, ack))
}

// settle ends it once nothing can be done any more: both have said where they are, and of what
// is lost the sender has begun to send again, or it is too little to be reported.
func (h *Hurry) settle(c *Conn) {
	for s := Client; s <= Server; s++ {
		if !h.ends[s].said || !c.located || h.stalls(c, s) && h.reportable(c, s) {
			return
		}
	}
	h.done = true
}

func (h *Hurry) reportable(c *Conn, s Side) bool {
	return c.sack && h.ends[s].reports < reportsMax && c.ends[s].next-c.ends[s.Other()].ack >= 2*c.segmentOf(s)
}

// segmentOf is the payload of s's full segments.
func (c *Conn) segmentOf(s Side) uint32 {
	n := uint32(c.ends[s.Other()].mss)
	if c.ts {
		n -= min(n, header.TCPOptionTSLength+2)
	}
	return max(n, 1)
}

// report makes an acknowledgement to s, in the other's name, that reports the last of its segments in flight
// and so that those before are lost; nil if there is nothing to tell.
func (h *Hurry) report(c *Conn, s Side, buf []byte) []byte {
	if !h.stalls(c, s) || !h.reportable(c, s) || h.ends[s].reports > 0 && h.ends[s].round == h.asked {
		return nil
	}
	e, r := &c.ends[s], &c.ends[s.Other()]
	if c.ts && time.Duration(int32(r.tsVal-h.ends[s].echo))*time.Millisecond >= quickOutage {
		h.ends[s].reports = reportsMax
		return nil
	}
	// Another block each time: what a sender was told before is no news. Two segments' length, so that
	// one is whole wherever the sender has cut; the first one is never reported.
	n := c.segmentOf(s)
	end := e.next
	if k := uint32(h.ends[s].reports) * 2 * n; e.next-r.ack > k+2*n {
		end -= k
	}
	start := r.ack + n
	if end-r.ack > 3*n {
		start = end - 2*n
	}
	h.ends[s].reports++
	h.ends[s].round = h.asked
	var opts [header.TCPOptionsMaximumSize]byte
	o := append(opts[:len(c.stamps(s, opts[:]))], header.TCPOptionNOP, header.TCPOptionNOP, header.TCPOptionSACK, 10)
	o = append(o, byte(start>>24), byte(start>>16), byte(start>>8), byte(start), byte(end>>24), byte(end>>16), byte(end>>8), byte(end))
	return c.to(s, buf, Made{Flags: header.TCPFlagAck, Seq: r.next, Ack: r.ack, Window: r.window, Opts: o})
}
