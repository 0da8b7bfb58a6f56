package steer

import (
	"encoding/binary"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Offsets in the kernel's struct __sk_buff (linux/bpf.h).
const (
	skbLen      = 0
	skbPktType  = 4
	skbMark     = 8
	skbProtocol = 16
	skbVLAN     = 20
	skbIfindex  = 40
	skbData     = 76
	skbDataEnd  = 80
	skbGSOSize  = 176
)

// Offsets in struct bpf_fib_lookup, and its length.
const (
	fibFamily  = 0
	fibProto   = 1
	fibPorts   = 2 // source and destination, as they lie in the TCP header
	fibTotLen  = 6
	fibIfindex = 8
	fibTOS     = 12
	fibSrc     = 16
	fibDst     = 32
	fibLen     = 64

	fibSkipNeigh = 1 << 3 // BPF_FIB_LOOKUP_SKIP_NEIGH, since Linux 6.3
)

// Verdicts of a TCX program.
const (
	tcxNext = -1 // on to whoever comes next, the kernel at last
	tcxDrop = 2
)

const (
	etherLen = 14
	tcpLen   = 20
	flagSYN  = 0x02
	flagACK  = 0x10
)

// The stack of a program: a key of the table, the counter's index, what bpf_fib_lookup and
// bpf_redirect_neigh are given. Offsets from the frame's end.
const (
	stackKey   = -24 // an entry
	stackIndex = -32
	stackFib   = stackIndex - fibLen
	stackNeigh = stackFib - 24
	neighLen   = 20 // struct bpf_redir_neigh
)

// Registers that outlive a call.
const (
	rSkb   = asm.R6
	rData  = asm.R7
	rEnd   = asm.R8
	rExtra = asm.R9 // the IP packet's length of a segment; a flag
)

// ip is what differs between the families.
type ip struct {
	name           string
	family         byte // AF_*
	etherType      uint16
	len            int16 // of the header
	proto, hops    int16
	src, dst, addr int16
}

var (
	ip4 = ip{name: "v4", family: unix.AF_INET, etherType: unix.ETH_P_IP, len: 20, proto: 9, hops: 8, src: 12, dst: 16, addr: 4}
	ip6 = ip{name: "v6", family: unix.AF_INET6, etherType: unix.ETH_P_IPV6, len: 40, proto: 6, hops: 7, src: 8, dst: 24, addr: 16}
)

// program assembles what one hook does. After a check that fails, the packet goes to the label
// pass: the kernel's usual way.
type program struct {
	hook   Hook
	tun    int32 // index of the TUN device
	mtu    int32 // of the TUN device
	strict bool
	back4  bool // the strict reverse path filter is on, see wayBack
	table  int  // file descriptors of the maps
	counts int  //
	flows  flowMaps
	l2     int16 // length of the link layer's header
	out    asm.Instructions
}

// be is a 16-bit number as a load from a packet gives it.
func be(n uint16) int32 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return int32(binary.NativeEndian.Uint16(b[:]))
}

func (p *program) add(ins ...asm.Instruction) { p.out = append(p.out, ins...) }

// at is add of one instruction that can be jumped to.
func (p *program) at(label string, ins asm.Instruction) { p.add(ins.WithSymbol(label)) }

const pass = "pass"

func (p *program) assemble() asm.Instructions {
	p.l2 = etherLen
	if p.hook == Out {
		p.l2 = 0
	}
	p.add(asm.Mov.Reg(rSkb, asm.R1))
	if p.hook != Out {
		// To somebody else, as a promiscuous NIC gets it; of a VLAN that is not this interface's.
		p.add(
			asm.LoadMem(asm.R0, rSkb, skbPktType, asm.Word), asm.JNE.Imm(asm.R0, unix.PACKET_HOST, pass),
			asm.LoadMem(asm.R0, rSkb, skbVLAN, asm.Word), asm.JNE.Imm(asm.R0, 0, pass),
		)
	}
	p.add(
		asm.LoadMem(asm.R0, rSkb, skbProtocol, asm.Word),
		asm.JEq.Imm(asm.R0, be(ip4.etherType), ip4.name),
		asm.JEq.Imm(asm.R0, be(ip6.etherType), ip6.name),
	)
	p.at(pass, asm.Mov.Imm(asm.R0, tcxNext))
	p.add(asm.Return())
	p.path(&ip4)
	p.path(&ip6)
	return p.out
}

