package steer

import (
	"encoding/binary"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// What of a flow lies in the kernel's memory: a lock, then for each direction what its packets look like and
// become, and how far its sender is. Offsets; the numbers of TCP are in the machine's byte order.
const (
	flowLock = 0
	flowDirs = 8

	dirSrc      = 0 // addresses and ports of a packet that comes
	dirDst      = 16
	dirPorts    = 32
	dirToPorts  = 36
	dirToSrc    = 40 // and of one that leaves
	dirToDst    = 56
	dirAddrDiff = 72 // what the addresses add to a checksum, as bytes of a packet are loaded
	dirPortDiff = 76
	dirHeadDiff = 80 // what they, and two hops, add to IPv4's
	dirScale    = 84 // of its sender's window, bits
	dirStamped  = 88 // timestamps are used
	dirNext     = 92
	dirAck      = 96
	dirEdge     = 100
	dirTSVal    = 104
	dirTSRecent = 108
	dirWindow   = 112
	dirBytes    = 120
	dirDeliv    = 128
	dirSegs     = 136
	dirHeard    = 144
	dirWire     = 152
	dirLen      = 160

	flowMoved = flowDirs + 2*dirLen
	flowLen   = flowMoved + 8
)

// More of a program's stack, beneath what steering needs.
const (
	stackFlow  = stackNeigh - 40 // key of the flows: addresses, ports, family
	stackOn    = stackFlow - 8   // pointer to the generation that the kernel may pass on
	stackGen   = stackOn - 8
	stackNow   = stackGen - 8
	stackUntil = stackNow - 8
	stackSeq   = stackUntil - 8
	stackEnd   = stackSeq - 8
	stackAck   = stackEnd - 8
	stackWin   = stackAck - 8
	stackStamp = stackWin - 8
	stackDiffs = stackStamp - 8 // of the addresses, of the ports

	flowKeyLen = 40
)

// maxWindow is the largest window there is (RFC 7323, 2.3), bytes.
const maxWindow = 0xffff << 14

const (
	flagFIN = 0x01
	flagRST = 0x04
	flagURG = 0x20
)

// side is who sends what a hook sees, as an index of a flow's directions.
func (h Hook) side() int16 {
	if h == Back {
		return 1
	}
	return 0
}

// flow takes a plain segment of a flow that is known, out of the other NIC. What is not plain in any
// respect goes on to the label slow with nothing changed, and so to the process. rSkb and rData are as after headers.
func (p *program) flow(f *ip) {
	slow := f.name + "-slow"
	l4 := p.l2 + f.len
	p.add(
		asm.LoadMem(asm.R0, rData, l4+13, asm.Byte), asm.And.Imm(asm.R0, flagFIN|flagSYN|flagRST|flagACK|flagURG), asm.JNE.Imm(asm.R0, flagACK, slow),
		asm.LoadMem(asm.R0, rData, p.l2+f.hops, asm.Byte), asm.JLE.Imm(asm.R0, 2, slow), // one for the way in, one for the way out, and one is left
		asm.LoadMem(asm.R0, rSkb, skbMark, asm.Word), asm.JNE.Imm(asm.R0, 0, slow), // the device would take it off
	)
	p.findFlow(f, slow)
	p.wholeSum(f, slow)
	p.flowWay(f, slow)
	p.flowNumbers(f, slow)
	p.trackFlow(f, slow)
	p.sendFlow(f)
	p.at(slow, asm.Mov.Imm(asm.R0, 0))
}

// findFlow makes rExtra what is known of the segment's flow, if there is time left to pass anything on.
func (p *program) findFlow(f *ip, slow string) {
	for i, at := range []int16{f.src, f.dst} {
		for off := int16(0); off < 16; off += 4 {
			to := stackFlow + 16*int16(i) + off
			if off < f.addr {
				p.add(asm.LoadMem(asm.R1, rData, p.l2+at+off, asm.Word), asm.StoreMem(asm.RFP, to, asm.R1, asm.Word))
			} else {
				p.add(asm.StoreImm(asm.RFP, to, 0, asm.Word))
			}
		}
	}
	p.add(
		asm.LoadMem(asm.R1, rData, p.l2+f.len, asm.Word), asm.StoreMem(asm.RFP, stackFlow+32, asm.R1, asm.Word),
		asm.StoreImm(asm.RFP, stackFlow+36, int64(f.family), asm.Word),
	)
	p.find(p.flows.keys, stackFlow, slow)
	p.add(
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word), asm.StoreMem(asm.RFP, stackIndex, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R0, 4, asm.Word), asm.StoreMem(asm.RFP, stackGen, asm.R1, asm.DWord),
	)
	p.find(p.flows.on, stackIndex, slow)
	p.add(asm.StoreMem(asm.RFP, stackOn, asm.R0, asm.DWord))
	p.find(p.flows.state, stackIndex, slow)
	p.add(asm.Mov.Reg(rExtra, asm.R0), asm.StoreImm(asm.RFP, stackIndex, 0, asm.Word))
	p.find(p.flows.until, stackIndex, slow)
	p.add(
		asm.LoadMem(asm.R1, asm.R0, leaseOwner, asm.Word), asm.JEq.Imm(asm.R1, 0, slow), asm.And.Imm(asm.R1, ownerDied), asm.JNE.Imm(asm.R1, 0, slow),
		asm.LoadMem(asm.R1, asm.R0, leaseUntil, asm.DWord), asm.StoreMem(asm.RFP, stackUntil, asm.R1, asm.DWord),
		asm.FnKtimeGetNs.Call(), asm.StoreMem(asm.RFP, stackNow, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, stackUntil, asm.DWord), asm.JGE.Reg(asm.R0, asm.R1, slow),
	)
}

