// Package e2e runs whole appliances in network namespaces, between the kernel's
// own TCP as client and as server, and breaks them.
//
// It holds tests only. Every byte is checked by internal/lab/traffic; what is
// asserted is that no connection is lost and no byte is wrong, never how long
// something took.
package e2e

import (
	"cmp"
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/e2e/rig"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

func TestMain(m *testing.M) {
	rig.Main(traffic.Roles())
	os.Exit(m.Run())
}

// options of a pair under test. The zero value is the common case.
type options struct {
	lab.PairOptions
	source  config.Source        // client (default) or gateway
	path    config.Path          // default: the product's
	extra   []config.Service     // further services
	servers []string             // default: s1 on both families
	listen  []string             // default: port4 and port6
	tune    func(*config.Config) // see rig.Options
	alone   bool                 // only a is started
	witness bool                 // the pair has a witness on a host of its own
	// serve starts the servers of what is in extra, before anybody probes them.
	serve func(p *pair)
	// clocks are the speeds of the nodes' clocks, see rig.Options.
	clocks map[string]float64
}

// pair is the standard topology with two appliances and a traffic server on s1.
type pair struct {
	*rig.Pair
	t      testing.TB
	a, b   *lab.Proc
	w      *lab.Proc // nil without a witness
	server *traffic.Server
	// patience is how long a client's connection may stand still; 0: half a minute.
	patience time.Duration
}

const (
	port4 = lab.VIP4 + ":80"
	port6 = "[" + lab.VIP6 + "]:80"
)

// start lays the topology, starts a, then b, and waits until they are in sync.
func start(t testing.TB, o options) *pair {
	t.Helper()
	o.PairOptions.Witness = o.witness
	p := &pair{t: t, Pair: rig.New(t, o.rig())}
	p.server = traffic.NewServer(time.Minute, nil)
	t.Cleanup(func() { p.server.Close() })
	for _, h := range p.Servers {
		for _, network := range []string{"tcp4", "tcp6"} {
			ln, err := h.Listen(network, ":80")
			if err != nil {
				t.Fatal(err)
			}
			go p.server.Serve(ln)
		}
	}
	if o.serve != nil {
		o.serve(p)
	}
	if o.witness {
		p.w = p.witness(o)
	}
	p.a = p.appliance(p.A, "a", o)
	if !o.witness {
		p.await("a is active", func() bool { return p.status("a").Role == control.RoleActive })
	}
	if !o.alone {
		p.b = p.appliance(p.B, "b", o)
	}
	switch {
	case o.alone:
	case o.witness:
		p.chooseA()
	default:
		p.AwaitInSync()
	}
	if o.serve != nil { // on a busy machine a first probe may fail all the same
		p.await("every server is healthy", func() bool { return p.healthy("a") })
	}
	return p
}

// healthy tells whether an appliance takes every server for healthy.
func (p *pair) healthy(node string) bool {
	services := p.status(node).Services
	for _, s := range services {
		for _, x := range s.Servers {
			if !x.Healthy {
				return false
			}
		}
	}
	return len(services) > 0
}

// rig turns options into those of the appliances.
func (o options) rig() rig.Options {
	if o.servers == nil {
		o.servers = []string{"10.20.0.11:80", "[fd20::11]:80"}
	}
	if o.listen == nil {
		o.listen = []string{port4, port6}
	}
	o.PairOptions.Witness = o.witness
	web := service("web", o.listen, o.servers)
	web.Source = cmp.Or(o.source, config.SourceClient)
	web.Path = cmp.Or(o.path, web.Path)
	return rig.Options{PairOptions: o.PairOptions, Tune: o.tune, Clocks: o.clocks, Services: append([]config.Service{web}, o.extra...)}
}

// service is one with the product's defaults, but for what set changes.
func service(name string, listen, servers []string, set ...func(*config.Service)) config.Service {
	s := rig.Service(name, listen, servers)
	for _, f := range set {
		f(&s)
	}
	return s
}

// times of the pair, instead of generous ones.
func times(heartbeat, failure time.Duration) func(*config.Config) {
	return func(c *config.Config) { c.Pair.Heartbeat, c.Pair.FailureTimeout = heartbeat, failure }
}

func (p *pair) appliance(_ *lab.Host, node string, o options) *lab.Proc {
	p.t.Helper()
	return p.Appliance(node, o.rig())
}

func (p *pair) witness(o options) *lab.Proc {
	p.t.Helper()
	return p.Witness(o.rig())
}

func (p *pair) socket(node string) string         { return p.Socket(node) }
func (p *pair) status(node string) control.Status { return p.Status(node) }
func (p *pair) await(what string, ok func() bool) { p.t.Helper(); p.Await(what, ok) }

func (p *pair) client(addr string) *traffic.Client {
	return &traffic.Client{
		Patience: cmp.Or(p.patience, 30*time.Second),
		Dial: func(ctx context.Context) (net.Conn, error) {
			return p.Client.DialContext(ctx, "tcp", addr)
		},
	}
}

// run starts requests and returns a function that waits for their end and fails
// the test unless all are intact.
func (p *pair) run(c *traffic.Client, reqs ...traffic.Request) (wait func() traffic.Summary) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	done := make(chan []traffic.Result, 1)
	go func() { done <- c.Run(ctx, reqs...) }()
	return func() traffic.Summary {
		p.t.Helper()
		res := <-done
		cancel()
		sum := traffic.Summarize(res...)
		if !sum.Intact || sum.Lost > 0 {
			p.t.Errorf("%d of %d connections lost: %s", sum.Lost, sum.Connections, strings.Join(sum.Errors, "; "))
		}
		return sum
	}
}

// kill ends an appliance as a power cut of the process does.
func (p *pair) kill(proc *lab.Proc) { p.t.Helper(); p.Kill(proc) }

// inspect runs a tool of the system in a host, to look at what is there.
func (p *pair) inspect(h *lab.Host, name string, args ...string) (string, error) {
	proc, err := h.Start(lab.Command{Name: name, Path: name, Args: args})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = proc.Wait(ctx)
	return proc.Output(), err
}

func countLines(text, containing string) (n int) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, containing) {
			n++
		}
	}
	return n
}
