package pool_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/health"
	"lockstep/appliance/pool"
)

var (
	six   = netip.MustParseAddrPort("[fd00::1]:80")
	one   = netip.MustParseAddrPort("10.0.0.1:80")
	two   = netip.MustParseAddrPort("10.0.0.2:80")
	three = netip.MustParseAddrPort("10.0.0.3:80")

	client  = netip.MustParseAddrPort("192.0.2.1:40000")
	client6 = netip.MustParseAddrPort("[2001:db8::1]:40000")
)

const retry = 10 * time.Second

// order is the order in which a connection tries servers that all refuse it.
func order(p *pool.Pool, from netip.AddrPort) (tried []int) {
	w := pool.Want{Client: from, After: -1, Any: true, Not: func(i int) bool { return slices.Contains(tried, i) }}
	for {
		i, ok := p.Next(w)
		if !ok {
			return tried
		}
		tried = append(tried, i)
		w.After = i
	}
}

func want(t *testing.T, p *pool.Pool, from netip.AddrPort, servers ...int) {
	t.Helper()
	if got := order(p, from); !slices.Equal(got, servers) {
		t.Errorf("tried in the order %v, want %v", got, servers)
	}
}

// wantUp checks the status of all servers: what begins with "up", or is part of the reason.
func wantUp(t *testing.T, p *pool.Pool, states ...string) {
	t.Helper()
	for i, s := range p.Status() {
		if up := states[i] == "up"; s.Up != up || !up && !strings.Contains(s.Why, states[i]) || up && s.Why != "" {
			t.Errorf("server %d: %+v, want %s", i, s, states[i])
		}
	}
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pool.New(pool.Config{Servers: []netip.AddrPort{six, one, two, three}, Retry: retry})
		want(t, p, client, 1, 2, 3)
		want(t, p, client6, 0)
		p.Refused(1)
		want(t, p, client, 2, 3, 1) // whoever is down comes last
		p.Refused(2)
		p.Checked(3, false, "no answer in time")
		want(t, p, client, 1, 2, 3) // all are: in their order
		if i, ok := p.Next(pool.Want{Client: client, After: -1}); ok {
			t.Errorf("server %d, which is down, without need", i)
		}
		p.Accepted(2)
		want(t, p, client, 2, 3, 1)
		time.Sleep(retry + 1)
		want(t, p, client, 1, 2, 3) // the first is asked again, the third still fails
		p.Checked(1, false, "no answer in time")
		want(t, p, client, 2, 3, 1)
		p.Checked(1, true, "answers")
		want(t, p, client, 1, 2, 3)

		any := pool.New(pool.Config{Servers: []netip.AddrPort{six, one}, AnyFamily: true})
		want(t, any, client, 0, 1)
		if any.Index(one) != 1 || any.Index(three) != 0 || any.Ready() != 2 || any.Addr(1) != one {
			t.Error("addresses")
		}
		if order(pool.New(pool.Config{}), client) != nil {
			t.Error("a server of no servers")
		}
	})
}

// last chooses the last.
type last struct{}

func (last) Figure(_ netip.AddrPort, c *pool.Candidate) float64 { return -float64(c.Place) }

// The policy chooses among those that are as good as each other, and only among them.
func TestPolicy(t *testing.T) {
	p := pool.New(pool.Config{Servers: []netip.AddrPort{one, two, three, six}, Retry: retry, Policy: last{}})
	p.Checked(2, false, "fails")
	want(t, p, client, 1, 0, 2)
}

// What is known, and what is told of it.
func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pool.New(pool.Config{Servers: []netip.AddrPort{one, two}, Retry: retry})
		if p.Status()[0] != (pool.Status{Addr: one, Up: true, Share: pool.Share{Weight: 1}}) {
			t.Errorf("at first: %+v", p.Status()[0])
		}
		p.Refused(0)
		wantUp(t, p, "refused or did not answer, 0s ago", "up")
		time.Sleep(time.Hour)
		wantUp(t, p, "1h0m0s ago", "up") // nobody checks it
		p.Accepted(0)
		wantUp(t, p, "up", "up")

		var told []string
		p.OnCheck(func(again bool) { told = append(told, fmt.Sprint(again)) })
		p.Watched(pool.Watch{Doubt: func(i int) { told = append(told, fmt.Sprint("doubt ", i)) }, Alive: func(i int) { told = append(told, fmt.Sprint("alive ", i)) }})
		p.Checked(0, true, "answers")
		p.Checked(0, false, "connection refused")
		wantUp(t, p, "connection refused", "up")
		p.Checked(0, false, "connection refused")
		p.Refused(0)
		p.Accepted(1)
		p.Checked(0, true, "answers")
		wantUp(t, p, "up", "up")
		if w := []string{"false", "true", "doubt 0", "alive 1", "false"}; !slices.Equal(told, w) {
			t.Errorf("told %q, want %q", told, w)
		}
		if now, n := p.Failing(0); now || n != 2 {
			t.Errorf("failing %v, %d checks", now, n)
		}
		for i, s := range p.Status() {
			if !s.Known {
				t.Errorf("server %d is not known", i)
			}
		}
	})
}

// Two servers are absent for a moment between two health checks, and a client is refused
// by both. Their checks pass before and after, and so they never count as down for these;
// what the client has seen must not stand for ever.
func TestAbsentBetweenChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval = 20 * time.Second
		servers := []netip.AddrPort{one, two}
		p := pool.New(pool.Config{Servers: servers, Retry: interval})
		var absent atomic.Int32 // probes that find nobody
		dial := func(context.Context, netip.AddrPort) (net.Conn, error) {
			if absent.Add(-1) >= 0 {
				return nil, errors.New("connection refused")
			}
			near, far := net.Pipe()
			context.AfterFunc(t.Context(), func() { far.Close() })
			return near, nil
		}
		checks := health.New(health.Config{
			Servers: servers, Probed: p.Checked, Health: config.Health{Interval: interval, Timeout: time.Second, TCP: true},
		}, dial, func(i int, up bool, _ string) { t.Errorf("server %d goes up or down: %v", i, up) })
		p.Watched(pool.Watch{Doubt: checks.Doubt, Alive: checks.Passed})
		checks.Start()
		defer checks.Stop()
		time.Sleep(interval / 2)
		for i := range servers {
			absent.Store(1)
			p.Refused(i)
			synctest.Wait()
		}
		wantUp(t, p, "refused", "refused")
		time.Sleep(45 * time.Second)
		wantUp(t, p, "up", "up")
	})
}

func ExamplePool() {
	p := pool.New(pool.Config{
		Servers: []netip.AddrPort{netip.MustParseAddrPort("10.20.0.11:80"), netip.MustParseAddrPort("10.20.0.12:80")},
		Retry:   5 * time.Second,
		Policy:  pool.First{},
	})
	from := netip.MustParseAddrPort("203.0.113.7:40000")
	i, _ := p.Next(pool.Want{Client: from, After: -1, Any: true})
	fmt.Println("first", p.Addr(i))
	p.Refused(i)
	i, _ = p.Next(pool.Want{Client: from, After: i, Any: true})
	fmt.Println("then ", p.Addr(i))
	p.Accepted(i)
	for i, s := range p.Status() {
		fmt.Println(p.Addr(i), s.Up, s.Why)
	}
	// Output:
	// first 10.20.0.11:80
	// then  10.20.0.12:80
	// 10.20.0.11:80 false refused or did not answer, 0s ago
	// 10.20.0.12:80 true
}