// find makes R0 the entry of a map by the key on the stack.
func (p *program) find(m int, key int16, none string) {
	p.add(
		asm.LoadMapPtr(asm.R1, m), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, int32(key)), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, none),
	)
}

// wholeSum lets on only what has a good checksum as far as that is known: a superpacket, since nobody joins
// others; what the NIC or the kernel's joining has verified; what has the sum of the pseudo header instead, because it is not
// to be computed before it leaves the machine. The rest the process verifies.
func (p *program) wholeSum(f *ip, slow string) {
	good, sum := f.name+"-good", f.name+"-sum"
	p.add(
		asm.LoadMem(asm.R1, rSkb, skbGSOSize, asm.Word), asm.JNE.Imm(asm.R1, 0, good),
		asm.Mov.Reg(asm.R1, rSkb), asm.Mov.Imm(asm.R2, 0 /* BPF_CSUM_LEVEL_QUERY */), asm.FnCsumLevel.Call(),
		asm.JSGE.Imm(asm.R0, 0, good),
	)
	p.at(sum, asm.LoadMem(asm.R0, rSkb, skbLen, asm.Word))
	p.add(asm.Sub.Imm(asm.R0, int32(p.l2+f.len)), asm.HostTo(asm.BE, asm.R0, asm.Half), asm.Add.Imm(asm.R0, be(unix.IPPROTO_TCP)))
	for off := int16(0); off < 2*f.addr; off += 4 {
		p.add(asm.LoadMem(asm.R1, rData, p.l2+f.src+off, asm.Word), asm.Add.Reg(asm.R0, asm.R1))
	}
	p.fold()
	p.add(asm.LoadMem(asm.R1, rData, p.l2+f.len+16, asm.Half), asm.JNE.Reg(asm.R0, asm.R1, slow))
	p.at(good, asm.Mov.Imm(asm.R0, 0))
}

// fold makes of a sum of some 32-bit words in R0 one of 16 bits.
func (p *program) fold() {
	for range 3 { // 36 bits, 21, 17, 16
		p.add(asm.Mov.Reg(asm.R1, asm.R0), asm.RSh.Imm(asm.R1, 16), asm.And.Imm(asm.R0, 0xffff), asm.Add.Reg(asm.R0, asm.R1))
	}
}

