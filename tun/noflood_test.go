package tun

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	nlmsg "github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"
)

// withoutLimit answers as a kernel does that has nf_tables and not nft_limit.
type withoutLimit struct {
	answers []nlmsg.Message // one is read at a time
	tables  int             // whole ones that were put
}

func (k *withoutLimit) dial(req []nlmsg.Message) ([]nlmsg.Message, error) {
	refused, rules, ended := false, 0, false
	for _, m := range req {
		const newRule = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE
		ended = ended || m.Header.Type == unix.NFNL_MSG_BATCH_END
		if m.Header.Type == newRule {
			rules++
		}
		if m.Header.Flags&nlmsg.Dump == nlmsg.Dump || m.Header.Flags&nlmsg.Acknowledge == 0 {
			continue // a list of nothing
		}
		errno := 0
		if bytes.Contains(m.Data, []byte("\x01\x00limit\x00")) {
			errno, refused = int(unix.ENOENT), true
		}
		answer, _ := nltest.Error(errno, []nlmsg.Message{m})
		answer[0].Header.Flags = 0
		k.answers = append(k.answers, answer...)
	}
	if rules > 1 && ended && !refused {
		k.tables++
	}
	if len(k.answers) == 0 {
		return nil, io.EOF
	}
	next := k.answers[:1]
	k.answers = k.answers[1:]
	return next, nil
}

// Where the kernel has no limit there is all but the rules for a flood of SYNs, and that is
// told, also in advance.
func TestNoFloodFilter(t *testing.T) {
	var k withoutLimit
	if err := askFilter(nftables.WithTestDial(k.dial)); !errors.Is(err, ErrNoFloodFilter) || k.tables > 0 {
		t.Errorf("asked in advance: %v, %d tables are put", err, k.tables)
	}
	k = withoutLimit{}
	var said bytes.Buffer
	cfg := guardConfig()
	cfg.Log = slog.New(slog.NewTextHandler(&said, nil))
	g := &Guard{cfg: cfg, log: cfg.Log, pressed: map[netip.AddrPort]time.Time{}}
	if err := g.open([]nftables.ConnOption{nftables.WithTestDial(k.dial)}); err != nil {
		t.Fatal(err)
	}
	if err := g.putFirst(); err != nil || k.tables != 1 {
		t.Fatalf("%d tables are put, %v", k.tables, err)
	}
	if g.present.rules["arriving"] < 8 || g.present.rules["pressure4"] > 0 {
		t.Errorf("the rules are %v", g.present.rules)
	}
	if !bytes.Contains(said.Bytes(), []byte("CONFIG_NFT_LIMIT")) {
		t.Errorf("said %s", &said)
	}
	said.Reset()
	g.pressNow([]netip.AddrPort{netip.MustParseAddrPort("203.0.113.10:80")})
	if said.Len() > 0 || len(g.pressed) > 0 {
		t.Errorf("an address is put into a set that is not there: %s", &said)
	}
}
