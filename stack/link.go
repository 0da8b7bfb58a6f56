package stack

import (
	"errors"
	"net/netip"
	"os"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lockstep/tun"
)

func seqnumSize(n int) seqnum.Size { return seqnum.Size(n) }

// gsoMax is the largest superpacket given to the kernel; an IPv4 packet's length
// has 16 bits, netstack subtracts the headers itself.
const gsoMax = 65535

// link is the device as netstack sees it: a NIC that segments and checksums in
// hardware, because the kernel behind the TUN device does (or the real NIC).
type link struct {
	e          *Engine
	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
}

func (k *link) MTU() uint32                          { return uint32(k.e.dev.MTU()) }
func (k *link) SetMTU(uint32)                        {}
func (k *link) MaxHeaderLength() uint16              { return 0 }
func (k *link) LinkAddress() tcpip.LinkAddress       { return "" }
func (k *link) SetLinkAddress(tcpip.LinkAddress)     {}
func (k *link) Wait()                                {}
func (k *link) Close()                               {}
func (k *link) SetOnCloseAction(func())              {}
func (k *link) AddHeader(*stack.PacketBuffer)        {}
func (k *link) ParseHeader(*stack.PacketBuffer) bool { return true }
func (k *link) GSOMaxSize() uint32                   { return gsoMax }
func (k *link) SupportedGSO() stack.SupportedGSO     { return stack.HostGSOSupported }

