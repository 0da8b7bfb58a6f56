package appliance

import (
	"log/slog"
	"net/netip"
	"reflect"
	"testing"

	"lockstep/appliance/config"
	"lockstep/appliance/orders"
	"lockstep/appliance/pool"
)

// What was ordered holds over a restart, as long as the file says of the server what it said then.
func TestOrdersHoldOverARestart(t *testing.T) {
	state := t.TempDir()
	first, second := netip.MustParseAddrPort("10.20.0.11:80"), netip.MustParseAddrPort("10.20.0.12:80")
	var running closers // of the process before
	start := func(weight int) *Node {
		running.run(slog.New(slog.DiscardHandler))
		running = closers{}
		s := config.DefaultService("web")
		s.Servers, s.Balance, s.Shares = []netip.AddrPort{first, second}, config.BalanceTurn, []config.Share{config.PlainShare, {Weight: weight}}
		n := &Node{cfg: &config.Config{Node: "a", Pair: config.Pair{Name: "edge", State: state}, Services: []config.Service{s}}, log: slog.New(slog.DiscardHandler)}
		n.loadOrders(&running)
		return n
	}
	t.Cleanup(func() { running.run(slog.New(slog.DiscardHandler)) })
	shares := func(n *Node) []pool.Share { return poolConfig(&n.cfg.Services[0], n.orders.list).Shares }
	n := start(2)
	if got := shares(n); !reflect.DeepEqual(got, []pool.Share{{Weight: 1}, {Weight: 2}}) {
		t.Fatalf("before anything was ordered: %+v", got)
	}
	all := n.orders.list
	for _, c := range []orders.Command{{Do: orders.Drain, Server: first}, {Do: orders.Weight, Server: second, Weight: 5}} {
		var err error
		if all, err = orders.Add(&n.cfg.Services[0], all, c); err != nil {
			t.Fatal(err)
		}
	}
	text, err := orders.Encode(all)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.keepOrders(text); err != nil {
		t.Fatal(err)
	}
	if got := shares(start(2)); !reflect.DeepEqual(got, []pool.Share{{Weight: 1, State: pool.Drained}, {Weight: 5}}) {
		t.Errorf("after a restart: %+v", got)
	}
	if got := shares(start(3)); !reflect.DeepEqual(got, []pool.Share{{Weight: 1, State: pool.Drained}, {Weight: 3}}) {
		t.Errorf("after a restart with a newer file: %+v", got)
	}
}
