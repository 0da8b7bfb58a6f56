package appliance

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"lockstep/appliance/relay"
	"lockstep/internal/clock"
	"lockstep/replication"
	"lockstep/replication/identity"
	"lockstep/replication/link"
	"lockstep/replication/wire"
)

// half is one end of a session: a link, the journal and its core.
type half struct {
	j    *journal
	link *link.Link
	sess *link.Session
}

// The sync link between a node that speaks an older version at most and one that speaks
// the newest, in either role: they agree on the older, and connections that begin are
// protected and can be continued, logged ones as plain ones before version 3. With
// version 1 those of before the session stay unprotected. (What builds of these versions write is in
// replication's TestRecorded.)
func TestSessionWithOlder(t *testing.T) {
	for older := uint8(wire.MinVersion); older < wire.Version; older++ {
		for _, role := range []replication.Role{replication.RoleActive, replication.RoleStandby} {
			t.Run(fmt.Sprintf("version %d is %v", older, role), func(t *testing.T) { sessionWithOlder(t, older, role) })
		}
	}
}

func sessionWithOlder(t *testing.T, older uint8, old replication.Role) {
	dir := t.TempDir()
	if _, err := identity.Write(dir, "edge", []string{"a", "b"}, false); err != nil {
		t.Fatal(err)
	}
	addrs := map[string]netip.AddrPort{"a": freePort(t), "b": freePort(t)}
	ends := map[replication.Role]*half{}
	for role, name := range map[replication.Role]string{replication.RoleActive: "a", replication.RoleStandby: "b"} {
		version := uint8(wire.Version)
		if role == old {
			version = older
		}
		id, err := identity.Load(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		h := &half{j: newJournal(replication.Limits{}, clock.System{}, func() uint32 { return uint32(time.Since(start) / time.Millisecond) })}
		r := relay.New(nil, h.j)
		h.j.relay = r
		if err := h.j.setRole(role, 1); err != nil {
			t.Fatal(err)
		}
		peer := map[string]string{"a": "b", "b": "a"}[name]
		h.link, err = link.Start(link.Config{
			Node: name, Pair: "edge", Listen: addrs[name], Peer: peer, PeerAddr: addrs[peer], Identity: id,
			Hello: func() wire.Hello {
				return wire.Hello{MinVersion: wire.MinVersion, MaxVersion: version, Role: wire.RoleState(role), Epoch: 1, BootID: [16]byte{byte(role)}}
			},
			Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		h.j.run()
		t.Cleanup(func() { h.link.Close(); h.j.close(); r.Close() })
		ends[role] = h
	}
	a, s := ends[replication.RoleActive], ends[replication.RoleStandby]
	open := func(id replication.ConnID) {
		a.j.with(func(c *replication.Core, now replication.Nanos) {
			leg := replication.LegRecord{MSS: 1460, PeerWS: -1, OurWS: -1}
			if err := c.Open(now, &replication.Record{ID: id, Service: "web", Client: leg, Server: leg, Logged: true}); err != nil {
				t.Errorf("open %d: %v", id, err)
			}
		})
	}
	before := 0
	if older < wire.AdoptVersion {
		open(1)
		before = 1
	}
	served := make(chan error, 2)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, h := range []*half{a, s} {
		var err error
		if h.sess, err = h.link.Accept(ctx); err != nil {
			t.Fatal(err)
		}
		if h.sess.Version != older {
			t.Fatalf("the session is of version %d", h.sess.Version)
		}
	}
	for _, h := range []*half{s, a} {
		if err := h.j.shell.Begin(h.j.now(), h.sess.Version, h.sess); err != nil {
			t.Fatal(err)
		}
		go func() { served <- h.sess.Serve(h.j.step) }()
	}
	open(2)
	for st := a.j.stats(); st.Protected != 1 || !st.CanTakeOver || st.Outstanding > 0 || s.j.stats().Connections != 1; st = a.j.stats() {
		select {
		case err := <-served:
			t.Fatalf("session ended: %v", err)
		case <-ctx.Done():
			t.Fatalf("active %+v\nstandby %+v", st, s.j.stats())
		case <-time.After(time.Millisecond): // polls
		}
	}
	if st := a.j.stats(); st.InSync != (before == 0) || st.Unprotected != before || st.SnapshotTotal != 0 || (st.Logged == 1) != (older >= wire.LogVersion) {
		t.Errorf("active: %+v", st)
	}
	a.sess.Close()
	<-served
	<-served
	s.j.with(func(c *replication.Core, _ replication.Nanos) { c.PeerLost() })
	all, _, _, err := s.j.shell.Takeover(2, s.j.millis(), 0)
	if err != nil || len(all) != 1 || all[0].Record.ID != 2 || (all[0].Log != nil) != (older >= wire.LogVersion) {
		t.Errorf("%d connections, %v", len(all), err)
	}
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}
