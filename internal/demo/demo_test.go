package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/internal/lab/traffic"
)

// TestMain lets the test binary play the program: a `run` that behaves like a pair
// without replication: a proxy that dies with its connections, and a standby that only takes the
// addresses. The demo must get through with it, and must find out. With envReal set it is the
// appliance itself.
func TestMain(m *testing.M) {
	lab.Main(traffic.Roles())
	if len(os.Args) > 2 {
		var err error
		switch os.Args[1] {
		case "switchover":
			_ = os.WriteFile(released(os.Args[3]), nil, 0o600) // the transfer waits for it
			err = fmt.Errorf("switchover of %s refused: it is a fake", os.Args[3])
		case "run":
			if os.Getenv(envReal) != "" {
				err = realRun(os.Args[3])
			} else {
				err = fakeRun(os.Args[3])
			}
		default:
			os.Exit(m.Run())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "fake:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fakeNode reports a role.
type fakeNode struct {
	cfg    *config.Config
	active atomic.Bool
}

func (f *fakeNode) Status() control.Status {
	s := control.Status{Node: f.cfg.Node, Role: control.RoleStandby, InSync: true}
	if f.active.Load() {
		s.Role = control.RoleActive
		s.Services = []control.Service{{Servers: []control.Backend{{Healthy: true}}}}
	}
	return s
}

func (f *fakeNode) FindConnections(control.ConnectionQuery) control.ConnectionList {
	return control.ConnectionList{}
}

func (f *fakeNode) Switchover(context.Context) error { return nil }

func (f *fakeNode) Reload(bool) (control.Reloaded, error) { return control.Reloaded{}, nil }

func (f *fakeNode) Server(context.Context, control.ServerCommand) (control.ServerOrdered, error) {
	return control.ServerOrdered{}, nil
}

func fakeRun(file string) error {
	if os.Getenv("FAKE_BROKEN") != "" {
		return errors.New("no such interface: the last words")
	}
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	f := &fakeNode{cfg: cfg}
	srv, err := control.Serve(cfg.Control, f, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer srv.Close()
	if cfg.Node != "a" {
		peer := filepath.Join(filepath.Dir(cfg.Control), "a.sock")
		for ctx.Err() == nil {
			c, err := net.DialTimeout("unix", peer, 100*time.Millisecond)
			if err != nil {
				break
			}
			c.Close()
			time.Sleep(5 * time.Millisecond)
		}
	}
	if err := f.takeAddresses(ctx); err != nil {
		return err
	}
	f.active.Store(true)
	<-ctx.Done()
	return nil
}

// takeAddresses makes the virtual addresses the kernel's and proxies what comes to them.
func (f *fakeNode) takeAddresses(ctx context.Context) error {
	add := func(ifname, addr string) error {
		link, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			return err
		}
		if a.IP.To4() == nil {
			a.Flags = syscall.IFA_F_NODAD
		}
		return netlink.AddrAdd(link, a)
	}
	svc := f.cfg.Services[0]
	for _, l := range svc.Listen {
		bits := 24
		if l.Addr().Is6() {
			bits = 64
		}
		if err := add(f.cfg.Networks.Front.Interface, fmt.Sprintf("%v/%d", l.Addr(), bits)); err != nil {
			return err
		}
		ln, err := net.Listen("tcp", l.String())
		if err != nil {
			return err
		}
		go func() {
			<-ctx.Done()
			ln.Close()
		}()
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go f.proxy(c, svc.Servers[0].String())
			}
		}()
	}
	return nil
}

func (f *fakeNode) proxy(c net.Conn, to string) {
	defer c.Close()
	s, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer s.Close()
	done := make(chan struct{}, 2)
	pump := func(dst, src net.Conn) {
		err := f.carry(dst, src)
		if err != nil { // an abort stays an abort
			c.Close()
			s.Close()
		}
		_ = dst.(*net.TCPConn).CloseWrite()
		done <- struct{}{}
	}
	go pump(s, c)
	pump(c, s)
	<-done
	<-done
}

// envHeld is how many bytes of a direction the fake appliance carries before the fault: a transfer cannot be over
// by then, however slow the look at who is active. Empty: all.
const envHeld = "FAKE_HELD"

// released is the file that exists once the fault has been, for one that the appliance outlives.
func released(socket string) string { return socket + ".released" }

// carry copies.
func (f *fakeNode) carry(dst io.Writer, src io.Reader) error {
	if held, err := strconv.ParseInt(os.Getenv(envHeld), 10, 64); err == nil {
		if _, err := io.CopyN(dst, src, held); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		for {
			if _, err := os.Stat(released(f.cfg.Control)); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	_, err := io.Copy(dst, src)
	return err
}

// play runs the demo with the fake appliance and returns what it printed.
func play(t *testing.T, ctx context.Context, opts options) (verdict, string, error) {
	t.Helper()
	labtest.RequireRoot(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	var err error
	if opts.self, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	opts.json = true
	var stdout, stderr bytes.Buffer
	err = execute(ctx, opts, &stdout, &stderr)
	var v verdict
	dec := json.NewDecoder(&stdout)
	if e := dec.Decode(&v); e != nil {
		t.Fatalf("standard output is no JSON object: %v (error %v)", e, err)
	}
	if dec.More() {
		t.Error("more than one JSON object on standard output")
	}
	if left, _ := os.ReadDir(tmp); len(left) > 0 {
		t.Errorf("left behind in the temporary directory: %v", left)
	}
	return v, stderr.String(), err
}

func TestWholeDemoWithoutFault(t *testing.T) {
	v, log, err := play(t, context.Background(), options{fault: faultNone, rounds: 1, direction: dirBoth, size: 8 << 20, idle: 20})
	if err != nil || !v.OK || !v.Intact {
		t.Fatalf("%v: %+v\n%s", err, v, log)
	}
	if v.Bytes != 2*8<<20+20*4 || v.Connections != 22 || v.ConnectionsLost != 0 || v.ActiveBefore != "a" || v.ActiveAfter != "a" {
		t.Errorf("%+v", v)
	}
}

func TestDemoFindsLostConnections(t *testing.T) {
	keep := filepath.Join(t.TempDir(), "logs")
	t.Setenv(envHeld, fmt.Sprint(12<<20))
	v, log, err := play(t, context.Background(), options{fault: faultKill, rounds: 1, direction: dirBoth, size: 16 << 20, idle: 4, keepLogs: keep})
	if !errors.Is(err, errNotSurvived) {
		t.Errorf("error %v", err)
	}
	if v.OK || v.Intact || v.ConnectionsLost == 0 || v.ActiveBefore != "a" || v.ActiveAfter != "b" || v.Error != "" {
		t.Errorf("%+v", v)
	}
	if !strings.Contains(log, "appliance a is dead") || !strings.Contains(log, "appliance b is active") {
		t.Errorf("the log does not tell the story:\n%s", log)
	}
	for _, pattern := range []string{"a.yaml", "a-lockstep-*.log", "b-lockstep-*.log"} {
		if found, _ := filepath.Glob(filepath.Join(keep, pattern)); len(found) != 1 {
			t.Errorf("%s not kept: %v", pattern, found)
		}
	}
}

func TestDemoTellsWhyAFaultFailed(t *testing.T) {
	t.Setenv(envHeld, fmt.Sprint(12<<20))
	v, _, err := play(t, context.Background(), options{fault: faultSwitchover, rounds: 1, direction: dirDownload, size: 16 << 20})
	if err == nil || v.OK || !v.Intact || !strings.Contains(v.headline(), "round 1: the fault failed: lockstep switchover") ||
		!strings.Contains(v.headline(), "a.sock refused: it is a fake") {
		t.Errorf("%v, %+v", err, v)
	}
}

func TestDemoTellsWhyAnApplianceDoesNotComeUp(t *testing.T) {
	t.Setenv("FAKE_BROKEN", "1")
	v, _, err := play(t, context.Background(), options{fault: faultKill, rounds: 1, direction: dirDownload, size: 1 << 20})
	if err == nil || !strings.Contains(err.Error(), "the last words") || !strings.Contains(err.Error(), `appliance "a" ended`) {
		t.Errorf("error does not tell: %v", err)
	}
	if v.OK || v.Intact || v.Error == "" {
		t.Errorf("%+v", v)
	}
}

func TestInterruptedDemoCleansUp(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	time.AfterFunc(2*time.Second, cancel)
	v, _, err := play(t, ctx, options{fault: faultNone, rounds: 1, direction: dirDownload, size: maxSize, idle: 3})
	if err == nil || !strings.Contains(err.Error(), "interrupted") || v.OK {
		t.Errorf("%v, %+v", err, v)
	}
}

// configured is the configuration of appliance a as it reads it.
func (o options) configured(t *testing.T) *config.Config {
	t.Helper()
	c := o.configuration()
	c.Node = "a"
	text, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestConfigurationIsValid(t *testing.T) {
	cfg := options{witness: true}.configured(t)
	if errs := config.Unsupported(cfg); len(errs) > 0 {
		t.Error(errs)
	}
	if len(cfg.Services) != 1 || len(cfg.Services[0].Listen) != 2 || len(cfg.Services[0].Servers) != 4 {
		t.Errorf("%+v", cfg.Services)
	}
	if cfg.Networks.Front.Interface != lab.FrontIf || cfg.Networks.Back.Interface != lab.BackIf {
		t.Errorf("%+v", cfg.Networks)
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{
		{"--fault", "earthquake"}, {"--direction", "sideways"}, {"--size", "1"}, {"--size", "10MB"},
		{"--connections", "-1"}, {"--rounds", "0"}, {"--rounds", "21"}, {"--connections", "1000000"}, {"extra"},
	} {
		cmd := Command()
		cmd.SetArgs(args)
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		if err := cmd.Execute(); err == nil {
			t.Errorf("%v accepted", args)
		}
	}
}

func TestJudge(t *testing.T) {
	at := time.Now()
	good := traffic.Result{Intact: true, Received: 10, Sent: 5, Down: traffic.Gap{Longest: 40 * time.Millisecond, At: at.Add(-time.Millisecond)}}
	bad := traffic.Result{Received: 3, Error: "reset"}
	a := []failure{{Round: 1, Failed: "a", at: at}}
	for name, c := range map[string]struct {
		v        verdict
		results  []traffic.Result
		failures []failure
		ok       bool
		reason   string
	}{
		"good":              {verdict{Fault: faultKill, Rounds: 1, ActiveBefore: "a", ActiveAfter: "b"}, []traffic.Result{good}, a, true, ""},
		"one lost":          {verdict{Fault: faultKill, Rounds: 1, ActiveBefore: "a", ActiveAfter: "b"}, []traffic.Result{good, bad}, a, false, "1 of 3"},
		"no takeover":       {verdict{Fault: faultKill, Rounds: 1, ActiveBefore: "a", ActiveAfter: "a"}, []traffic.Result{good}, a, false, "not the other"},
		"nobody":            {verdict{Fault: faultKill, Rounds: 1, ActiveBefore: "a"}, []traffic.Result{good}, a, false, "nobody"},
		"fault never came":  {verdict{Fault: faultKill, Rounds: 1, ActiveBefore: "a", ActiveAfter: "b"}, []traffic.Result{good}, nil, false, "over before"},
		"no fault":          {verdict{Fault: faultNone, Rounds: 1, ActiveBefore: "a", ActiveAfter: "a"}, []traffic.Result{good}, nil, true, ""},
		"changed by itself": {verdict{Fault: faultNone, Rounds: 1, ActiveBefore: "a", ActiveAfter: "b"}, []traffic.Result{good}, nil, false, "without a fault"},
		"nothing ran":       {verdict{Fault: faultNone, Rounds: 1, ActiveBefore: "a", ActiveAfter: "a"}, nil, nil, false, ""},
		"a round missing":   {verdict{Fault: faultKill, Rounds: 2, ActiveBefore: "a", ActiveAfter: "b"}, []traffic.Result{good}, a, false, "not in sync again before round 2 of 2"},
	} {
		t.Run(name, func(t *testing.T) {
			slow := traffic.Result{Intact: true, Down: traffic.Gap{Longest: time.Second, At: at}}
			c.v.judge(c.results, []traffic.Result{slow}[:min(len(c.results), 1)], c.failures)
			if c.v.OK != c.ok || !strings.Contains(strings.Join(c.v.Reasons, ";"), c.reason) {
				t.Errorf("%+v", c.v)
			}
			if name == "good" && (c.v.LongestGapMS != 40 || c.v.IdleAnswerMS != 1000 || c.v.GapAfterFaultMS != -1 || c.v.Bytes != 15) {
				t.Errorf("%+v", c.v)
			}
		})
	}
}

// Each round has its own gap, and who is active at the end is counted from the last round.
func TestJudgeRounds(t *testing.T) {
	begin := time.Now().Add(-time.Minute)
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	gap := func(s int, ms time.Duration) traffic.Gap {
		return traffic.Gap{At: at(s).Add(-5 * time.Millisecond), Longest: ms * time.Millisecond}
	}
	down := traffic.Result{Intact: true, Downs: []traffic.Gap{gap(1, 900), gap(10, 50), gap(20, 30), gap(25, 35)}, Down: gap(1, 900)}
	up := traffic.Result{Intact: true, Ups: []traffic.Gap{gap(10, 40), gap(20, 60)}, Up: gap(20, 60)}
	v := verdict{Fault: faultKill, Rounds: 3, ActiveBefore: "a", ActiveAfter: "b"}
	v.judge([]traffic.Result{down, up}, nil, []failure{
		{Round: 1, Failed: "a", Active: "b", RejoinMS: 700, at: at(10), repaired: at(12)},
		{Round: 2, Failed: "b", Active: "a", RejoinMS: 800, at: at(20), repaired: at(22)},
		{Round: 3, Failed: "a", Active: "b", at: at(30)},
	})
	if !v.OK || v.Rejoins != 2 || v.LongestGapMS != 900 || v.GapAfterFaultMS != -9005 {
		t.Errorf("%+v", v)
	}
	for i, want := range [][2]float64{{50, 0}, {60, 35}, {0, 0}} {
		if f := v.Failures[i]; f.LongestGapMS != want[0] || f.RejoinGapMS != want[1] {
			t.Errorf("round %d: longest gaps %v and %v ms, want %v", i+1, f.LongestGapMS, f.RejoinGapMS, want)
		}
	}
	var out bytes.Buffer
	newView(&out).verdict(v)
	for _, want := range []string{
		"3 of 3, and 2 times back in sync",
		"round 1          a failed, b active: longest gap 50.0 ms, takeover 0.00 ms for 0 legs, in sync 700 ms after the repair (longest gap 0.0 ms)",
		"round 3          a failed, b active: longest gap 0.0 ms, takeover 0.00 ms for 0 legs\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("verdict lacks %q:\n%s", want, out.String())
		}
	}
	even := verdict{Fault: faultKill, Rounds: 2, ActiveBefore: "a", ActiveAfter: "b"}
	even.judge([]traffic.Result{up}, nil, []failure{{Failed: "a", at: at(10)}, {Failed: "b", at: at(20)}})
	if even.OK || !strings.Contains(even.headline(), "not the other one") {
		t.Errorf("after two rounds the one that failed last is active: %+v", even)
	}
	stuck := verdict{Fault: faultKill, Rounds: 2, ActiveBefore: "a", ActiveAfter: "b", Reasons: []string{"not within 1m0s: in sync"}}
	stuck.judge([]traffic.Result{up}, nil, []failure{{Failed: "a", at: at(10)}})
	if stuck.OK || len(stuck.Reasons) != 1 {
		t.Errorf("the reason is that the pair was not in sync, nothing else: %+v", stuck)
	}
}

func TestViewOnATerminal(t *testing.T) {
	var b bytes.Buffer
	v := newView(&b)
	v.terminal, v.width = true, func() int { return 59 } // 20 columns of bar
	v.say("the story")
	v.sample(sample{at: 100 * time.Millisecond, active: "a", down: 2e9, up: 2e9})
	v.mark("kill -9 7")
	v.sample(sample{at: 200 * time.Millisecond})
	v.sample(sample{at: 300 * time.Millisecond, active: "b", down: 4e9})
	want := `the story
   time  active  Gbit/s down    up  (██ download ▒▒ upload)
   0.1s  a              2.00  2.00  ██████████▒▒▒▒▒▒▒▒▒▒
──── kill -9 7 ────
   0.2s  -              0.00  0.00  
   0.3s  b              4.00  0.00  ████████████████████
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestViewAsALog(t *testing.T) {
	var b bytes.Buffer
	v := newView(&b)
	for i := range 13 {
		v.sample(sample{active: "a", down: float64(i) * 1e9})
	}
	v.mark("kill -9 7")
	v.close()
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[0], "active a, download 4.50 Gbit/s, upload 0.00 Gbit/s") ||
		!strings.HasSuffix(lines[1], "download 11.00 Gbit/s, upload 0.00 Gbit/s") || !strings.HasSuffix(lines[2], "kill -9 7") {
		t.Errorf("%q", lines)
	}
	if strings.Contains(b.String(), "\x1b") || strings.Contains(b.String(), "─") {
		t.Error("decoration in a log")
	}
}
