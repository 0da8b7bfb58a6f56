package splice

import (
	"math/rand/v2"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Packets that are said in an end's name. Their virtio-net header is all zeros.

// to builds a segment for one side, in the name of the other.
func (c *Conn) to(side Side, buf []byte, m Made) []byte {
	f := &c.client
	if side == Server {
		f = &c.server
	}
	return Build(buf, c.v6, &f.local, &f.remote, f.localPort, f.remotePort, m)
}

// stamps are the options of a segment to side, if timestamps are used.
func (c *Conn) stamps(side Side, b []byte) []byte {
	if !c.ts {
		return nil
	}
	e, r := &c.ends[side.Other()], &c.ends[side]
	val, ecr := e.tsVal, r.tsRecent
	if !e.hasTS || !r.hasTS {
		val, ecr = 1, 0 // old to most: that gets an answer as well (RFC 7323, 5.3)
	}
	n := header.EncodeNOP(b)
	n += header.EncodeNOP(b[n:])
	n += header.EncodeTSOption(val, ecr, b[n:])
	return b[:n]
}

// Reset makes the RST, in buf of MaxMade bytes, by which one side is told that the connection is over. If it
// is not known where that side is, it is a question instead, and sure is false. With bytes on their
// way the side may be somewhere else and challenge the RST (RFC 5961). After Kill, which
// comes behind it, the answer to either is answered by a RST that is believed.
func (c *Conn) Reset(to Side, buf []byte) (pkt []byte, sure bool) {
	e := &c.ends[to]
	if !c.located && (c.state != Opening || !c.offer.valid) {
		return c.Probe(to, buf), false
	}
	return c.to(to, buf, Made{Flags: header.TCPFlagRst | header.TCPFlagAck, Seq: e.ack, Ack: e.next}), true
}

// ResetAhead is Reset from where that side is once it has what is on its way to it: with bytes in
// flight it does not believe a RST from before them. ok is false if Reset has said that already.
func (c *Conn) ResetAhead(to Side, buf []byte) (pkt []byte, ok bool) {
	e, r := &c.ends[to], &c.ends[to.Other()]
	if !c.located || r.next == e.ack {
		return nil, false
	}
	return c.to(to, buf, Made{Flags: header.TCPFlagRst | header.TCPFlagAck, Seq: r.next, Ack: e.next}), true
}

// Probe makes a question, in buf of MaxMade bytes, that a living end answers by saying where it is, and a
// dead one by a RST: a segment from before its window, as keepalives are (RFC 9293, 3.8.4). The
// answer is passed on as any other segment is; to the other end it is a duplicate.
func (c *Conn) Probe(to Side, buf []byte) []byte {
	var opts [12]byte
	e, r := &c.ends[to], &c.ends[to.Other()]
	m := Made{Flags: header.TCPFlagAck, Seq: e.ack - 1, Ack: r.ack, Window: r.window, Opts: c.stamps(to, opts[:])}
	if !c.located {
		m.Seq, m.Ack, m.Window = rand.Uint32(), rand.Uint32(), 0
	}
	c.asked, c.askedAck = momentOf(c.asked.at(), to), m.Ack
	return c.to(to, buf, m)
}

// MakeSYN makes the client's SYN once more, in buf of MaxMade bytes, for the present server.
func (c *Conn) MakeSYN(buf []byte) []byte {
	var opts [header.TCPOptionsMaximumSize]byte
	o := &c.offer
	n := header.EncodeMSSOption(uint32(o.mss), opts[:])
	if o.sack {
		n += header.EncodeSACKPermittedOption(opts[n:])
	} else if o.ts {
		n += header.EncodeNOP(opts[n:])
		n += header.EncodeNOP(opts[n:])
	}
	if o.ts {
		n += header.EncodeTSOption(o.tsVal, 0, opts[n:])
	} else if o.sack {
		n += header.EncodeNOP(opts[n:])
		n += header.EncodeNOP(opts[n:])
	}
	if o.ws >= 0 {
		n += header.EncodeNOP(opts[n:])
		n += header.EncodeWSOption(int(o.ws), opts[n:])
	}
	return c.to(Server, buf, Made{Flags: header.TCPFlags(flagSYN | o.flags), Seq: o.isn, Window: o.window, Opts: opts[:n]})
}

// Answer makes what a closed port answers to an untranslated segment of from, in buf of MaxMade
// bytes (RFC 9293, 3.10.7.1); nil: nothing.
func (c *Conn) Answer(from Side, ip []byte, ipLen, total int, buf []byte) []byte {
	tcp := header.TCP(ip[ipLen:])
	m := Made{Flags: header.TCPFlagRst, Seq: tcp.AckNumber()}
	switch f := tcp.Flags(); {
	case f&header.TCPFlagRst != 0:
		return nil
	case f&header.TCPFlagAck == 0:
		n := uint32(total - ipLen - int(tcp.DataOffset()))
		if f&header.TCPFlagSyn != 0 {
			n++
		}
		if f&header.TCPFlagFin != 0 {
			n++
		}
		m = Made{Flags: header.TCPFlagRst | header.TCPFlagAck, Ack: tcp.SequenceNumber() + n}
	}
	return c.to(from, buf, m)
}