// path is what becomes of a family's packet.
func (p *program) path(f *ip) {
	p.headers(f)
	if f.family == unix.AF_INET {
		p.plain4(f)
	} else {
		p.plain6(f)
	}
	p.lengths(f)
	if p.hook != Out { // of nobody else's: routing refuses it, at the latest where it is answered
		p.add(asm.Mov.Reg(rExtra, asm.R0))
		p.lookup(f, f.src, -1, kindOwn)
		p.add(asm.JNE.Imm(asm.R0, 0, pass))
		if p.back4 && f.family == unix.AF_INET { // IPv6 has none
			p.wayBack(f)
		}
		p.add(asm.Mov.Reg(asm.R0, rExtra))
	}
	switch p.hook {
	case Front:
		p.front(f)
	case Back:
		p.back(f)
	case Out:
		p.sent(f)
		return
	}
	if p.flows.keys > 0 {
		p.flow(f)
	}
	p.hop(f)
	p.count(f)
	p.add(asm.Mov.Imm(asm.R1, p.tun), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return())
}

// headers makes all headers readable in one piece.
func (p *program) headers(f *ip) {
	need := int32(p.l2) + int32(f.len) + tcpLen
	have := f.name + "-have"
	p.at(f.name, asm.LoadMem(rData, rSkb, skbData, asm.Word))
	p.add(
		asm.LoadMem(rEnd, rSkb, skbDataEnd, asm.Word),
		asm.Mov.Reg(asm.R0, rData), asm.Add.Imm(asm.R0, need), asm.JLE.Reg(asm.R0, rEnd, have),
		asm.Mov.Reg(asm.R1, rSkb), asm.Mov.Imm(asm.R2, need), asm.FnSkbPullData.Call(),
		asm.LoadMem(rData, rSkb, skbData, asm.Word), asm.LoadMem(rEnd, rSkb, skbDataEnd, asm.Word),
		asm.Mov.Reg(asm.R0, rData), asm.Add.Imm(asm.R0, need), asm.JGT.Reg(asm.R0, rEnd, pass),
	)
	p.at(have, asm.LoadMem(asm.R0, rData, p.l2, asm.Byte))
}

// plain4 lets nothing on but a whole TCP segment behind a header without options, as ip_rcv would
// have it. R0 is the header's first byte.
func (p *program) plain4(f *ip) {
	l2 := p.l2
	p.add(
		asm.JNE.Imm(asm.R0, 0x45, pass),
		asm.LoadMem(asm.R0, rData, l2+6, asm.Half), asm.And.Imm(asm.R0, be(0xbfff)), asm.JNE.Imm(asm.R0, 0, pass),
		asm.LoadMem(asm.R0, rData, l2+f.proto, asm.Byte), asm.JNE.Imm(asm.R0, unix.IPPROTO_TCP, pass),
		asm.LoadMem(asm.R0, rData, l2+f.hops, asm.Byte), asm.JLE.Imm(asm.R0, 1, pass),
		asm.LoadMem(rExtra, rData, l2+2, asm.Half), asm.HostTo(asm.BE, rExtra, asm.Half),
	)
	if p.hook == Out {
		return
	}
	p.add( // martians (RFC 1812, 5.3.7) are routing's
		asm.LoadMem(asm.R0, rData, l2+f.src, asm.Byte), asm.JEq.Imm(asm.R0, 0, pass), asm.JEq.Imm(asm.R0, 127, pass), asm.JGE.Imm(asm.R0, 224, pass),
		asm.LoadMem(asm.R0, rData, l2+f.dst, asm.Byte), asm.JEq.Imm(asm.R0, 0, pass), asm.JEq.Imm(asm.R0, 127, pass), asm.JGE.Imm(asm.R0, 224, pass),
		asm.LoadMem(asm.R0, rData, l2, asm.Word),
	)
	for off := int16(4); off < f.len; off += 4 {
		p.add(asm.LoadMem(asm.R1, rData, l2+off, asm.Word), asm.Add.Reg(asm.R0, asm.R1))
	}
	for range 3 { // five words of 32 bits: 35 bits, 20, 17, 16
		p.add(asm.Mov.Reg(asm.R1, asm.R0), asm.RSh.Imm(asm.R1, 16), asm.And.Imm(asm.R0, 0xffff), asm.Add.Reg(asm.R0, asm.R1))
	}
	p.add(asm.JNE.Imm(asm.R0, 0xffff, pass))
}

