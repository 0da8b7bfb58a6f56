package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoFloodFilter says that the kernel has a packet filter, without what the rules for a
// flood of SYNs need. InstallGuard does without them.
var ErrNoFloodFilter = errors.New("the kernel's packet filter has no limit (CONFIG_NFT_LIMIT)")

// AskFilter says why InstallGuard would fail here, or do without some rules, before anything
// is put; it changes nothing. Who may not ask (it takes CAP_NET_ADMIN) gets unix.EPERM.
func AskFilter() error { return askFilter() }

func askFilter(opts ...nftables.ConnOption) error {
	g := new(Guard)
	if err := g.open(opts); err != nil {
		return err
	}
	err := g.askRule(rateLimit(1))
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = ErrNoFloodFilter
	case err != nil:
		err = fmt.Errorf("ask the kernel's packet filter for a limit: %w", err)
	}
	return errors.Join(err, g.conn.CloseLasting())
}

// askRule asks whether the kernel would take a rule of this one part. What has no end of a
// batch is tried, and then not done (nfnetlink_rcv_batch of net/netfilter/nfnetlink.c; so
// does `nft --check`).
func (g *Guard) askRule(part expr.Any) error {
	const table, chain = "lockstep-check", "check"
	data, err := expr.Marshal(byte(nftables.TableFamilyINet), part)
	if err != nil {
		return err
	}
	begin := make([]byte, nfgenmsg)
	binary.BigEndian.PutUint16(begin[2:], unix.NFNL_SUBSYS_NFTABLES)
	msgs := []netlink.Message{{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request}, Data: begin}}
	add := func(kind uint16, flags netlink.HeaderFlags, fill func(*netlink.AttributeEncoder)) {
		attrs := netlink.NewAttributeEncoder()
		fill(attrs)
		b, aerr := attrs.Encode()
		err = errors.Join(err, aerr)
		msgs = append(msgs, netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | netlink.Create | flags},
			Data:   append([]byte{byte(nftables.TableFamilyINet), 0, 0, 0}, b...),
		})
	}
	add(unix.NFT_MSG_NEWTABLE, 0, func(a *netlink.AttributeEncoder) { a.String(unix.NFTA_TABLE_NAME, table) })
	add(unix.NFT_MSG_NEWCHAIN, 0, func(a *netlink.AttributeEncoder) {
		a.String(unix.NFTA_CHAIN_TABLE, table)
		a.String(unix.NFTA_CHAIN_NAME, chain)
	})
	add(unix.NFT_MSG_NEWRULE, netlink.Append|netlink.Acknowledge, func(a *netlink.AttributeEncoder) {
		a.String(unix.NFTA_RULE_TABLE, table)
		a.String(unix.NFTA_RULE_CHAIN, chain)
		a.Nested(unix.NFTA_RULE_EXPRESSIONS, func(list *netlink.AttributeEncoder) error {
			list.Bytes(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, data)
			return nil
		})
	})
	if err != nil {
		return err
	}
	g.await()
	if _, err := g.sock.SendMessages(msgs); err != nil {
		return err
	}
	_, err = g.sock.Receive()
	return err
}
