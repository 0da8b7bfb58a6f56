package orders_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lockstep/appliance/config"
	"lockstep/appliance/orders"
	"lockstep/appliance/pool"
)

var (
	one = netip.MustParseAddrPort("10.0.0.1:80")
	two = netip.MustParseAddrPort("10.0.0.2:80")
)

func service() *config.Service {
	c := config.DefaultService("web")
	c.Servers, c.Balance = []netip.AddrPort{one, two}, config.BalanceTurn
	c.Shares = []config.Share{{Weight: 1}, {Weight: 3}}
	return &c
}

func shares(t *testing.T, c *config.Service, all []orders.Order, want ...pool.Share) {
	t.Helper()
	if diff := cmp.Diff(want, orders.Shares(c, all)); diff != "" {
		t.Error(diff)
	}
}

func add(t *testing.T, c *config.Service, all []orders.Order, cmd orders.Command) []orders.Order {
	t.Helper()
	next, err := orders.Add(c, all, cmd)
	if err != nil {
		t.Fatal(err)
	}
	b, err := orders.Encode(next)
	if err != nil {
		t.Fatal(err)
	}
	again, err := orders.Decode(b)
	if diff := cmp.Diff(next, again, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); err != nil || len(next) > 0 && diff != "" {
		t.Fatalf("read again: %v %s", err, diff)
	}
	return next
}

func TestAdd(t *testing.T) {
	c := service()
	var all []orders.Order
	all = add(t, c, all, orders.Command{Do: orders.Drain, Server: one})
	shares(t, c, all, pool.Share{Weight: 1, State: pool.Drained}, pool.Share{Weight: 3})
	all = add(t, c, all, orders.Command{Do: orders.Weight, Server: one, Weight: 7})
	shares(t, c, all, pool.Share{Weight: 7, State: pool.Drained}, pool.Share{Weight: 3})
	if _, err := orders.Add(c, all, orders.Command{Do: orders.Disable, Server: two}); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("the last that takes connections: %v", err)
	}
	all = add(t, c, all, orders.Command{Do: orders.Disable, Server: two, Force: true})
	shares(t, c, all, pool.Share{Weight: 7, State: pool.Drained}, pool.Share{Weight: 3, State: pool.Disabled})
	all = add(t, c, all, orders.Command{Do: orders.Enable, Server: two})
	all = add(t, c, all, orders.Command{Do: orders.Enable, Server: one})
	all = add(t, c, all, orders.Command{Do: orders.Weight, Server: one, Weight: 1})
	if len(all) != 0 {
		t.Errorf("as the file has it, and still ordered: %v", all)
	}
	first := service()
	first.Balance = config.BalanceFirst
	for _, cmd := range []orders.Command{
		{Do: orders.Weight, Server: one}, {Do: orders.Weight, Server: one, Weight: 257}, {Do: "explode", Server: one},
		{Do: orders.Drain, Server: netip.MustParseAddrPort("10.0.0.9:80")},
	} {
		if _, err := orders.Add(c, nil, cmd); err == nil {
			t.Errorf("%+v is taken", cmd)
		}
	}
	if _, err := orders.Add(first, nil, orders.Command{Do: orders.Weight, Server: one, Weight: 2}); err == nil {
		t.Error("a weight with balance: first")
	}
}

// An order holds as long as the file says of its server what it said then.
func TestTheFileWins(t *testing.T) {
	c := service()
	all := add(t, c, nil, orders.Command{Do: orders.Drain, Server: one})
	all = add(t, c, all, orders.Command{Do: orders.Drain, Server: two, Force: true})
	c.Shares[1].Weight = 4
	shares(t, c, all, pool.Share{Weight: 1, State: pool.Drained}, pool.Share{Weight: 4})
	holding, over := orders.Holding([]config.Service{*c}, all)
	if len(holding) != 1 || len(over) != 1 || holding[0].Server != one || over[0].Server != two {
		t.Errorf("holding %v, over %v", holding, over)
	}
	// What is ordered now goes by the file as it is now.
	all = add(t, c, all, orders.Command{Do: orders.Disable, Server: two, Force: true})
	shares(t, c, all, pool.Share{Weight: 1, State: pool.Drained}, pool.Share{Weight: 4, State: pool.Disabled})
	c.Servers, c.Shares = []netip.AddrPort{two}, c.Shares[1:]
	shares(t, c, all, pool.Share{Weight: 4, State: pool.Disabled})
}

func TestDecodeErrors(t *testing.T) {
	many := make([]orders.Order, orders.Limit+1)
	for i := range many {
		many[i].Server = one
	}
	b, err := orders.Encode(many)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"[", string(b), `{"orders":[{"service":"web","server":"10.0.0.1:80","state":"gone"}]}`,
		`{"orders":[{"service":"web","server":"10.0.0.1:80","weight":999}]}`, `{"orders":[{"service":"web"}]}`} {
		if _, err := orders.Decode([]byte(text)); err == nil {
			t.Errorf("%.80s is taken", text)
		}
	}
	if all, err := orders.Decode(nil); err != nil || len(all) != 0 {
		t.Errorf("nothing: %v, %v", all, err)
	}
}
