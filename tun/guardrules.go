package tun

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// guardRules adds the rules of a Guard to a table.
type guardRules struct {
	conn  *nftables.Conn
	cfg   *GuardConfig
	table *nftables.Table
	err   error // the first of set

	plain bool // no rules for a flood

	contents guardContents
}

// guardContents is how much is in a table, by the names of its chains and sets.
type guardContents struct {
	rules, elements map[string]int
}

// family is what differs between IPv4 and IPv6 in a rule.
type family struct {
	proto    byte
	addr     nftables.SetDatatype
	src, dst uint32 // offsets of the addresses
	addrLen  uint32
	hop      uint32 // offset of the 16-bit word that holds the hop limit
	hopHigh  bool   // it is the word's first byte
	suffix   string
}

var (
	family4 = family{proto: unix.NFPROTO_IPV4, addr: nftables.TypeIPAddr, src: 12, dst: 16, addrLen: 4, hop: 8, hopHigh: true, suffix: "4"}
	family6 = family{proto: unix.NFPROTO_IPV6, addr: nftables.TypeIP6Addr, src: 8, dst: 24, addrLen: 16, hop: 6, suffix: "6"}
)

func familyOf(a netip.Addr) *family {
	if a.Unmap().Is4() {
		return &family4
	}
	return &family6
}

// Registers: a 16-byte one, and where a port stands behind an address of each length.
const register = unix.NFT_REG_1

func (f *family) portRegister() uint32 { return unix.NFT_REG32_00 + f.addrLen/4 }

func (r *guardRules) add() error {
	r.contents = guardContents{rules: map[string]int{}, elements: map[string]int{}}
	for _, reason := range guardReasons {
		r.conn.AddObj(&nftables.CounterObj{Table: r.table, Name: reason})
	}
	// Before connection tracking and whatever else may look at a packet.
	arriving := r.chain("arriving", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	for _, f := range []*family{&family4, &family6} {
		vips, servers := r.vips(f), r.servers(f)
		if r.cfg.Strict {
			r.refuse(arriving, f, vips, servers)
		}
		r.leastHops(arriving, f)
		if !r.plain {
			r.pressure(arriving, f)
		}
		if vips != nil {
			r.rule(arriving, f.is(), f.in(f.dst, vips), f.hops(expr.CmpOpEq, 1), f.setHops(2))
		}
		if servers != nil {
			r.rule(arriving, fromIf(r.cfg.Back), f.is(), f.fromServer(servers), f.hops(expr.CmpOpEq, 1), f.setHops(2))
		}
	}
	// A redirect (RFC 792; RFC 4861, 4.5) tells a client of a shorter way than by us. Of
	// IPv6 no other setting keeps the kernel from it.
	speaking := r.chain("speaking", nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	for _, name := range []string{r.cfg.Front, r.cfg.Back} {
		r.rule(speaking, toIf(name), family4.is(), icmpIs(unix.IPPROTO_ICMP, 5), drop(refusedRedirect))
		r.rule(speaking, toIf(name), family6.is(), icmpIs(unix.IPPROTO_ICMPV6, 137), drop(refusedRedirect))
	}
	if slices.ContainsFunc(r.cfg.HopLimits, func(h HopLimit) bool { return h.Send > 0 }) {
		// After routing, which takes one off.
		leaving := r.chain("leaving", nftables.ChainHookPostrouting, nftables.ChainPriorityMangle)
		for _, h := range r.cfg.HopLimits {
			if h.Send == 0 {
				continue
			}
			f := familyOf(h.Addr.Addr())
			addr, port := f.src, uint32(0)
			if !slices.Contains(r.cfg.Virtual, h.Addr.Addr()) { // to a server
				addr, port = f.dst, 2
			}
			r.rule(leaving, fromIf(r.cfg.TUN), f.is(), f.addrIs(addr, h.Addr.Addr()), portIs(port, h.Addr.Port()), f.setHops(h.Send))
		}
	}
	return r.err
}

func (r *guardRules) chain(name string, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	return r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: prio})
}

func (r *guardRules) rule(c *nftables.Chain, parts ...[]expr.Any) {
	r.contents.rules[c.Name]++
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: c, Exprs: slices.Concat(parts...)})
}

// refuse drops what can only be forged.
func (r *guardRules) refuse(c *nftables.Chain, f *family, vips, servers *nftables.Set) {
	if vips != nil {
		r.rule(c, fromIf(r.cfg.Back), f.is(), f.in(f.dst, vips), noWayBack(), drop(refusedFromBack))
	}
	if servers != nil {
		r.rule(c, fromIf(r.cfg.Front), f.is(), f.fromServer(servers), drop(refusedFromFront))
	}
	if m := r.cfg.Member; m.IsValid() && familyOf(m.Addr()) == f {
		for _, name := range []string{r.cfg.Front, r.cfg.Back} {
			r.rule(c, fromIf(name), f.is(), f.addrIs(f.dst, m.Addr()), portIs(2, m.Port()), notLocalHere(), drop(refusedSync))
			if port := r.cfg.TunnelPort; port > 0 {
				r.rule(c, fromIf(name), f.is(), f.addrIs(f.dst, m.Addr()), udpTo(port), notLocalHere(), drop(refusedSync))
			}
		}
	}
}