// flowWay asks routing what it would be asked about the segment if the process had written it.
func (p *program) flowWay(f *ip, slow string) {
	whole := f.name + "-flow-whole"
	dir := int16(flowDirs) + p.hook.side()*dirLen
	p.fibFor(f, f.src, f.dst)
	for off := int16(0); off < f.addr; off += 4 {
		p.add(
			asm.LoadMem(asm.R1, rExtra, dir+dirToSrc+off, asm.Word), asm.StoreMem(asm.RFP, stackFib+fibSrc+off, asm.R1, asm.Word),
			asm.LoadMem(asm.R1, rExtra, dir+dirToDst+off, asm.Word), asm.StoreMem(asm.RFP, stackFib+fibDst+off, asm.R1, asm.Word),
		)
	}
	p.add(
		asm.LoadMem(asm.R1, rExtra, dir+dirToPorts, asm.Half), asm.StoreMem(asm.RFP, stackFib+fibPorts, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, rExtra, dir+dirToPorts+2, asm.Half), asm.StoreMem(asm.RFP, stackFib+fibPorts+2, asm.R1, asm.Half),
		asm.StoreImm(asm.RFP, stackFib+fibIfindex, int64(p.tun), asm.Word),
		asm.LoadMem(asm.R1, rSkb, skbLen, asm.Word), asm.Sub.Imm(asm.R1, int32(p.l2)),
		asm.LoadMem(asm.R2, rSkb, skbGSOSize, asm.Word), asm.JEq.Imm(asm.R2, 0, whole),
		asm.LoadMem(asm.R1, rData, p.l2+f.len+12, asm.Byte), asm.RSh.Imm(asm.R1, 4), asm.LSh.Imm(asm.R1, 2),
		asm.Add.Imm(asm.R1, int32(f.len)), asm.Add.Reg(asm.R1, asm.R2),
	)
	p.at(whole, asm.StoreMem(asm.RFP, stackFib+fibTotLen, asm.R1, asm.Half))
	p.fibCall()
	p.add(
		asm.JNE.Imm(asm.R0, 0, slow),
		asm.LoadMem(asm.R1, asm.RFP, stackFib+fibIfindex, asm.Word), asm.JEq.Imm(asm.R1, p.tun, slow),
	)
}

// flowNumbers puts what the segment says on the stack.
func (p *program) flowNumbers(f *ip, slow string) {
	l4 := p.l2 + f.len
	dir := int16(flowDirs) + p.hook.side()*dirLen
	bare := f.name + "-bare"
	word := func(at int16, size asm.Size) {
		p.add(asm.LoadMem(asm.R1, rData, at, size), asm.HostTo(asm.BE, asm.R1, size))
	}
	word(l4+4, asm.Word)
	p.add(
		asm.StoreMem(asm.RFP, stackSeq, asm.R1, asm.DWord),
		asm.LoadMem(asm.R2, rSkb, skbLen, asm.Word), asm.Sub.Imm(asm.R2, int32(l4)),
		asm.LoadMem(asm.R3, rData, l4+12, asm.Byte), asm.RSh.Imm(asm.R3, 4), asm.LSh.Imm(asm.R3, 2),
		asm.JLT.Imm(asm.R3, tcpLen, slow), asm.JLT.Reg(asm.R2, asm.R3, slow),
		asm.Sub.Reg(asm.R2, asm.R3), asm.Add.Reg32(asm.R2, asm.R1), asm.StoreMem(asm.RFP, stackEnd, asm.R2, asm.DWord),
	)
	word(l4+8, asm.Word)
	p.add(asm.StoreMem(asm.RFP, stackAck, asm.R1, asm.DWord))
	word(l4+14, asm.Half)
	p.add(
		asm.StoreMem(asm.RFP, stackWin, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R2, 0), asm.StoreMem(asm.RFP, stackStamp, asm.R2, asm.DWord),
		asm.LoadMem(asm.R1, rExtra, dir+dirStamped, asm.Word), asm.JEq.Imm(asm.R1, 0, bare),
		// NOP NOP TS is what everybody sends (RFC 7323, appendix A). Anything else is looked at elsewhere.
		asm.JLT.Imm(asm.R3, tcpLen+12, slow),
		asm.LoadMem(rEnd, rSkb, skbDataEnd, asm.Word),
		asm.Mov.Reg(asm.R0, rData), asm.Add.Imm(asm.R0, int32(l4)+tcpLen+12), asm.JGT.Reg(asm.R0, rEnd, slow),
		asm.LoadMem(asm.R1, rData, l4+tcpLen, asm.Word), asm.JNE.Imm32(asm.R1, int32(binary.NativeEndian.Uint32([]byte{1, 1, 8, 10})), slow),
	)
	word(l4+tcpLen+4, asm.Word)
	p.add(asm.StoreMem(asm.RFP, stackStamp, asm.R1, asm.DWord))
	p.at(bare, asm.Mov.Imm(asm.R0, 0))
}