func (k *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// Capabilities: received checksums are taken as good because readLoop has
// verified those that the kernel has not.
func (k *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

func (k *link) Attach(d stack.NetworkDispatcher) {
	k.mu.Lock()
	k.dispatcher = d
	k.mu.Unlock()
}

func (k *link) current() stack.NetworkDispatcher {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.dispatcher
}

func (k *link) IsAttached() bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.dispatcher != nil
}

// WritePackets takes netstack's packets. Those of a leg pass its wrap; others
// (ping replies, unreachables) leave as they are, unless they are TCP: strangers
// are answered by the wrap (answerStranger), so what netstack says of its own
// accord is its RST to a segment that was on its way to an endpoint when the
// endpoint's leg ended. It has netstack's numbers, and the leg wanted silence.
func (k *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	list := pkts.AsSlice()
	for _, pkt := range list {
		if l, ok := pkt.Owner.(*Leg); ok {
			l.output(pkt)
			continue
		}
		k.e.outputUnowned(pkt)
	}
	return len(list), nil
}

func (e *Engine) outputUnowned(pkt *stack.PacketBuffer) {
	if pkt.TransportProtocolNumber == header.TCPProtocolNumber {
		e.C.drop(DropDetached)
		return
	}
	if dst := pkt.Network().DestinationAddress(); header.IsV6MulticastAddress(dst) || header.IsV4MulticastAddress(dst) {
		return // netstack's own MLD and router solicitations: nobody listens on a TUN
	}
	e.emit(pkt, 0)
}

// vector is the scatter list of one write, pooled: the packet path allocates
// nothing.
type vector struct {
	queue uint8 // by which it leaves
	hdr   [tun.VnetHeaderLen]byte
	bufs  [][]byte
}

var vectors = sync.Pool{New: func() any { return &vector{bufs: make([][]byte, 0, 32)} }}

// emit writes a packet of netstack's to the device, if we may speak at all. piece, if
// not 0, is how much payload a segment may carry at most: the kernel cuts it.
func (e *Engine) emit(pkt *stack.PacketBuffer, piece uint16) {
	v := vectors.Get().(*vector)
	h := tun.VnetHeader{}
	if g := &pkt.GSOOptions; g.Type != stack.GSONone && g.NeedsCsum {
		ipLen := len(pkt.NetworkHeader().Slice())
		h.Flags = tun.FlagNeedsCsum
		h.CsumStart, h.CsumOffset = uint16(ipLen), header.TCPChecksumOffset
		mss := g.MSS
		if piece > 0 {
			mss = min(mss, piece)
		}
		if pkt.Data().Size() > int(mss) && mss > 0 {
			h.GSOType = tun.GSOTCPv4
			if g.Type == stack.GSOTCPv6 {
				h.GSOType = tun.GSOTCPv6
			}
			h.HdrLen, h.GSOSize = uint16(pkt.HeaderSize()), mss
		}
	}
	h.Encode(v.hdr[:])
	v.bufs = append(v.bufs[:0], v.hdr[:])
	n := 0
	for _, b := range pkt.AsSlices() {
		v.bufs = append(v.bufs, b)
		n += len(b)
	}
	e.write(v, n)
}

// emitMade writes a packet that the wrap made.
func (e *Engine) emitMade(b []byte) { e.emitMadeBy(0, b) }

// emitMadeBy is emitMade by one of the device's queues.
func (e *Engine) emitMadeBy(queue uint8, b []byte) {
	v := vectors.Get().(*vector)
	v.queue = queue
	clear(v.hdr[:])
	v.bufs = append(v.bufs[:0], v.hdr[:], b)
	e.write(v, len(b))
}

// write is the only way out of the engine: invariant 4 is checked here, last.
func (e *Engine) write(v *vector, n int) {
	if !e.Active() {
		e.C.drop(DropMuted)
	} else if err := e.queues[v.queue].WriteV(v.bufs); err != nil {
		e.C.drop(DropWrite)
	} else {
		e.C.PacketsOut.Add(1)
		e.C.BytesOut.Add(uint64(n))
	}
	clear(v.bufs)
	v.queue = 0
	vectors.Put(v)
}

// Sizes of the two buffers of a read: the first holds an MTU-sized frame whole
// (and always all headers), the second the rest of a superpacket.
const (
	smallRead = 2048
	largeRead = 65536
	// copyMax: a rest up to this is copied out of the large buffer, which is
	// cheaper than giving a 64 KB buffer away for it, in time and in memory.
	copyMax = 16384
	// tinyMax: a packet up to this is copied out of the small one, which would otherwise
	// lie in a receive queue for a few bytes.
	tinyMax = 256
	// gatherMost is how many packets of others a segment waits for more of its own connection. A reader that
	// is never idle would keep one without PSH until its sender's time-out.
	gatherMost = 512
)

// readLoop takes packets from one of the device's queues until it is closed. What is passed on is passed on side by side by
// all readers; all else goes through one of them at a time.
func (e *Engine) readLoop(dev tun.Device) {
	defer e.wg.Done()
	var hdr [tun.VnetHeaderLen]byte
	small, large := buffer.NewViewSize(smallRead), buffer.NewViewSize(largeRead)
	gathered := 0 // packets since something of this reader's waits for more of its connection; 0: nothing does
	flush := func() {
		if gathered > 0 {
			gathered = 0
			e.reading.Lock()
			e.gro.Flush()
			e.reading.Unlock()
		}
	}
	dev.OnIdle(flush)
	defer func() { small.Release(); large.Release() }()
	bufs := make([][]byte, 3)
	for {
		bufs[0], bufs[1], bufs[2] = hdr[:], small.AsSlice(), large.AsSlice()
		n, err := dev.ReadV(bufs)
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return
			}
			select {
			case <-e.done:
				return
			default:
			}
			e.C.drop(DropMalformed)
			continue
		}
		e.C.PacketsIn.Add(1)
		e.C.BytesIn.Add(uint64(n))
		e.changing.RLock()
		if !e.pass(bufs, n, false) {
			e.reading.Lock()
			if !e.hold(bufs, n) {
				gathered = max(gathered, 1)
				small, large = e.takeIn(hdr[:], small, large, n)
			}
			e.reading.Unlock()
		}
		e.changing.RUnlock()
		if gathered == 0 {
			continue
		}
		if gathered++; gathered > gatherMost {
			flush()
		}
	}
}

