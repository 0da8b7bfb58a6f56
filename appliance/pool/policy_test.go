package pool_test

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"lockstep/appliance/pool"
)

// take has n connections of different clients come, and counts which servers get them; they stay.
func take(t *testing.T, p *pool.Pool, n int) []int {
	t.Helper()
	got := make([]int, p.Ready())
	for k := range n {
		i, ok := p.Next(pool.Want{Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(k >> 8), byte(k)}), 40000), After: -1, Any: true, Take: true})
		if !ok {
			t.Fatal("no server")
		}
		got[i]++
	}
	return got
}

func takes(t *testing.T, p *pool.Pool, n int, want ...int) {
	t.Helper()
	if got := take(t, p, n); !slices.Equal(got, want) {
		t.Errorf("of %d connections the servers get %v, want %v", n, got, want)
	}
}

func shared(policy pool.Policy, shares ...pool.Share) *pool.Pool {
	servers := []netip.AddrPort{one, two, three}
	return pool.New(pool.Config{Servers: servers[:len(shares)], Shares: shares, Policy: policy, Retry: retry})
}

func TestRoundRobin(t *testing.T) {
	p := shared(pool.RoundRobin{}, pool.Share{}, pool.Share{}, pool.Share{})
	for range 5 {
		takes(t, p, 3, 1, 1, 1)
	}
	// To ask what would be chosen changes nothing.
	for range 5 {
		if i, _ := p.Next(pool.Want{Client: client, After: -1}); i != 0 {
			t.Fatalf("the next would be %d", i)
		}
	}
	// One that was away gets its share from then on, and does not make up for it.
	p.Checked(0, false, "away")
	takes(t, p, 100, 0, 50, 50)
	p.Checked(0, true, "")
	takes(t, p, 30, 10, 10, 10)

	weighted := shared(pool.RoundRobin{}, pool.Share{Weight: 5}, pool.Share{Weight: 1}, pool.Share{Weight: 2})
	for range 4 {
		takes(t, weighted, 8, 5, 1, 2)
	}
	// Spread over the round, not all in a row at its beginning: as nginx has it.
	for _, c := range []struct {
		weights [3]int
		order   []int
	}{{[3]int{5, 1, 1}, []int{0, 0, 1, 0, 2, 0, 0}}, {[3]int{5, 1, 2}, []int{0, 2, 0, 0, 1, 0, 2, 0}}} {
		p := shared(pool.RoundRobin{}, pool.Share{Weight: c.weights[0]}, pool.Share{Weight: c.weights[1]}, pool.Share{Weight: c.weights[2]})
		var got []int
		for range 2 * len(c.order) {
			got = append(got, slices.Index(take(t, p, 1), 1))
		}
		if want := slices.Concat(c.order, c.order); !slices.Equal(got, want) {
			t.Errorf("weights %v: order %v, want %v", c.weights, got, want)
		}
	}
}

func TestLeastConnections(t *testing.T) {
	p := shared(pool.LeastConnections{}, pool.Share{}, pool.Share{}, pool.Share{Weight: 2})
	takes(t, p, 40, 10, 10, 20)
	for range 6 {
		p.Left(1)
	}
	takes(t, p, 6, 0, 6, 0)
	p.Take(0) // from a takeover
	p.Take(0)
	takes(t, p, 6, 0, 2, 4)
	// Of equals each has its turn, also when they are idle.
	idle := shared(pool.LeastConnections{}, pool.Share{}, pool.Share{}, pool.Share{})
	var order []int
	for range 6 {
		got := take(t, idle, 1)
		i := slices.Index(got, 1)
		order = append(order, i)
		idle.Left(i)
	}
	if !slices.Equal(order, []int{0, 1, 2, 0, 1, 2}) {
		t.Errorf("idle servers are chosen in the order %v", order)
	}
}

// A client has its server, by its address alone; who goes moves nobody else's, and weights count.
func TestSourceHash(t *testing.T) {
	const clients = 6000
	where := func(p *pool.Pool) (all [clients]int, n [3]int) {
		for k := range all {
			c := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(k >> 8), byte(k)}), uint16(1024+k))
			i, ok := p.Next(pool.Want{Client: c, After: -1, Take: true})
			again, _ := p.Next(pool.Want{Client: netip.AddrPortFrom(c.Addr(), 9), After: -1})
			if !ok || again != i {
				t.Fatalf("%v has server %d, and from another port %d", c, i, again)
			}
			all[k] = i
			n[i]++
		}
		return all, n
	}
	p := shared(pool.SourceHash{}, pool.Share{}, pool.Share{}, pool.Share{Weight: 2})
	before, n := where(p)
	for i, share := range []int{1, 1, 2} {
		if want := clients * share / 4; n[i] < want*9/10 || n[i] > want*11/10 {
			t.Errorf("server %d has %d of %d clients, about %d are its share", i, n[i], clients, want)
		}
	}
	p.Checked(1, false, "away")
	for k, i := range first(where(p)) {
		if before[k] != 1 && i != before[k] || i == 1 {
			t.Fatalf("client %d moves from %d to %d when server 1 goes", k, before[k], i)
		}
	}
	p.Checked(1, true, "")
	if after := first(where(p)); after != before {
		t.Error("its clients do not come back with it")
	}
	// Another list of the same servers in another order: it goes by their addresses.
	turned := pool.New(pool.Config{Servers: []netip.AddrPort{three, two, one}, Policy: pool.SourceHash{}, Shares: []pool.Share{{Weight: 2}, {}, {}}})
	for k, i := range first(where(turned)) {
		if 2-i != before[k] {
			t.Fatalf("client %d has another server when the list has another order", k)
		}
	}
}

func first[A, B any](a A, _ B) A { return a }

// Backups serve when nobody else is up, before those that are down.
func TestBackup(t *testing.T) {
	p := shared(pool.LeastConnections{}, pool.Share{Backup: true}, pool.Share{}, pool.Share{})
	takes(t, p, 8, 0, 4, 4)
	want(t, p, client, 1, 2, 0)
	p.Checked(1, false, "away")
	p.Checked(2, false, "away")
	takes(t, p, 3, 3, 0, 0)
	want(t, p, client, 0, 1, 2)
	p.Checked(0, false, "away, too")
	if _, ok := p.Next(pool.Want{Client: client, After: -1}); ok {
		t.Error("a server, though all are down")
	}
}

// Who has come back begins with little, and has its whole share after a while.
func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pool.New(pool.Config{Servers: []netip.AddrPort{one, two}, Policy: pool.RoundRobin{}, SlowStart: 100 * time.Second, Retry: retry})
		p.Checked(0, true, "")
		takes(t, p, 40, 20, 20) // nobody was away
		p.Checked(0, false, "away")
		time.Sleep(time.Hour)
		p.Checked(0, true, "")
		takes(t, p, 42, 2, 40)
		time.Sleep(50 * time.Second)
		if got := take(t, p, 30); got[0] < 9 || got[0] > 11 {
			t.Errorf("half way %v", got)
		}
		time.Sleep(50 * time.Second)
		take(t, p, 4)
		takes(t, p, 40, 20, 20)
	})
}
