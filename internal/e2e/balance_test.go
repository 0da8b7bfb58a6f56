package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/appliance/orders"
	"lockstep/internal/lab"
)

// named serves on a port of every server: it says which one it is, and then what it is told.
func (p *pair) named(port int) {
	p.t.Helper()
	for i, h := range p.Servers {
		p.accepts(h, "tcp4", fmt.Sprintf(":%d", port), func(c net.Conn) {
			defer c.Close()
			if _, err := c.Write([]byte{byte(i)}); err == nil {
				_, _ = io.Copy(c, c)
			}
		})
	}
}

// dialNamed opens a connection, and returns which server has it.
func (p *pair) dialNamed(port int) (net.Conn, int) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := p.Client.DialContext(ctx, "tcp4", fmt.Sprintf("%s:%d", lab.VIP4, port))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	var name [1]byte
	if _, err := io.ReadFull(c, name[:]); err != nil {
		p.t.Fatal(err)
	}
	return c, int(name[0])
}

// has waits until an appliance counts so many connections at each server of a service.
func (p *pair) has(node, service string, want [2]int) {
	p.t.Helper()
	p.await(fmt.Sprintf("%s counts %v at the servers of %s", node, want, service), func() bool {
		for _, s := range p.status(node).Services {
			if s.Name == service {
				return s.Servers[0].Connections == want[0] && s.Servers[1].Connections == want[1]
			}
		}
		return false
	})
}

// listed: an operator who asks for these connections finds each of them once, on its path, and every one is kept as long as there is a standby. A
// worker may have one just then.
func (p *pair) listed(node string, conns []net.Conn) {
	p.t.Helper()
	client := control.NewClient(p.socket(node))
	defer client.Close()
	p.await("all are listed on "+node, func() bool {
		l, err := client.FindConnections(p.t.Context(), control.ConnectionQuery{Client: netip.MustParsePrefix(lab.Client4 + "/32"), Sort: control.OrderNewest})
		if err != nil {
			p.t.Fatal(err)
		}
		found := make(map[string]control.Connection)
		for _, c := range l.Connections {
			found[c.Client] = c
		}
		for _, c := range conns {
			want := map[string]string{"least": "passed on", "turn": "ended"}
			x, ok := found[c.LocalAddr().String()]
			if !ok || x.State != "open" || x.Path != want[x.Service] || x.Listen != c.RemoteAddr().String() || x.Protected != (node == "a") || x.WaitsFor == "" || x.Server == "" {
				return false
			}
		}
		return l.Matched == len(conns)
	})
	one := netip.MustParseAddrPort(conns[0].LocalAddr().String())
	p.await("one is explained on "+node, func() bool {
		l, err := client.FindConnections(p.t.Context(), control.ConnectionQuery{Exactly: one})
		return err == nil && len(l.Connections) == 1 && l.Connections[0].Client == one.String() && l.Connections[0].Text != ""
	})
}

// order orders something of a server on an appliance.
func (p *pair) order(node, do, service string, server netip.AddrPort) (control.ServerOrdered, error) {
	c := control.NewClient(p.socket(node))
	defer c.Close()
	return c.Server(context.Background(), control.ServerCommand{Do: do, Service: service, Server: server})
}

// state is what an appliance says was ordered of the i-th server of a service.
func (p *pair) state(node, service string, i int) string {
	for _, s := range p.status(node).Services {
		if s.Name == service {
			return s.Servers[i].State
		}
	}
	return ""
}

func (p *pair) is(node, service string, i int, want string) {
	p.t.Helper()
	if got := p.state(node, service, i); got != want {
		p.t.Errorf("on %s server %d of %s is %q, want %q", node, i, service, got, want)
	}
}

// Connections are shared out among the servers, passed on or ended here, and who takes over knows how many each of them has.
func TestBalance(t *testing.T) {
	const least, turn = 82, 83
	balanced := func(name string, port int, balance config.Balance, path config.Path, shares ...config.Share) config.Service {
		servers := []string{fmt.Sprintf("10.20.0.11:%d", port), fmt.Sprintf("10.20.0.12:%d", port)}
		return service(name, []string{fmt.Sprintf("%s:%d", lab.VIP4, port)}, servers, func(s *config.Service) {
			s.Balance, s.Path, s.Shares = balance, path, shares
		})
	}
	o := options{
		PairOptions: lab.PairOptions{Servers: 2},
		extra: []config.Service{
			balanced("least", least, config.BalanceLeast, config.PathAuto, config.PlainShare, config.Share{Weight: 2}),
			balanced("turn", turn, config.BalanceTurn, config.PathNetstack),
		},
		serve: func(p *pair) { p.named(least); p.named(turn) },
	}
	p := start(t, o)
	var conns []net.Conn
	var heavy []net.Conn // of the server with twice the weight
	for range 6 {
		c, i := p.dialNamed(least)
		if conns = append(conns, c); i == 1 {
			heavy = append(heavy, c)
		}
		c, _ = p.dialNamed(turn)
		conns = append(conns, c)
	}
	p.has("a", "least", [2]int{2, 4})
	p.has("a", "turn", [2]int{3, 3})
	p.listed("a", conns)
	// Drained: nothing new, and what runs goes on; ordered on one appliance, true on both, and after a takeover.
	drained := netip.MustParseAddrPort("10.20.0.12:83")
	if _, err := p.order("b", orders.Drain, "turn", drained); err == nil || !strings.Contains(err.Error(), "order it on the active one, a") {
		t.Errorf("ordered on the standby: %v", err)
	}
	if done, err := p.order("a", orders.Drain, "turn", drained); err != nil || done != (control.ServerOrdered{}) {
		t.Fatalf("drain: %+v, %v", done, err)
	}
	for _, node := range []string{"a", "b"} {
		p.is(node, "turn", 1, control.ServerDrained)
	}
	for range 2 {
		c, i := p.dialNamed(turn)
		if conns = append(conns, c); i != 0 {
			t.Error("a drained server gets a connection")
		}
	}
	p.has("a", "turn", [2]int{5, 3})
	p.Kill(p.a)
	for _, c := range conns {
		var b [1]byte
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b[:]); err != nil || b[0] != 'x' {
			t.Fatalf("after the takeover: %q, %v", b, err)
		}
	}
	p.listed("b", conns)
	p.has("b", "least", [2]int{2, 4})
	p.has("b", "turn", [2]int{5, 3})
	if _, i := p.dialNamed(turn); i != 0 {
		t.Error("a server that was drained before the takeover gets a connection")
	}
	// Who joins learns it; what it had kept of its own is older.
	if done, err := p.order("b", orders.Enable, "turn", drained); err != nil || done.Standby == "" || done.Unkept != "" {
		t.Errorf("enable, without a standby: %+v, %v", done, err)
	}
	if _, err := p.order("b", orders.Weight, "least", netip.MustParseAddrPort("10.20.0.11:82")); err == nil {
		t.Error("a weight of 0")
	}
	p.a = p.appliance(p.A, "a", o)
	p.AwaitInSyncAs("a")
	p.await("a goes by what b says", func() bool { return p.state("a", "turn", 1) == control.ServerReady })
	for _, c := range heavy {
		c.Close()
	}
	p.has("b", "least", [2]int{2, 0})
	for range 4 {
		if _, i := p.dialNamed(least); i != 1 {
			t.Errorf("a connection for server %d, which has more", i)
		}
	}
	p.has("b", "least", [2]int{2, 4})
}
