package tun

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"lockstep/internal/loglimit"
)

// Under a flood of forged SYNs what the kernel does with each of them until the engine has
// answered it costs more than the answer. So SYNs to an address under pressure are, beyond
// what can be answered beside everything else, dropped where they arrive; but a client
// that is there sends its SYN again (RFC 9293, 3.8.1), which whoever makes up an address
// for each SYN does not: the second one from the same address and port gets in.
const (
	// pressureEach is how many first SYNs get in, of each family.
	pressureEach = 2000 // a second
	// pressureRepeat is how long the second one is waited for: clients send it after one
	// second (RFC 6298, 2.1), some after three.
	pressureRepeat = 3500 * time.Millisecond
	// pressureTried bounds who is waited for, of each family: of about 120 000 a second, since
	// the kernel clears away up to a second late. When there are more, nobody is added, and
	// of those that find no room pressureFull a second get in by luck, which the engine can
	// answer, as first SYNs and as repetitions.
	pressureTried = 1 << 19
	pressureFull  = 20_000
	// pressureLife is how long an address is under pressure after somebody has said so, and
	// pressureAgain when that is heard again: all that is changed in the packet filter is
	// read by everybody who watches it.
	pressureLife  = 10 * time.Second
	pressureAgain = 3 * time.Second
)

// Press says that clients of an address do not finish their handshakes, by the thousands.
// It does not block. It holds for pressureLife.
func (g *Guard) Press(addrs []netip.AddrPort) {
	select {
	case g.press <- addrs:
	default: // it will be said again
	}
}

// pressNow puts addresses under pressure.
func (g *Guard) pressNow(addrs []netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	addrs = slices.DeleteFunc(slices.Clone(addrs), func(a netip.AddrPort) bool { return time.Since(g.pressed[a]) < pressureAgain })
	if g.closed || g.plain || len(addrs) == 0 {
		return
	}
	if len(g.pressed) >= maxPressed {
		clear(g.pressed)
	}
	var err error
	for _, a := range addrs {
		g.pressed[a] = time.Now()
		err = errors.Join(err, g.pressOne(a))
	}
	g.await()
	if err = errors.Join(err, g.conn.Flush()); err != nil {
		g.drain()
		g.log.Warn("cannot put addresses under pressure in the packet filter: a flood of SYNs costs more than it must", "err", err, loglimit.Per("pressure"))
	}
}

// pressOne renews an element. The kernel leaves the time of one that it has as it is, and
// refuses to delete one that it has not.
func (g *Guard) pressOne(a netip.AddrPort) error {
	f := familyOf(a.Addr())
	set := &nftables.Set{Table: g.table(), Name: "pressed" + f.suffix, HasTimeout: true}
	elems := []nftables.SetElement{{Key: f.addrPortKey(a), Timeout: pressureLife}}
	return errors.Join(g.conn.SetAddElements(set, elems), g.conn.SetDeleteElements(set, elems), g.conn.SetAddElements(set, elems))
}

// maxPressed bounds the times of addresses that are no longer under pressure.
const maxPressed = 1024

// pressure adds the rules for SYNs to addresses under pressure.
func (r *guardRules) pressure(arriving *nftables.Chain, f *family) {
	key := nftables.MustConcatSetType(f.addr, nftables.TypeInetService)
	pressed := &nftables.Set{Name: "pressed" + f.suffix, Table: r.table, Concatenation: true, KeyType: key, HasTimeout: true, Size: maxPressed}
	tried := &nftables.Set{Name: "tried" + f.suffix, Table: r.table, Concatenation: true, KeyType: key, HasTimeout: true,
		Timeout: pressureRepeat, Dynamic: true, Size: pressureTried}
	if r.cfg.tried > 0 {
		tried.Size = r.cfg.tried
	}
	for _, s := range []*nftables.Set{pressed, tried} {
		if err := r.conn.AddSet(s, nil); err != nil && r.err == nil {
			r.err = fmt.Errorf("add set %s: %w", s.Name, err)
		}
	}
	c := r.conn.AddChain(&nftables.Chain{Name: "pressure" + f.suffix, Table: r.table})
	r.rule(arriving, f.is(), isSYN(), f.addrPort(f.dst, 2), lookup(pressed), verdict(expr.VerdictJump, c.Name))
	r.rule(c, f.addrPort(f.src, 0), lookup(tried), verdict(expr.VerdictReturn, ""))
	r.rule(c, []expr.Any{rateLimit(pressureEach)}, verdict(expr.VerdictReturn, ""))
	// Where there is no room in the set, or no memory, the rule ends before it drops.
	r.rule(c, f.addrPort(f.src, 0), []expr.Any{&expr.Dynset{SrcRegKey: unix.NFT_REG32_00, SetName: tried.Name, SetID: tried.ID, Operation: uint32(unix.NFT_DYNSET_OP_ADD)}}, drop(refusedFlood))
	r.rule(c, []expr.Any{rateLimit(pressureFull)}, verdict(expr.VerdictReturn, ""))
	r.rule(c, drop(refusedFlood))
}

func rateLimit(each uint64) expr.Any {
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: each, Unit: expr.LimitTimeSecond, Burst: uint32(max(1, each/10))}
}

// isSYN: a first segment, not an answer to one.
func isSYN() []expr.Any {
	const flags = 13 // offset in the TCP header
	return append(isTCP(), load(expr.PayloadBaseTransportHeader, register, flags, 1),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{0x17}, Xor: []byte{0}}, // FIN, SYN, RST, ACK
		cmp(expr.CmpOpEq, 0x02))
}

// addrPort loads an address and a TCP port, of which segment headers have two each.
func (f *family) addrPort(addr, port uint32) []expr.Any {
	return []expr.Any{
		load(expr.PayloadBaseNetworkHeader, unix.NFT_REG32_00, addr, f.addrLen),
		load(expr.PayloadBaseTransportHeader, f.portRegister(), port, 2),
	}
}

// addrPortKey is what addrPort loads, as an element of a set: padded to a register.
func (f *family) addrPortKey(a netip.AddrPort) []byte {
	return append(a.Addr().Unmap().AsSlice(), byte(a.Port()>>8), byte(a.Port()), 0, 0)
}

func lookup(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: s.Name, SetID: s.ID}}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}
