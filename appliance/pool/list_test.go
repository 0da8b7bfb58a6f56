package pool_test

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"lockstep/appliance/pool"
)

func change(t *testing.T, p *pool.Pool, servers ...netip.AddrPort) {
	t.Helper()
	if err := p.Change(pool.Config{Servers: servers, Policy: pool.RoundRobin{}, Retry: retry, Most: 3}); err != nil {
		t.Fatal(err)
	}
}

// A list that changes: who stays keeps its number and what is known of it, who has left gets nothing new, and has its
// number again when it comes back.
func TestChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pool.New(pool.Config{Servers: []netip.AddrPort{one, two}, Policy: pool.RoundRobin{}, Retry: retry, Most: 3})
		takes(t, p, 4, 2, 2)
		p.Checked(1, false, "away")
		change(t, p, three, two)
		want(t, p, client, 2, 1)
		wantUp(t, p, "up", "away", "up") // one, at last, serves connections still
		if all := p.Status(); all[0].Addr != three || all[1].Conns != 2 || !all[2].Gone || all[2].Addr != one || all[2].Conns != 2 {
			t.Errorf("status %+v", all)
		}
		if i, ok := p.Find(one); !ok || i != 0 || p.Ready() != 2 || !slices.Equal(p.Servers(), []netip.AddrPort{three, two}) {
			t.Error("numbers")
		}
		if err := p.Change(pool.Config{Servers: []netip.AddrPort{three, six}, Most: 3}); err == nil || p.Ready() != 2 {
			t.Errorf("more than there is room for: %v", err)
		}
		p.Checked(1, true, "")
		// Who has left is not the one behind which a search begins.
		if i, _ := p.Next(pool.Want{Client: client, After: 0}); i != 2 {
			t.Errorf("behind one that has left comes %d", i)
		}
		change(t, p, one, two, three)
		if all := p.Status(); len(all) != 3 || all[0].Conns != 2 || all[0].Gone {
			t.Errorf("who comes back: %+v", all)
		}
		// A number is another's when nobody can know the old one's any more.
		change(t, p, two, three)
		time.Sleep(2 * time.Minute)
		if err := p.Change(pool.Config{Servers: []netip.AddrPort{two, three, six}, Most: 3}); err == nil {
			t.Error("a number whose server serves connections is another's")
		}
		p.Left(0)
		p.Left(0)
		change(t, p, two, three, six)
		if i, ok := p.Find(six); i != 0 || !ok || p.Addr(0) != six {
			t.Errorf("its number is %d", i)
		}
		if _, ok := p.Find(one); ok {
			t.Error("who has gone is known still")
		}
	})
}

// Who is not ready gets nothing new, not even when nobody else is up; its connections stay counted.
func TestStates(t *testing.T) {
	p := shared(pool.RoundRobin{}, pool.Share{}, pool.Share{}, pool.Share{})
	takes(t, p, 3, 1, 1, 1)
	err := p.Change(pool.Config{Servers: []netip.AddrPort{one, two, three}, Policy: pool.RoundRobin{},
		Shares: []pool.Share{{State: pool.Drained}, {State: pool.Disabled}, {}}})
	if err != nil || p.Ready() != 1 || !p.Leaves(0) || p.Leaves(1) || p.Leaves(2) {
		t.Fatalf("%v; %d take connections", err, p.Ready())
	}
	for range 4 {
		if i, ok := p.Next(pool.Want{Client: client, After: -1, Any: true, Take: true}); i != 2 || !ok {
			t.Fatalf("server %d", i)
		}
	}
	p.Checked(2, false, "away")
	want(t, p, client, 2)
	if s := p.Status(); s[0].Conns != 1 || s[0].Share.State.String() != "drained" || s[2].Conns != 5 {
		t.Errorf("%+v", s)
	}
}

// In any stretch of a round's length each server gets as many as its weight says, wherever it begins.
func TestRoundRobinIsSmooth(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		weights := rapid.SliceOfN(rapid.IntRange(1, 20), 1, 3).Draw(rt, "weights")
		shares, round := make([]pool.Share, len(weights)), 0
		for i, w := range weights {
			shares[i], round = pool.Share{Weight: w}, round+w
		}
		p := shared(pool.RoundRobin{}, shares...)
		var order []int
		for range 3 * round {
			order = append(order, slices.Index(take(t, p, 1), 1))
		}
		for at := range 2 * round {
			got := make([]int, len(weights))
			for _, i := range order[at : at+round] {
				got[i]++
			}
			if !slices.Equal(got, weights) {
				rt.Fatalf("weights %v, from %d on %v: %v", weights, at, got, order)
			}
		}
	})
}