// takeIn gives a packet that was read to netstack or whoever else it is for, and returns buffers
// for the next one.
func (e *Engine) takeIn(hdr []byte, small, large *buffer.View, n int) (*buffer.View, *buffer.View) {
	var payload buffer.Buffer
	if n <= tinyMax {
		_ = payload.Append(buffer.NewViewWithData(small.AsSlice()[:n]))
	} else {
		small.CapLength(min(n, smallRead))
		_ = payload.Append(small)
		small = buffer.NewViewSize(smallRead)
	}
	if rest := n - smallRead; rest > copyMax {
		large.CapLength(rest)
		_ = payload.Append(large)
		large = buffer.NewViewSize(largeRead)
	} else if rest > 0 {
		v := buffer.NewView(rest)
		_, _ = v.Write(large.AsSlice()[:rest])
		_ = payload.Append(v)
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: payload})
	e.receive(hdr, pkt, n)
	pkt.DecRef()
	return small, large
}

// firstSlice is the first contiguous part of an inbound packet; it holds all
// headers.
func firstSlice(pkt *stack.PacketBuffer) []byte {
	views, off := pkt.AsViewList()
	if v := views.Front(); v != nil && v.Size() >= off {
		return v.AsSlice()[off:]
	}
	return nil
}

// receive decides where one packet from the device goes.
func (e *Engine) receive(hdr []byte, pkt *stack.PacketBuffer, n int) {
	b := firstSlice(pkt)
	if e.takeLoop(b) {
		return
	}
	if !e.Active() {
		e.C.drop(DropNotActive)
		e.missed(b, n)
		return
	}
	var s segment
	switch s.parse(b, n) {
	case parsedTCP:
		e.receiveTCP(&s, hdr, pkt)
	case parsedOther:
		e.receiveOther(b, hdr, pkt)
	case parsedExtension:
		e.C.drop(DropExtension)
	case parsedFragment:
		if whole := e.fragment(b, n); whole != nil {
			e.receiveWhole(whole)
		}
	default:
		e.C.drop(DropMalformed)
	}
}

func destination(b []byte) (a [16]byte) {
	if b[0]>>4 == 6 {
		if len(b) >= header.IPv6MinimumSize {
			copy(a[:], b[24:40])
		}
		return a
	}
	return v4in6(b[16:20])
}

func (e *Engine) receiveTCP(s *segment, hdr []byte, pkt *stack.PacketBuffer) {
	var vh tun.VnetHeader
	if vh.Decode(hdr) != nil {
		e.C.drop(DropMalformed)
		return
	}
	if vh.Flags&(tun.FlagNeedsCsum|tun.FlagDataValid) == 0 && !checksumOK(s, pkt) {
		e.C.drop(DropChecksum)
		return
	}
	l := e.table.get(&s.flow)
	if l != nil {
		switch l.input(s, pkt, false) {
		case vDeliver:
			e.coalesce(s.v6, pkt)
			return
		case vSYN:
			e.table.remove(l)
		default:
			return
		}
	}
	e.receiveUnknown(s, hdr, pkt)
}

// receiveWhole takes a packet that was put together.
func (e *Engine) receiveWhole(b []byte) {
	var s segment
	if s.parse(b, len(b)) != parsedTCP {
		e.C.drop(DropMalformed)
		return
	}
	if e.passWhole(&s, b) {
		return
	}
	var hdr [tun.VnetHeaderLen]byte // nobody has verified its checksum
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	s.parse(firstSlice(pkt), len(b))
	e.receiveTCP(&s, hdr[:], pkt)
	pkt.DecRef()
}

// receiveUnknown takes a segment of no known connection.
func (e *Engine) receiveUnknown(s *segment, hdr []byte, pkt *stack.PacketBuffer) {
	const kind = header.TCPFlagSyn | header.TCPFlagAck | header.TCPFlagRst | header.TCPFlagFin
	switch {
	case e.table.spliced(&s.flow).Spliced != nil:
		// It was for an endpoint (drains), and the connection has been let go since: its sender sends it again (LetGo).
		// It lives, so no RST answers, and no server's segment goes to the client as it is.
		e.C.drop(DropStaleSegment)
	case !e.owned[s.flow.local]:
		// From a server's port, but to a client that talks to it directly; or the
		// connection is lost.
		if !e.lostServer(s) {
			e.bypass(hdr, pkt)
		}
	case e.answersCookie(s, pkt):
	case !e.mayMeet(addrPort(s.flow.remote, 0).Addr()):
		e.C.drop(DropStranger)
	case s.tcp.Flags()&kind == header.TCPFlagSyn && e.listening(s):
		if s.signed() {
			e.refuseSigned(s)
		} else {
			e.incoming(s)
		}
	default:
		e.lostPeer(s)
		e.answerStranger(s)
	}
}