// trackFlow notes the segment as package splice does (Conn.track) one that its receiver would take, and
// gives it its addresses: with the flow locked, so that whoever has taken the flow away has all numbers, and none of the
// addresses is another flow's.
func (p *program) trackFlow(f *ip, slow string) {
	refuse := f.name + "-refuse"
	p.add(
		asm.Mov.Reg(asm.R1, rExtra), asm.FnSpinLock.Call(),
		asm.LoadMem(asm.R1, asm.RFP, stackOn, asm.DWord), asm.LoadMem(asm.R1, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R2, asm.RFP, stackGen, asm.DWord), asm.JNE.Reg(asm.R1, asm.R2, refuse),
	)
	p.sameFlow(f, refuse)
	p.believed(refuse)
	p.advance(f)
	p.stamp(f)
	e := int16(flowDirs) + p.hook.side()*dirLen
	p.add(
		asm.LoadMem(asm.R0, rExtra, e+dirSegs, asm.DWord), asm.Add.Imm(asm.R0, 1), asm.StoreMem(rExtra, e+dirSegs, asm.R0, asm.DWord),
		asm.LoadMem(asm.R0, rExtra, e+dirWire, asm.DWord), asm.LoadMem(asm.R1, rSkb, skbLen, asm.Word), asm.Sub.Imm(asm.R1, int32(p.l2)),
		asm.Add.Reg(asm.R0, asm.R1), asm.StoreMem(rExtra, e+dirWire, asm.R0, asm.DWord),
		asm.LoadMem(asm.R0, asm.RFP, stackNow, asm.DWord), asm.StoreMem(rExtra, e+dirHeard, asm.R0, asm.DWord),
	)
	p.readdress(f)
	done := f.name + "-tracked"
	p.add(asm.Mov.Reg(asm.R1, rExtra), asm.FnSpinUnlock.Call(), asm.Ja.Label(done))
	p.at(refuse, asm.Mov.Reg(asm.R1, rExtra))
	p.add(asm.FnSpinUnlock.Call(), asm.Ja.Label(slow))
	p.at(done, asm.Mov.Imm(asm.R0, 0))
}

// sameFlow compares the segment with what the flow's look like: an entry of the keys may be another's by now.
func (p *program) sameFlow(f *ip, not string) {
	e := int16(flowDirs) + p.hook.side()*dirLen
	for off := int16(0); off < 36; off += 4 {
		p.add(
			asm.LoadMem(asm.R1, asm.RFP, stackFlow+off, asm.Word), asm.LoadMem(asm.R2, rExtra, e+dirSrc+off, asm.Word),
			asm.JNE.Reg(asm.R1, asm.R2, not),
		)
	}
}

// beyond jumps if a comes after b in sequence space (RFC 9293, 3.4), both loaded; R0 is lost.
func (p *program) beyond(a, b asm.Register, label string) {
	p.add(asm.Mov.Reg32(asm.R0, a), asm.Sub.Reg32(asm.R0, b), asm.JSGT.Imm32(asm.R0, 0, label))
}

