package services

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/e2e/rig"
	"lockstep/internal/lab"
	"lockstep/internal/realservers"
)

// bed is a pair of appliances, two servers' hosts and the client's host.
type bed struct {
	*rig.Pair
	t       *testing.T
	a, b    *lab.Proc // appliances; a is active at first
	daemons []*daemon
	keys    string // directory of the keys that wrapped servers and the appliances know each other by
}

// service is one entry of the appliances' configuration.
type service struct {
	name       string
	port       int // on the virtual address
	to         int // on the servers
	protection config.Protection
	http       bool   // the protocol adapter; false: raw
	only       string // the server's address; empty: both
	unprobed   bool
	set        func(*config.Service) // whatever else; nil: nothing
}

func (s service) config() config.Service {
	servers := []string{"10.20.0.11", "10.20.0.12"}
	if s.only != "" {
		servers = []string{s.only}
	}
	for i, a := range servers {
		servers[i] = fmt.Sprintf("%s:%d", a, s.to)
	}
	c := rig.Service(s.name, []string{fmt.Sprintf("%s:%d", lab.VIP4, s.port)}, servers)
	c.Protection = cmp.Or(s.protection, config.ProtectGateway)
	if s.http {
		c.Protocol = config.ProtocolHTTP
	}
	c.Health = config.Health{Interval: 2 * time.Second, Timeout: 2 * time.Second, TCP: !s.unprobed, Canary: true}
	c.Limits.Log = 64 * config.MiB
	if s.set != nil {
		s.set(&c)
	}
	return c
}

// options of the appliances for services.
func options(services []service) rig.Options {
	// A killed process is noticed by the end of its session, whatever the time-out. With a real
	// server or two beside it an appliance may stand still for a while.
	o := rig.Options{Tune: func(c *config.Config) { c.Pair.Heartbeat, c.Pair.FailureTimeout = 100*time.Millisecond, 3*time.Second }}
	for _, s := range services {
		o.Services = append(o.Services, s.config())
	}
	return o
}

// lay makes the bed with its appliances in sync. setup starts the servers before them.
func lay(t *testing.T, services []service, setup func(b *bed)) *bed {
	t.Helper()
	b := prepare(t, options(services))
	setup(b)
	b.appliances(options(services))
	b.awaitHealthy("a") // s1 is to be the one that serves
	return b
}

// prepare makes the bed. Nothing runs.
func prepare(t *testing.T, o rig.Options) *bed {
	t.Helper()
	p := rig.New(t, o)
	b := &bed{Pair: p, t: t}
	// The servers give up root.
	for _, dir := range []string{p.Dir, filepath.Dir(p.Dir)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.names()
	return b
}

// appliances starts both; a is the active one.
func (b *bed) appliances(o rig.Options) {
	b.t.Helper()
	b.a = b.Appliance("a", o)
	b.Await("a is active", func() bool { return b.Status("a").Role == control.RoleActive })
	b.b = b.Appliance("b", o)
	b.AwaitInSync()
}

// names lets every host know its own name: Samba asks for it whenever a client comes, and there is
// no name server in the lab that could answer. The mount is seen by the host's processes only.
func (b *bed) names() {
	b.t.Helper()
	path := filepath.Join(b.Dir, "hosts")
	b.write(path, "127.0.0.1 localhost client s1 s2\n", 0o644)
	for _, h := range append([]*lab.Host{b.Client}, b.Servers...) {
		p, err := h.Start(lab.Command{Path: "mount", Args: []string{"--bind", path, "/etc/hosts"}})
		if err != nil {
			b.t.Fatal(err)
		}
		<-p.Done()
		if p.Err() != nil {
			b.t.Fatalf("mount on %s: %v\n%s", h.Name(), p.Err(), p.Tail(3))
		}
	}
}

// dir makes a directory below the test's own.
func (b *bed) dir(parts ...string) string {
	b.t.Helper()
	dir := filepath.Join(append([]string{b.Dir}, parts...)...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	return dir
}

// write puts text into a file.
func (b *bed) write(path, text string, mode os.FileMode) {
	b.t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		b.t.Fatal(err)
	}
}

// daemon is a server with all its processes.
type daemon struct {
	b      *bed
	host   *lab.Host
	server realservers.Server
	log    string
	proc   *realservers.Daemon
	left   string // glob of what a killed one leaves behind and the next one trips over
}

// daemon starts a server on the i-th server's host, and waits until it listens. www is what it
// serves, dir where its own files are.
func (b *bed) daemon(i int, setup func(www, dir string) (realservers.Server, error), www, dir string) *daemon {
	b.t.Helper()
	server, err := setup(www, dir)
	if err != nil {
		b.t.Fatal(err)
	}
	d := &daemon{b: b, host: b.Servers[i], server: server, log: filepath.Join(b.Dir, fmt.Sprintf("%s-s%d.log", server.Program, i+1))}
	b.daemons = append(b.daemons, d)
	d.start()
	b.t.Cleanup(func() {
		if b.t.Failed() {
			b.t.Logf("--- %s on s%d:\n%s", server.Program, i+1, d.proc.Tail(20))
		}
	})
	return d
}

func (d *daemon) start() {
	d.b.t.Helper()
	left, _ := filepath.Glob(d.left)
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			d.b.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	proc, err := d.server.Start(ctx, d.host, d.log)
	if err != nil {
		d.b.t.Fatal(err)
	}
	d.proc = proc
}

// kill ends all processes of the server at once (SIGKILL).
func (d *daemon) kill() {
	d.b.t.Helper()
	if err := d.proc.Kill(); err != nil {
		d.b.t.Fatal(err)
	}
}

// environ is the environment of client programs: no settings of whoever runs the test, neither
// proxies nor start-up files.
func (b *bed) environ() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir("home"), "LC_ALL=C"}
}

// awaitHealthy waits until an appliance takes every server for healthy.
func (b *bed) awaitHealthy(node string) {
	b.t.Helper()
	b.Await("every server is healthy", func() bool {
		services := b.Status(node).Services
		for _, s := range services {
			for _, x := range s.Servers {
				if !x.Healthy {
					return false
				}
			}
		}
		return len(services) > 0
	})
}

// sound checks that no connection of a service was given up, for whatever reason.
func (b *bed) sound(node string, s service) control.Kept {
	b.t.Helper()
	k := b.Kept(node, s.name)
	b.t.Logf("%s on %s: %+v", s.name, node, k)
	if k.Divergences > 0 || k.Unverified > 0 || k.GivenUp > 0 || k.LogFull > 0 {
		b.t.Errorf("%s on %s has lost connections or their protection", s.name, node)
	}
	return k
}
