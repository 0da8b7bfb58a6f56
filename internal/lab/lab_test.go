package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
)

// TestMain lets the test binary play the roles its tests start.
func TestMain(m *testing.M) {
	lab.Main(lab.Roles{
		"echo":   echoRole,
		"orphan": orphanRole,
	})
	os.Exit(m.Run())
}

// echoRole answers each message with itself and tells its process ID first.
func echoRole(ctx context.Context, r *lab.RoleIO) error {
	if err := r.Emit(map[string]any{"pid": os.Getpid(), "args": r.Args}); err != nil {
		return err
	}
	for m := range r.Messages {
		if err := r.Emit(m); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// bridged makes x and y on one network.
func bridged(t *testing.T, opts lab.NetOptions) (l *lab.Lab, n *lab.Network, x, y *lab.Host) {
	t.Helper()
	l = labtest.New(t, lab.Options{})
	n, err := l.Network("wire", opts)
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range []**lab.Host{&x, &y} {
		if *h, err = l.Host([]string{"x", "y"}[i]); err != nil {
			t.Fatal(err)
		}
		if _, err := (*h).Attach(n, "eth0", fmt.Sprintf("10.0.0.%d/24", i+1), fmt.Sprintf("fd00::%d/64", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	return l, n, x, y
}

// exchange sends a block from x to a listener on y and reads it back.
func exchange(t *testing.T, x, y *lab.Host, addr string, size int) error {
	t.Helper()
	ln, err := y.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
	}()
	defer func() { ln.Close(); <-served }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := x.DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	want := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		_ = c.(*net.TCPConn).CloseWrite()
		sent <- err
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if err := <-sent; err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes came back, not the %d that were sent", len(got), len(want))
	}
	return nil
}

func TestHostsTalk(t *testing.T) {
	for _, c := range []struct {
		name string
		opts lab.NetOptions
	}{
		{"kernel", lab.NetOptions{}},
		{"kernel with offloads", lab.NetOptions{Offload: true}},
		{"kernel jumbo", lab.NetOptions{MTU: 9000}},
		{"switch", lab.NetOptions{Kind: lab.Switch}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, x, y := bridged(t, c.opts)
			for _, addr := range []string{"10.0.0.2:5000", "[fd00::2]:5000"} {
				if err := exchange(t, x, y, addr, 1<<20); err != nil {
					t.Errorf("%s: %v", addr, err)
				}
			}
		})
	}
}

func TestSwitchFramesAreMTUSized(t *testing.T) {
	_, n, x, y := bridged(t, lab.NetOptions{Kind: lab.Switch})
	longest := make(chan int, 1)
	longest <- 0
	err := n.PortOf(x).SetFilter(lab.FromHost, func(frame []byte) bool {
		longest <- max(<-longest, len(frame))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := exchange(t, x, y, "10.0.0.2:5000", 4<<20); err != nil {
		t.Fatal(err)
	}
	if got := <-longest; got != 1514 {
		t.Errorf("longest frame is %d bytes, want 1514", got)
	}
}

func TestSwitchFaultsLeaveTCPWhole(t *testing.T) {
	_, n, x, y := bridged(t, lab.NetOptions{Kind: lab.Switch})
	f := lab.Faults{
		Loss: 0.02, Duplicate: 0.02, Reorder: 0.05,
		Delay: 500 * time.Microsecond, Jitter: time.Millisecond, ReorderBy: 3 * time.Millisecond,
	}
	if err := n.SetFaults(f); err != nil {
		t.Fatal(err)
	}
	if err := exchange(t, x, y, "10.0.0.2:5000", 2<<20); err != nil {
		t.Fatal(err)
	}
	c := n.PortOf(x).Counters(lab.FromHost)
	if c.Passed == 0 || c.Lost == 0 || c.Duplicated == 0 || c.Reordered == 0 {
		t.Errorf("a fault never happened: %+v", c)
	}
}

func TestKernelNetworkRefusesFaults(t *testing.T) {
	l, n, x, _ := bridged(t, lab.NetOptions{})
	if err := n.PortOf(x).SetFaults(lab.ToHost, lab.Faults{Loss: 1}); err == nil {
		t.Error("faults accepted")
	}
	if _, err := l.Network("other", lab.NetOptions{Kind: lab.Switch, Offload: true}); err == nil {
		t.Error("switch with offloads accepted")
	}
	if _, err := l.Network("third", lab.NetOptions{Kind: lab.Switch, Faults: lab.Faults{Loss: 2}}); err == nil {
		t.Error("loss of 2 accepted")
	}
}

// pings carries one byte there and back over an open connection until told to stop; it reports
// each answer.
func pings(t *testing.T, x, y *lab.Host) (answers <-chan struct{}) {
	t.Helper()
	ln, err := y.Listen("tcp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
	}()
	c, err := x.DialContext(context.Background(), "tcp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan struct{})
	done := make(chan struct{})
	pinged := make(chan struct{})
	go func() {
		defer close(pinged)
		b := []byte{1}
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			select {
			case out <- struct{}{}:
			case <-done:
				return
			}
		}
	}()
	t.Cleanup(func() { close(done); c.Close(); <-pinged; ln.Close(); <-served })
	return out
}

// within tells whether an answer comes in time.
func within(answers <-chan struct{}, d time.Duration) bool {
	select {
	case <-answers:
		return true
	case <-time.After(d):
		return false
	}
}

func TestLinkAndPartition(t *testing.T) {
	for _, kind := range []lab.Kind{lab.Kernel, lab.Switch} {
		t.Run(map[lab.Kind]string{lab.Kernel: "kernel", lab.Switch: "switch"}[kind], func(t *testing.T) {
			_, n, x, y := bridged(t, lab.NetOptions{Kind: kind})
			answers := pings(t, x, y)
			silent := func(what string) {
				t.Helper()
				const onTheWay = 3 // answers that may have been under way or waiting to be counted
				for n := 0; within(answers, 300*time.Millisecond); n++ {
					if n >= onTheWay {
						t.Fatalf("%s: answers still come", what)
					}
				}
			}
			alive := func(what string) {
				t.Helper()
				if !within(answers, 20*time.Second) {
					t.Fatalf("%s: no answer", what)
				}
			}
			alive("at first")
			if err := n.PortOf(y).SetLink(false); err != nil {
				t.Fatal(err)
			}
			silent("link down")
			carrier := func() bool {
				link, err := y.Netlink().LinkByName("eth0")
				return err == nil && link.Attrs().OperState == 6 // IF_OPER_UP
			}
			labtest.Eventually(t, 30*time.Second, "the host sees its carrier lost", func() bool { return !carrier() })
			if err := n.PortOf(y).SetLink(true); err != nil {
				t.Fatal(err)
			}
			alive("link up again")
			if err := n.Partition([]*lab.Host{x}, []*lab.Host{y}); err != nil {
				t.Fatal(err)
			}
			silent("partition")
			if !carrier() {
				t.Error("a partition must not take the carrier")
			}
			if err := n.Heal(); err != nil {
				t.Fatal(err)
			}
			alive("healed")
		})
	}
}

func TestRoleAndProcess(t *testing.T) {
	_, _, x, _ := bridged(t, lab.NetOptions{})
	r, err := x.Go("echo", map[string]int{"n": 7})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var hello struct {
		PID  int
		Args struct{ N int }
	}
	if err := r.Next(ctx, &hello); err != nil {
		t.Fatal(err)
	}
	if hello.PID != r.PID() || hello.Args.N != 7 {
		t.Errorf("role said %+v, its process ID is %d", hello, r.PID())
	}
	if err := r.Send("again"); err != nil {
		t.Fatal(err)
	}
	var back string
	if err := r.Next(ctx, &back); err != nil || back != "again" {
		t.Errorf("answer %q, %v", back, err)
	}
	if err := r.End(); err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(ctx); err != nil {
		t.Errorf("role ended with %v: %s", err, r.Output())
	}

	p, err := x.Start(lab.Command{Path: "sh", Args: []string{"-c", "cat /proc/net/dev; echo to stderr >&2; exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(ctx); err == nil {
		t.Error("exit status 3 is no error")
	}
	if out := p.Output(); !strings.Contains(out, "eth0:") || !strings.Contains(out, "to stderr") {
		t.Errorf("output lacks the host's interface or stderr:\n%s", out)
	}
	if err := p.Kill(); err == nil {
		t.Error("killing an ended process is no error")
	}
}

func TestFreezeAndThaw(t *testing.T) {
	_, _, x, _ := bridged(t, lab.NetOptions{})
	r, err := x.Go("echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var hello json.RawMessage
	if err := r.Next(ctx, &hello); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := r.Send(1); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-r.Events():
		t.Errorf("a frozen role answered %s", m)
	case <-time.After(200 * time.Millisecond):
	}
	if err := r.Cont(); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := r.Next(ctx, &n); err != nil || n != 1 {
		t.Errorf("after waking: %d, %v", n, err)
	}
}

func TestHostSettings(t *testing.T) {
	_, _, x, y := bridged(t, lab.NetOptions{})
	if err := x.Sysctl("net.ipv4.tcp_timestamps", "0"); err != nil {
		t.Fatal(err)
	}
	for h, want := range map[*lab.Host]string{x: "0", y: "1"} {
		if got, err := h.ReadSysctl("net.ipv4.tcp_timestamps"); err != nil || got != want {
			t.Errorf("%s: tcp_timestamps is %q (%v), want %q", h.Name(), got, err, want)
		}
	}
	if err := x.Sysctl("net.ipv4.no_such_thing", "1"); err == nil {
		t.Error("unknown sysctl accepted")
	}
	if err := x.Route("10.9.0.0/16", "10.0.0.2"); err != nil {
		t.Error(err)
	}
	if err := x.Route("fd09::/64", "fd00::2"); err != nil {
		t.Error(err)
	}
	if err := x.Route("nonsense", "10.0.0.2"); err == nil {
		t.Error("bad route accepted")
	}
}

func TestPairTopologyRoutesThroughStandIn(t *testing.T) {
	p := labtest.Pair(t, lab.PairOptions{})
	if err := p.StandIn(p.A); err != nil {
		t.Fatal(err)
	}
	for i, s := range p.Servers {
		for _, v6 := range []bool{false, true} {
			if err := exchange(t, p.Client, s, p.ServerAddr(i, v6, 80).String(), 1<<16); err != nil {
				t.Errorf("server %d, IPv6 %v: %v", i, v6, err)
			}
		}
	}
	if p.Appliance("b") != p.B || p.Appliance("c") != nil {
		t.Error("appliances by name")
	}
}

func TestClosedLabRefuses(t *testing.T) {
	l, _, x, _ := bridged(t, lab.NetOptions{})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Host("z"); err == nil {
		t.Error("new host accepted")
	}
	if _, err := x.Start(lab.Command{Path: "true"}); err == nil {
		t.Error("process accepted")
	}
	if err := x.Sysctl("net.ipv4.ip_forward", "1"); err == nil {
		t.Error("sysctl accepted")
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}