func (r *guardRules) leastHops(c *nftables.Chain, f *family) {
	for _, h := range r.cfg.HopLimits {
		if h.Least > 1 && familyOf(h.Addr.Addr()) == f {
			r.rule(c, fromIf(r.cfg.Front), f.is(), f.addrIs(f.dst, h.Addr.Addr()), portIs(2, h.Addr.Port()), f.hops(expr.CmpOpLt, h.Least), drop(refusedHops))
		}
	}
}

// vips and servers are the sets of a family, nil where they would be empty.
func (r *guardRules) vips(f *family) *nftables.Set {
	var elems []nftables.SetElement
	for _, a := range r.cfg.Virtual {
		if familyOf(a) == f {
			elems = append(elems, nftables.SetElement{Key: a.Unmap().AsSlice()})
		}
	}
	return r.set(&nftables.Set{Name: "virtual" + f.suffix, KeyType: f.addr}, elems)
}

func (r *guardRules) servers(f *family) *nftables.Set {
	var elems []nftables.SetElement
	for _, s := range r.cfg.Servers {
		if familyOf(s.Addr()) == f {
			elems = append(elems, nftables.SetElement{Key: f.addrPortKey(s)})
		}
	}
	return r.set(&nftables.Set{
		Name: "servers" + f.suffix, Concatenation: true,
		KeyType: nftables.MustConcatSetType(f.addr, nftables.TypeInetService),
	}, elems)
}

func (r *guardRules) set(s *nftables.Set, elems []nftables.SetElement) *nftables.Set {
	if len(elems) == 0 {
		return nil
	}
	s.Table = r.table
	r.contents.elements[s.Name] = len(elems)
	if err := r.conn.AddSet(s, elems); err != nil && r.err == nil {
		r.err = fmt.Errorf("add set %s: %w", s.Name, err)
	}
	return s
}

// The parts of a rule.

func cmp(op expr.CmpOp, data ...byte) expr.Any {
	return &expr.Cmp{Op: op, Register: register, Data: data}
}

func load(base expr.PayloadBase, reg, off, n uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: base, Offset: off, Len: n}
}

func fromIf(name string) []expr.Any { return ifIs(expr.MetaKeyIIFNAME, name) }

func toIf(name string) []expr.Any { return ifIs(expr.MetaKeyOIFNAME, name) }

func ifIs(key expr.MetaKey, name string) []expr.Any {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return []expr.Any{&expr.Meta{Key: key, Register: register}, cmp(expr.CmpOpEq, b...)}
}

func (f *family) is() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, cmp(expr.CmpOpEq, f.proto)}
}

func (f *family) addrIs(off uint32, a netip.Addr) []expr.Any {
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, register, off, f.addrLen), cmp(expr.CmpOpEq, a.Unmap().AsSlice()...)}
}

func (f *family) in(off uint32, s *nftables.Set) []expr.Any {
	return []expr.Any{
		load(expr.PayloadBaseNetworkHeader, register, off, f.addrLen),
		&expr.Lookup{SourceRegister: register, SetName: s.Name, SetID: s.ID},
	}
}

func isTCP() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, cmp(expr.CmpOpEq, unix.IPPROTO_TCP)}
}

func icmpIs(proto, kind byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, cmp(expr.CmpOpEq, proto),
		load(expr.PayloadBaseTransportHeader, register, 0, 1), cmp(expr.CmpOpEq, kind),
	}
}

func udpTo(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, cmp(expr.CmpOpEq, unix.IPPROTO_UDP),
		load(expr.PayloadBaseTransportHeader, register, 2, 2), cmp(expr.CmpOpEq, byte(port>>8), byte(port)),
	}
}

// portIs compares a TCP port: the source's at offset 0, the destination's at 2.
func portIs(off uint32, port uint16) []expr.Any {
	return append(isTCP(), load(expr.PayloadBaseTransportHeader, register, off, 2), cmp(expr.CmpOpEq, byte(port>>8), byte(port)))
}

func (f *family) fromServer(s *nftables.Set) []expr.Any {
	return slices.Concat(isTCP(), f.addrPort(f.src, 0), lookup(s))
}

// noWayBack: the route to the source does not lead through the interface that the
// packet came from (RFC 3704, 2.2).
func noWayBack() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register, ResultOIF: true, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true},
		cmp(expr.CmpOpEq, 0),
	}
}

// notLocalHere: the destination is no address of the interface that the packet came
// from (the strong end system model of RFC 1122, 3.3.4.2).
func notLocalHere() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: register, ResultADDRTYPE: true, FlagDADDR: true, FlagIIF: true},
		cmp(expr.CmpOpNeq, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)...),
	}
}

// hops compares the hop limit.
func (f *family) hops(op expr.CmpOp, n uint8) []expr.Any {
	off := f.hop
	if !f.hopHigh {
		off++
	}
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, register, off, 1), cmp(op, n)}
}

// setHops writes the hop limit, in a whole word because of the header's checksum.
func (f *family) setHops(n uint8) []expr.Any {
	keep, bits := []byte{0xff, 0}, []byte{0, n}
	w := &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: f.hop, Len: 2}
	if f.hopHigh {
		keep, bits = []byte{0, 0xff}, []byte{n, 0}
		w.CsumType, w.CsumOffset = expr.CsumTypeInet, 10
	}
	return []expr.Any{
		load(expr.PayloadBaseNetworkHeader, register, f.hop, 2),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 2, Mask: keep, Xor: bits},
		w,
	}
}

// drop counts and drops.
func drop(reason string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: reason}, &expr.Verdict{Kind: expr.VerdictDrop}}
}