// plain6 is plain4.
func (p *program) plain6(f *ip) {
	l2 := p.l2
	p.add(
		asm.And.Imm(asm.R0, 0xf0), asm.JNE.Imm(asm.R0, 0x60, pass),
		asm.LoadMem(asm.R0, rData, l2+f.proto, asm.Byte), asm.JNE.Imm(asm.R0, unix.IPPROTO_TCP, pass),
		asm.LoadMem(asm.R0, rData, l2+f.hops, asm.Byte), asm.JLE.Imm(asm.R0, 1, pass),
		asm.LoadMem(rExtra, rData, l2+4, asm.Half), asm.HostTo(asm.BE, rExtra, asm.Half), asm.Add.Imm(rExtra, int32(f.len)),
	)
	if p.hook == Out {
		return
	}
	p.add( // of link-local and multicast addresses, and of those that no router may forward
		asm.LoadMem(asm.R0, rData, l2+f.src, asm.Byte), asm.JEq.Imm(asm.R0, 0, pass), asm.JGE.Imm(asm.R0, 0xfe, pass),
		asm.LoadMem(asm.R0, rData, l2+f.dst, asm.Byte), asm.JEq.Imm(asm.R0, 0, pass), asm.JGE.Imm(asm.R0, 0xfe, pass),
	)
}

// lengths lets on only what is as long as its header says: padding is ip_rcv's to take off.
// rExtra is then the length of what routing must be able to send: that of a superpacket's segments.
func (p *program) lengths(f *ip) {
	p.add(
		asm.LoadMem(asm.R0, rSkb, skbLen, asm.Word), asm.Sub.Imm(asm.R0, int32(p.l2)), asm.JNE.Reg(asm.R0, rExtra, pass),
	)
	whole := f.name + "-whole"
	p.add(
		asm.LoadMem(asm.R1, rSkb, skbGSOSize, asm.Word), asm.JEq.Imm(asm.R1, 0, whole),
		asm.LoadMem(rExtra, rData, p.l2+f.len+12, asm.Byte), asm.RSh.Imm(rExtra, 4), asm.LSh.Imm(rExtra, 2),
		asm.Add.Imm(rExtra, int32(f.len)), asm.Add.Reg(rExtra, asm.R1),
	)
	if p.hook == Out {
		p.at(whole, asm.Mov.Imm(asm.R0, 0))
		return
	}
	p.at(whole, asm.JGT.Imm(rExtra, p.mtu, pass))
	p.add(asm.LoadMem(asm.R0, rData, p.l2+f.len+13, asm.Byte)) // flags
}

// key puts an address and a port, whose offsets in the packet are given, and a kind on the stack.
func (p *program) key(f *ip, addr, port int16, k kind) {
	for off := int16(0); off < 16; off += 4 {
		if off < f.addr {
			p.add(asm.LoadMem(asm.R1, rData, p.l2+addr+off, asm.Word), asm.StoreMem(asm.RFP, stackKey+off, asm.R1, asm.Word))
		} else {
			p.add(asm.StoreImm(asm.RFP, stackKey+off, 0, asm.Word))
		}
	}
	if port < 0 {
		p.add(asm.StoreImm(asm.RFP, stackKey+16, 0, asm.Half))
	} else {
		p.add(asm.LoadMem(asm.R1, rData, p.l2+f.len+port, asm.Half), asm.StoreMem(asm.RFP, stackKey+16, asm.R1, asm.Half))
	}
	p.add(asm.StoreImm(asm.RFP, stackKey+18, int64(binary.NativeEndian.Uint16([]byte{byte(k), f.family})), asm.Half))
}

// lookup makes R0 other than 0 if the table has the key.
func (p *program) lookup(f *ip, addr, port int16, k kind) {
	p.key(f, addr, port, k)
	p.add(asm.LoadMapPtr(asm.R1, p.table), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, stackKey), asm.FnMapLookupElem.Call())
}

func (p *program) front(f *ip) {
	// A client's SYN is the packet filter's (Guard), and seen by whatever else looks at beginnings.
	p.add(asm.And.Imm(asm.R0, flagSYN), asm.JNE.Imm(asm.R0, 0, pass))
	p.lookup(f, f.dst, 2, kindListen)
	p.add(asm.JEq.Imm(asm.R0, 0, pass))
	if p.strict {
		p.lookup(f, f.src, 0, kindForged)
		p.add(asm.JNE.Imm(asm.R0, 0, pass))
	}
}

