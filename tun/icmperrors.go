package tun

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ICMP errors about a segment go to its source. Where that is a client's address
// (`source: client`) the kernel would route them on to the client, who knows nothing
// of the connection to the server: they are brought in by the two means of this file.
// Those about segments with a virtual address need neither.

// localErrorRules bring what this kernel itself has to say of a segment that does not
// fit through the route to a server, into the TUN device: for icmp_send the error is
// a packet that leaves from here (iif lo), and what a rule compares with its
// destination port is type and code (both lie in flowi_uli). Errors about other
// connections come in too, and are handed back.
func (r *Routes) localErrorRules() []*netlink.Rule {
	var list []*netlink.Rule
	var v4, v6 bool
	for _, s := range r.cfg.Servers {
		a, proto, kind := s.Addr().Unmap(), unix.IPPROTO_ICMP, uint16(icmpUnreachable)<<8|icmpFragmentationNeeded
		seen := &v4
		if a.Is6() {
			proto, kind, seen = unix.IPPROTO_ICMPV6, uint16(icmp6TooBig)<<8, &v6
		}
		if *seen {
			continue
		}
		*seen = true
		rule := r.newRule(a)
		rule.IifName = "lo"
		rule.IPProto = proto
		rule.Dport = netlink.NewRulePortRange(kind, kind)
		list = append(list, rule)
	}
	return list
}

const (
	etherTypeV4 = 0x0800

	icmpUnreachable         = 3 // RFC 792
	icmpFragmentationNeeded = 4 // its code
	icmp6Unreachable        = 1 // RFC 4443
	icmp6TooBig             = 2
)

// ErrorTap hands out copies of the ICMP errors about TCP that arrive on an interface
// for whoever they are meant. The kernel routes the originals on as it would anyhow.
type ErrorTap struct {
	name   string
	log    *slog.Logger
	cancel context.CancelFunc
	wg     sync.WaitGroup
	socks  []*packetSocket
}

// TapErrors opens the sockets in the caller's network namespace. handle gets IP
// packets, which are its own only until it returns. v6: IPv6 too.
func TapErrors(iface string, v6 bool, handle func([]byte), log *slog.Logger) (*ErrorTap, error) {
	nic, err := ReadNIC(iface)
	if err != nil {
		return nil, fmt.Errorf("listen for ICMP errors: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &ErrorTap{name: iface, log: log, cancel: cancel}
	if err := t.open(ctx, nic, v6); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for ICMP errors on %q: %w", iface, err), t.Close())
	}
	for _, s := range t.socks {
		var mu sync.Mutex // of next; nobody else is here
		t.wg.Go(func() {
			s.receive(ctx, &mu, make([]byte, errorMax), func(frame []byte) {
				if len(frame) > ethHeaderLen {
					handle(frame[ethHeaderLen:])
				}
			})
		})
	}
	return t, nil
}

func (t *ErrorTap) open(ctx context.Context, nic NIC, v6 bool) error {
	programs := map[uint16][]bpf.Instruction{etherTypeV4: errorFilter4}
	if v6 {
		programs[etherTypeV6] = errorFilter6
	}
	for etherType, program := range programs {
		s, err := openPacketSocket(nic, etherType, program)
		if err != nil {
			return err
		}
		t.socks = append(t.socks, s)
	}
	links, err := WatchLinks(ctx, []string{t.name})
	if err != nil {
		return err
	}
	t.wg.Go(func() { t.follow(nic.Index, links) })
	return nil
}

// errorFilter4 and errorFilter6 let unreachable messages (IPv6: and packet too big)
// that quote a TCP segment pass, and keep everything else out of user space.
var (
	errorFilter4 = []bpf.Instruction{
		bpf.LoadAbsolute{Off: ethHeaderLen + 9, Size: 1}, // protocol
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMP, SkipTrue: 8},
		bpf.LoadAbsolute{Off: ethHeaderLen + 6, Size: 2}, // flags and offset of a fragment
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 6},
		bpf.LoadMemShift{Off: ethHeaderLen}, // header length
		bpf.LoadIndirect{Off: ethHeaderLen, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: icmpUnreachable, SkipTrue: 3},
		bpf.LoadIndirect{Off: ethHeaderLen + 8 + 9, Size: 1}, // protocol of the quoted packet
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1},
		bpf.RetConstant{Val: errorMax},
		bpf.RetConstant{Val: 0},
	}
	errorFilter6 = []bpf.Instruction{
		bpf.LoadAbsolute{Off: ethHeaderLen + 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoICMPv6, SkipTrue: 6},
		bpf.LoadAbsolute{Off: ethHeaderLen + ipv6HeaderLen, Size: 1}, // type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: icmp6TooBig, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: icmp6Unreachable, SkipTrue: 3},
		bpf.LoadAbsolute{Off: ethHeaderLen + ipv6HeaderLen + 8 + 6, Size: 1}, // next header of the quoted packet
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1},
		bpf.RetConstant{Val: errorMax},
		bpf.RetConstant{Val: 0},
	}
)

// errorMax is how much of an error is read, bytes: an IPv6 one may fill the least MTU
// of 1280 (RFC 4443, 2.4), an IPv4 one should stay within 576 (RFC 1812, 4.3.2.3).
const errorMax = 2048

// follow keeps to the interface when it is deleted and made again.
func (t *ErrorTap) follow(index int, links <-chan LinkEvent) {
	for ev := range links {
		if !ev.Exists || ev.Index == index {
			continue
		}
		index = ev.Index
		for _, s := range t.socks {
			if err := s.rebind(index); err != nil {
				t.log.Warn("cannot listen for ICMP errors", "interface", t.name, "err", err)
			}
		}
	}
}

// Close ends the tap and its goroutines.
func (t *ErrorTap) Close() error {
	t.cancel()
	var errs []error
	for _, s := range t.socks {
		errs = append(errs, s.conn.Close())
	}
	t.wg.Wait()
	return errors.Join(errs...)
}