// believed refuses what the tracker would not believe, or would have to think about. R1 is the sequence number, R2
// that behind the segment, R3 the acknowledgement.
func (p *program) believed(refuse string) {
	e, r := int16(flowDirs)+p.hook.side()*dirLen, int16(flowDirs)+(1-p.hook.side())*dirLen
	p.add(
		asm.LoadMem(asm.R1, asm.RFP, stackSeq, asm.DWord), asm.LoadMem(asm.R2, asm.RFP, stackEnd, asm.DWord), asm.LoadMem(asm.R3, asm.RFP, stackAck, asm.DWord),
		asm.LoadMem(asm.R4, rExtra, r+dirAck, asm.Word),
	)
	p.beyond(asm.R4, asm.R2, refuse) // old
	p.add(asm.LoadMem(asm.R4, rExtra, r+dirEdge, asm.Word))
	p.beyond(asm.R1, asm.R4, refuse) // beyond the window
	p.add(asm.Add.Imm32(asm.R4, 1))  // one octet beyond is a window probe
	p.beyond(asm.R2, asm.R4, refuse) //
	p.add(asm.LoadMem(asm.R4, rExtra, r+dirNext, asm.Word))
	p.beyond(asm.R3, asm.R4, refuse) // acknowledges what nobody has sent
	p.add(                           // acknowledges what is long gone
		asm.LoadMem(asm.R4, rExtra, e+dirAck, asm.Word), asm.Sub.Reg32(asm.R4, asm.R3), asm.JSGT.Imm32(asm.R4, maxWindow, refuse),
	)
}

// grow raises one number of the flow to a register's, and another by the difference.
func (p *program) grow(label string, at int16, to asm.Register, by int16) {
	p.add(
		asm.LoadMem(asm.R4, rExtra, at, asm.Word), asm.Mov.Reg32(asm.R0, to), asm.Sub.Reg32(asm.R0, asm.R4), asm.JSLE.Imm32(asm.R0, 0, label),
		asm.StoreMem(rExtra, at, to, asm.Word),
		asm.LoadMem(asm.R4, rExtra, by, asm.DWord), asm.Add.Reg(asm.R4, asm.R0), asm.StoreMem(rExtra, by, asm.R4, asm.DWord),
		asm.LoadMem(asm.R4, asm.RFP, stackNow, asm.DWord), asm.StoreMem(rExtra, flowMoved, asm.R4, asm.DWord),
	)
	p.at(label, asm.Mov.Imm(asm.R0, 0))
}

// advance notes new octets, a new acknowledgement, the window. Registers as of believed.
func (p *program) advance(f *ip) {
	e, r := int16(flowDirs)+p.hook.side()*dirLen, int16(flowDirs)+(1-p.hook.side())*dirLen
	p.grow(f.name+"-sent", e+dirNext, asm.R2, e+dirBytes)
	p.grow(f.name+"-acked", e+dirAck, asm.R3, r+dirDeliv)
	old := f.name + "-old-window"
	p.add(
		asm.LoadMem(asm.R4, rExtra, e+dirAck, asm.Word), asm.JNE.Reg(asm.R4, asm.R3, old),
		asm.LoadMem(asm.R4, asm.RFP, stackWin, asm.DWord), asm.StoreMem(rExtra, e+dirWindow, asm.R4, asm.Word),
		asm.LoadMem(asm.R5, rExtra, e+dirScale, asm.Word), asm.LSh.Reg32(asm.R4, asm.R5), asm.Add.Reg32(asm.R4, asm.R3),
		asm.LoadMem(asm.R5, rExtra, e+dirEdge, asm.Word),
		asm.Mov.Reg32(asm.R0, asm.R4), asm.Sub.Reg32(asm.R0, asm.R5), asm.JSLE.Imm32(asm.R0, 0, old),
		asm.StoreMem(rExtra, e+dirEdge, asm.R4, asm.Word),
	)
	p.at(old, asm.Mov.Imm(asm.R0, 0))
}