func (p *program) back(f *ip) {
	found, other := f.name+"-found", f.name+"-other"
	p.add(asm.And.Imm(asm.R0, flagSYN|flagACK), asm.JEq.Imm(asm.R0, flagSYN, pass))
	p.lookup(f, f.dst, -1, kindVirtual)
	p.add(
		asm.JEq.Imm(asm.R0, 0, other),
		asm.LoadMem(asm.R0, asm.R0, 0, asm.Word), asm.JEq.Imm(asm.R0, int32(leave), pass), asm.Ja.Label(found),
	)
	p.at(other, asm.Mov.Imm(asm.R0, 0))
	p.lookup(f, f.src, 0, kindServer)
	p.add(asm.JEq.Imm(asm.R0, 0, pass))
	p.at(found, asm.Mov.Imm(asm.R0, 0))
}

// fib asks routing what forwarding would ask; R0 is its answer.
func (p *program) fib(f *ip) {
	p.fibFor(f, f.src, f.dst)
	p.add(
		asm.LoadMem(asm.R1, rSkb, skbIfindex, asm.Word), asm.StoreMem(asm.RFP, stackFib+fibIfindex, asm.R1, asm.Word),
		asm.StoreMem(asm.RFP, stackFib+fibTotLen, rExtra, asm.Half),
	)
	p.fibCall()
}

// wayBack lets on only what comes by the interface by which routing would answer it, as the strict reverse path filter (RFC 3704)
// would. What does not, or may by more than one path, is left to that filter. It asks what the filter asks of what is forwarded
// (__mkroute_input of net/ipv4/route.c): the way to the source, for what comes in by the device that this would leave by, which
// is the TUN device, with the ports as they are, without a mark.
func (p *program) wayBack(f *ip) {
	p.add(asm.LoadMem(asm.R0, rSkb, skbMark, asm.Word), asm.JNE.Imm(asm.R0, 0, pass))
	p.fibFor(f, f.dst, f.src)
	p.add(
		asm.StoreImm(asm.RFP, stackFib+fibIfindex, int64(p.tun), asm.Word),
		asm.StoreImm(asm.RFP, stackFib+fibTotLen, int64(f.len)+tcpLen, asm.Half),
	)
	p.fibCall()
	p.add(
		asm.JNE.Imm(asm.R0, 0, pass),
		asm.LoadMem(asm.R1, asm.RFP, stackFib+fibIfindex, asm.Word), asm.LoadMem(asm.R2, rSkb, skbIfindex, asm.Word), asm.JNE.Reg(asm.R1, asm.R2, pass),
	)
}

// fibFor puts a question to routing on the stack, but for the interface and the length: the way from and to the addresses whose
// offsets are given.
func (p *program) fibFor(f *ip, src, dst int16) {
	p.add(asm.Mov.Imm(asm.R1, 0))
	for off := int16(0); off < fibLen; off += 8 {
		p.add(asm.StoreMem(asm.RFP, stackFib+off, asm.R1, asm.DWord))
	}
	p.add(
		asm.StoreImm(asm.RFP, stackFib+fibFamily, int64(f.family), asm.Byte),
		asm.StoreImm(asm.RFP, stackFib+fibProto, unix.IPPROTO_TCP, asm.Byte),
		asm.LoadMem(asm.R1, rData, p.l2+f.len, asm.Half), asm.StoreMem(asm.RFP, stackFib+fibPorts, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, rData, p.l2+f.len+2, asm.Half), asm.StoreMem(asm.RFP, stackFib+fibPorts+2, asm.R1, asm.Half),
	)
	if f.family == unix.AF_INET {
		p.add(asm.LoadMem(asm.R1, rData, p.l2+1, asm.Byte), asm.And.Imm(asm.R1, 0xfc), asm.StoreMem(asm.RFP, stackFib+fibTOS, asm.R1, asm.Byte))
	} else {
		p.add(asm.LoadMem(asm.R1, rData, p.l2, asm.Word), asm.And.Imm(asm.R1, flowInfo()), asm.StoreMem(asm.RFP, stackFib+fibTOS, asm.R1, asm.Word))
	}
	for off := int16(0); off < f.addr; off += 4 {
		p.add(
			asm.LoadMem(asm.R1, rData, p.l2+src+off, asm.Word), asm.StoreMem(asm.RFP, stackFib+fibSrc+off, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, rData, p.l2+dst+off, asm.Word), asm.StoreMem(asm.RFP, stackFib+fibDst+off, asm.R1, asm.Word),
		)
	}
}