// answerStranger answers a segment of no connection as a closed port does (RFC
// 9293, 3.10.7.1), and one from an address that is nobody's not at all (RFC 1122,
// 4.2.3.10).
func (e *Engine) answerStranger(s *segment) {
	f := s.tcp.Flags()
	if f&header.TCPFlagRst != 0 || nobody(addrPort(s.flow.remote, 0).Addr()) {
		e.C.drop(DropUnknownFlow)
		return
	}
	m := made{flags: header.TCPFlagRst, seq: s.tcp.AckNumber()}
	if f&header.TCPFlagAck == 0 {
		m = made{flags: header.TCPFlagRst | header.TCPFlagAck, ack: s.tcp.SequenceNumber() + s.segLen()}
		if f&header.TCPFlagSyn != 0 {
			m.ack++
		}
	}
	e.emitMade(s.flow.build(make([]byte, maxMade), s.v6, false, m))
}

// nobody reports an address that no host has.
func nobody(a netip.Addr) bool { return a.IsMulticast() || a.IsUnspecified() || a == broadcast }

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// bypass hands a packet that is not ours back to the kernel's router.
func (e *Engine) bypass(hdr []byte, pkt *stack.PacketBuffer) {
	v := vectors.Get().(*vector)
	copy(v.hdr[:], hdr)
	v.bufs = append(v.bufs[:0], v.hdr[:])
	n := 0
	for _, b := range pkt.AsSlices() {
		v.bufs = append(v.bufs, b)
		n += len(b)
	}
	e.C.Bypassed.Add(1)
	e.write(v, n)
}

// deliver gives an inbound packet to netstack.
func (e *Engine) deliver(v6 bool, pkt *stack.PacketBuffer) {
	proto := tcpip.NetworkProtocolNumber(header.IPv4ProtocolNumber)
	if v6 {
		proto = header.IPv6ProtocolNumber
	}
	if d := e.link.current(); d != nil {
		d.DeliverNetworkPacket(proto, pkt)
	}
}

// coalesce gives a segment to netstack's receive offload, which joins it with
// those that follow while more are queued in the device: a superpacket costs
// netstack, the relay and the peer (one ACK) as much as a single frame. Frames
// come one by one only where no NIC and no kernel has joined them before. Only
// whoever holds reading calls it.
func (e *Engine) coalesce(v6 bool, pkt *stack.PacketBuffer) {
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	if v6 {
		pkt.NetworkProtocolNumber = header.IPv6ProtocolNumber
	}
	pkt.RXChecksumValidated = true // see receiveTCP
	e.gro.Enqueue(pkt)
}

// inject delivers a packet made by the wrap in the peer's name.
func (e *Engine) inject(b []byte, v6 bool) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	e.deliver(v6, pkt)
	pkt.DecRef()
}

// checksumOK verifies a TCP checksum that neither the kernel nor a NIC has.
func checksumOK(s *segment, pkt *stack.PacketBuffer) bool {
	return checksum.Combine(s.pseudoSum(), pkt.Data().ChecksumAtOffset(s.ipLen)) == 0xffff
}

// pseudoSum is the sum of the pseudo-header (RFC 9293, 3.1).
func (s *segment) pseudoSum() uint16 {
	addrs := s.ip[12:20]
	if s.v6 {
		addrs = s.ip[8:40]
	}
	x := checksum.Combine(checksum.Checksum(addrs, 0), uint16(header.TCPProtocolNumber))
	return checksum.Combine(x, uint16(len(s.tcp)+s.payload))
}
