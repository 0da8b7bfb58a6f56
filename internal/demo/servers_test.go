package demo

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	product "lockstep/appliance"
	"lockstep/appliance/config"
	"lockstep/internal/lab/traffic"
)

// envReal makes the test binary a real appliance where the demo starts one.
const envReal = "DEMO_TEST_REAL"

func realRun(file string) error {
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return product.Run(ctx, cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

// A server is killed, or the only one restarted, under real appliances: once per protection.
func TestDemoOfServers(t *testing.T) {
	for name, opts := range map[string]options{
		"log":     {fault: faultServerKill, protection: "log", direction: dirDownload},
		"restart": {fault: faultServerRestart, protection: "log", direction: dirDownload},
		"hot":     {fault: faultServerKill, protection: "hot", direction: dirBoth},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(envReal, "1")
			opts.size, opts.idle, opts.rounds = 24<<20, 6, 1
			v, log, err := play(t, context.Background(), opts)
			if err != nil || !v.OK || !v.Intact || v.ConnectionsLost != 0 {
				t.Fatalf("%v: %+v\n%s", err, v, log)
			}
			heir := "s2"
			if opts.fault == faultServerRestart {
				heir = "s1"
			}
			if v.Protection != opts.protection || v.ServerBefore != "s1" || v.ServerAfter != heir || v.ServersLost == 0 ||
				v.Failovers == 0 || v.Divergences != 0 || v.ActiveAfter == "" {
				t.Errorf("%+v", v)
			}
			if len(v.Failures) != 1 || v.Failures[0].Failed != "s1" || v.Failures[0].Server != heir || v.Failures[0].LongestGapMS <= 0 {
				t.Errorf("%+v", v.Failures)
			}
			for _, want := range []string{"server s1 is dead", "server " + heir + " goes on"} {
				if !strings.Contains(log, want) {
					t.Errorf("the log does not say %q:\n%s", want, log)
				}
			}
		})
	}
}

// The fake appliance is a plain proxy: the demo must find out that its connections end with
// their server.
func TestDemoFindsConnectionsThatEndWithTheirServer(t *testing.T) {
	v, log, err := play(t, context.Background(), options{fault: faultServerKill, protection: "log", rounds: 1, direction: dirDownload, size: 64 << 20, idle: 2})
	if err == nil || v.OK || v.Intact || v.ConnectionsLost == 0 || v.Failovers != 0 || v.Error != "" {
		t.Errorf("%v: %+v\n%s", err, v, log)
	}
}

func TestProtectionFlags(t *testing.T) {
	for line, why := range map[string]string{
		"--fault server-kill --protection gateway":                                       "ends with its server",
		"--fault server-freeze --protection gateway":                                     "ends with its server",
		"--fault server-restart --protection hot":                                        "needs two servers",
		"--fault server-kill --protection cold":                                          "none of gateway, log, hot",
		"--fault server-kill --release last":                                             "none of primary, first",
		"--fault server-kill --protection log --release first":                           "only with --protection hot",
		"--fault kill --path kernel":                                                     "none of auto, netstack",
		"--fault kill --release first":                                                   "only with --protection hot",
		"--fault server-kill --protection log --direction both --size 1GiB":              "must fit into the log",
		"--fault server-kill --protection hot --direction upload --size 1GiB --rounds 2": "must fit into the log",
	} {
		cmd := Command()
		cmd.SetArgs(strings.Fields(line))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want: %s", line, err, why)
		}
	}
}

// --path is what both appliances' service has.
func TestPathFlag(t *testing.T) {
	for path, want := range map[string]config.Path{"": config.PathAuto, "auto": config.PathAuto, "netstack": config.PathNetstack} {
		if s := (options{fault: faultKill, path: path}).configuration().Services; len(s) != 1 || s[0].Path != want {
			t.Errorf("--path %q: %+v", path, s)
		}
	}
}

// What is not asked for follows from the fault.
func TestSettle(t *testing.T) {
	never := func(string) bool { return false }
	for fault, want := range map[string]options{
		faultKill:          {protection: "gateway", direction: dirBoth, size: 1 << 30},
		faultServerKill:    {protection: "hot", direction: dirBoth, size: 1 << 30},
		faultServerFreeze:  {protection: "hot", direction: dirBoth, size: 1 << 30},
		faultServerRestart: {protection: "log", direction: dirDownload, size: loggedSize},
	} {
		o := options{fault: fault, direction: dirBoth, size: 1 << 30, rounds: 1}
		want.fault, want.rounds = fault, 1
		if o.settle(never); o != want {
			t.Errorf("%s: %+v, want %+v", fault, o, want)
		}
		if err := o.check(); err != nil {
			t.Errorf("%s: %v", fault, err)
		}
	}
	o := options{fault: faultServerKill, protection: "log", direction: dirBoth, size: 100 << 20, rounds: 1}
	o.settle(func(string) bool { return true })
	if o.direction != dirBoth || o.size != 100<<20 || !o.retold() {
		t.Errorf("what was asked for has changed: %+v", o)
	}
}