// stamp notes the timestamp. R1 is the sequence number.
func (p *program) stamp(f *ip) {
	e, r := int16(flowDirs)+p.hook.side()*dirLen, int16(flowDirs)+(1-p.hook.side())*dirLen
	none, older := f.name+"-unstamped", f.name+"-stamp-older"
	p.add(
		asm.LoadMem(asm.R4, rExtra, e+dirStamped, asm.Word), asm.JEq.Imm(asm.R4, 0, none),
		asm.LoadMem(asm.R2, asm.RFP, stackStamp, asm.DWord), asm.LoadMem(asm.R4, rExtra, e+dirTSVal, asm.Word),
		asm.Mov.Reg32(asm.R0, asm.R2), asm.Sub.Reg32(asm.R0, asm.R4), asm.JSLE.Imm32(asm.R0, 0, older),
		asm.StoreMem(rExtra, e+dirTSVal, asm.R2, asm.Word),
	)
	p.at(older, asm.LoadMem(asm.R4, rExtra, e+dirTSRecent, asm.Word))
	p.beyond(asm.R4, asm.R2, none)
	p.add(asm.LoadMem(asm.R4, rExtra, r+dirAck, asm.Word))
	p.beyond(asm.R1, asm.R4, none) // RFC 7323, 4.3 (2)
	p.add(asm.StoreMem(rExtra, e+dirTSRecent, asm.R2, asm.Word))
	p.at(none, asm.Mov.Imm(asm.R0, 0))
}

// readdress gives the segment its addresses, ports and hops, and IPv4's checksum; the differences for TCP's are on the stack then.
func (p *program) readdress(f *ip) {
	e := int16(flowDirs) + p.hook.side()*dirLen
	if f.family == unix.AF_INET { // RFC 1624, equation 3
		p.add(
			asm.LoadMem(asm.R0, rData, p.l2+10, asm.Half), asm.Xor.Imm(asm.R0, 0xffff),
			asm.LoadMem(asm.R1, rExtra, e+dirHeadDiff, asm.Word), asm.Add.Reg(asm.R0, asm.R1),
		)
		p.fold()
		p.add(asm.Xor.Imm(asm.R0, 0xffff), asm.StoreMem(rData, p.l2+10, asm.R0, asm.Half))
	}
	for off := int16(0); off < f.addr; off += 4 {
		p.add(
			asm.LoadMem(asm.R0, rExtra, e+dirToSrc+off, asm.Word), asm.StoreMem(rData, p.l2+f.src+off, asm.R0, asm.Word),
			asm.LoadMem(asm.R0, rExtra, e+dirToDst+off, asm.Word), asm.StoreMem(rData, p.l2+f.dst+off, asm.R0, asm.Word),
		)
	}
	p.add(
		asm.LoadMem(asm.R0, rExtra, e+dirToPorts, asm.Word), asm.StoreMem(rData, p.l2+f.len, asm.R0, asm.Word),
		asm.LoadMem(asm.R0, rData, p.l2+f.hops, asm.Byte), asm.Sub.Imm(asm.R0, 2), asm.StoreMem(rData, p.l2+f.hops, asm.R0, asm.Byte),
		asm.LoadMem(asm.R0, rExtra, e+dirAddrDiff, asm.DWord), asm.StoreMem(asm.RFP, stackDiffs, asm.R0, asm.DWord),
	)
}

// sendFlow gives the segment its checksum and sends it.
func (p *program) sendFlow(f *ip) {
	const pseudo, field = 0x10 /* BPF_F_PSEUDO_HDR */, 16
	lost := f.name + "-flow-lost"
	p.countAs(f.name+"-flow", int64(forwarded))
	for i, flags := range []int32{pseudo, 0} {
		p.add(
			asm.Mov.Reg(asm.R1, rSkb), asm.Mov.Imm(asm.R2, int32(p.l2+f.len)+field), asm.Mov.Imm(asm.R3, 0),
			asm.LoadMem(asm.R4, asm.RFP, stackDiffs+4*int16(i), asm.Word), asm.Mov.Imm(asm.R5, flags), asm.FnL4CsumReplace.Call(),
			asm.JNE.Imm(asm.R0, 0, lost),
		)
	}
	p.neighbour()
	p.add(asm.Return())
	p.at(lost, asm.Mov.Imm(asm.R0, tcxDrop)) // out of memory, and readdressed already
	p.add(asm.Return())
}