// fibCall asks; R0 is the answer.
func (p *program) fibCall() {
	p.add(
		asm.Mov.Reg(asm.R1, rSkb), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, stackFib),
		asm.Mov.Imm(asm.R3, fibLen), asm.Mov.Imm(asm.R4, fibSkipNeigh), asm.FnFibLookup.Call(),
	)
}

// flowInfo masks an IPv6 header's first word (IPV6_FLOWINFO_MASK).
func flowInfo() int32 {
	return int32(binary.NativeEndian.Uint32([]byte{0x0f, 0xff, 0xff, 0xff}))
}

// hop takes one off the packet's hop limit, as forwarding does. IPv4's checksum follows (RFC 1624).
func (p *program) hop(f *ip) {
	if f.family == unix.AF_INET {
		no := f.name + "-carried"
		p.add(
			asm.LoadMem(asm.R1, rData, p.l2+10, asm.Half), asm.Add.Imm(asm.R1, be(0x0100)), asm.JLT.Imm(asm.R1, 0xffff, no),
			asm.Add.Imm(asm.R1, 1),
		)
		p.at(no, asm.StoreMem(rData, p.l2+10, asm.R1, asm.Half))
	}
	p.add(
		asm.LoadMem(asm.R1, rData, p.l2+f.hops, asm.Byte), asm.Sub.Imm(asm.R1, 1), asm.StoreMem(rData, p.l2+f.hops, asm.R1, asm.Byte),
	)
}

// count counts a packet that is taken.
func (p *program) count(f *ip) { p.countAs(f.name, int64(p.hook)) }

func (p *program) countAs(name string, index int64) {
	no := name + "-uncounted"
	p.add(
		asm.StoreImm(asm.RFP, stackIndex, index, asm.Word),
		asm.LoadMapPtr(asm.R1, p.counts), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, stackIndex), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, no),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
	)
	p.at(no, asm.Mov.Imm(asm.R0, 0))
}

// sent goes out of the interface that routing says, by the neighbour that it says. One that is not
// known yet is asked for, and the packet waits in the kernel's neighbour table.
func (p *program) sent(f *ip) {
	ours, lost := f.name+"-ours", f.name+"-lost"
	p.lookup(f, f.src, 0, kindFrom)
	p.add(asm.JNE.Imm(asm.R0, 0, ours))
	p.lookup(f, f.dst, 2, kindTo)
	p.add(asm.JEq.Imm(asm.R0, 0, pass))
	p.at(ours, asm.Mov.Imm(asm.R0, 0))
	p.fib(f)
	p.add(
		asm.JNE.Imm(asm.R0, 0, pass), // no route, local, too large: the kernel has the answer
		asm.LoadMem(asm.R1, asm.RFP, stackFib+fibIfindex, asm.Word), asm.JEq.Imm(asm.R1, p.tun, pass),
	)
	p.hop(f)
	p.count(f)
	p.add( // room for the header of Ethernet, which bpf_redirect_neigh takes off again and makes anew
		asm.Mov.Reg(asm.R1, rSkb), asm.Mov.Imm(asm.R2, etherLen), asm.Mov.Imm(asm.R3, 0), asm.FnSkbChangeHead.Call(),
		asm.JNE.Imm(asm.R0, 0, lost),
	)
	p.neighbour()
	p.add(asm.Return())
	p.at(lost, asm.Mov.Imm(asm.R0, tcxDrop)) // out of memory, and with an end taken off already
	p.add(asm.Return())
}

// neighbour sends the packet to whom routing has said.
func (p *program) neighbour() {
	// struct bpf_redir_neigh
	p.add(asm.LoadMem(asm.R1, asm.RFP, stackFib+fibFamily, asm.Byte), asm.StoreMem(asm.RFP, stackNeigh, asm.R1, asm.Word))
	for off := int16(0); off < 16; off += 4 {
		p.add(asm.LoadMem(asm.R1, asm.RFP, stackFib+fibDst+off, asm.Word), asm.StoreMem(asm.RFP, stackNeigh+4+off, asm.R1, asm.Word))
	}
	p.add(
		asm.LoadMem(asm.R1, asm.RFP, stackFib+fibIfindex, asm.Word), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, stackNeigh),
		asm.Mov.Imm(asm.R3, neighLen), asm.Mov.Imm(asm.R4, 0), asm.FnRedirectNeigh.Call(),
	)
}

// nothing lets everything pass.
func nothing() asm.Instructions { return asm.Instructions{asm.Mov.Imm(asm.R0, tcxNext), asm.Return()} }