// The service is configured as asked for, and its log holds an upload that is to be told again.
func TestKeptConfigurationIsValid(t *testing.T) {
	for _, o := range []options{
		{fault: faultServerKill, protection: "hot", release: "first", direction: dirBoth, size: 1 << 30, rounds: 1},
		{fault: faultServerKill, protection: "log", direction: dirBoth, size: 100 << 20, rounds: 1},
		{fault: faultServerRestart, protection: "log", direction: dirDownload, size: 1 << 30, rounds: 1},
	} {
		cfg := o.configured(t)
		s := cfg.Services[0]
		if string(s.Protection) != o.protection || len(s.Servers) != 2*o.servers() || s.Health.HTTP != "/" {
			t.Errorf("%+v", s)
		}
		if o.release != "" && string(s.Release) != o.release {
			t.Errorf("%+v", s)
		}
		if o.retold() && int64(s.Limits.Log) <= o.size {
			t.Errorf("the log holds %v, the upload has %d", s.Limits.Log, o.size)
		}
	}
}

func TestJudgeServers(t *testing.T) {
	at := time.Now().Add(-time.Second)
	good := traffic.Result{Intact: true, Received: 10, Down: traffic.Gap{Longest: 4 * time.Millisecond, At: at}}
	good.Downs = []traffic.Gap{good.Down}
	failed := []failure{{Round: 1, Failed: "s1", Server: "s2", at: at}}
	sound := verdict{Fault: faultServerKill, Rounds: 1, Protection: "hot", ActiveBefore: "a", ActiveAfter: "a",
		ServerBefore: "s1", ServerAfter: "s2", ServersLost: 1, Failovers: 1}
	for name, c := range map[string]struct {
		change   func(v *verdict)
		failures []failure
		reason   string
	}{
		"good":             {func(*verdict) {}, failed, ""},
		"nothing lost":     {func(v *verdict) { v.ServersLost = 0 }, failed, "no connection has lost its server"},
		"both send":        {func(v *verdict) { v.ServersLost, v.Release = 0, releaseFirst }, failed, ""},
		"nobody goes on":   {func(v *verdict) { v.ServerAfter = "" }, failed, "no server has gone on"},
		"diverged":         {func(v *verdict) { v.Divergences = 2 }, failed, "differed"},
		"fault never came": {func(*verdict) {}, nil, "over before the fault"},
		"a round missing":  {func(v *verdict) { v.Rounds = 2 }, failed, "the server not in step again before round 2 of 2"},
	} {
		t.Run(name, func(t *testing.T) {
			v := sound
			c.change(&v)
			v.judge([]traffic.Result{good}, nil, append([]failure(nil), c.failures...))
			if v.OK != (c.reason == "") || !strings.Contains(strings.Join(v.Reasons, ";"), c.reason) {
				t.Errorf("%+v", v)
			}
		})
	}
	v := sound
	v.judge([]traffic.Result{good}, nil, append([]failure(nil), failed...))
	var out bytes.Buffer
	newView(&out).verdict(v)
	for _, want := range []string{
		"s1 before, s2 after (protection: hot)",
		"1 connections lost their server, 1 went on",
		"Every connection outlived its server.",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("verdict lacks %q:\n%s", want, out.String())
		}
	}
}

// The timeline has a column for the server where one fails.
func TestViewShowsTheServer(t *testing.T) {
	var b bytes.Buffer
	v := newView(&b)
	v.terminal, v.width = true, func() int { return 67 } // 20 columns of bar
	v.sample(sample{at: 100 * time.Millisecond, active: "a", server: "s1", down: 2e9, up: 2e9})
	v.sample(sample{at: 200 * time.Millisecond, active: "a", server: nobody})
	want := `   time  active  server  Gbit/s down    up  (██ download ▒▒ upload)
   0.1s  a       s1             2.00  2.00  ██████████▒▒▒▒▒▒▒▒▒▒
   0.2s  a       -              0.00  0.00  
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
