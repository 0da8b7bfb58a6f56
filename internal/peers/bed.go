package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/pair"
	"lockstep/internal/realservers"
)

// mode is a way in which all services are configured, at a virtual address of its own.
type mode struct {
	name       string
	address    string
	protection config.Protection
	path       config.Path
	servers    []int // of the lab, from 0
}

// Of gateway each path has a server of its own: the two must not disturb each other.
var gatewayModes = []mode{
	{"gateway", lab.VIP4, config.ProtectGateway, config.PathAuto, []int{0}},
	{"netstack", "203.0.113.11", config.ProtectGateway, config.PathNetstack, []int{1}},
}

var keptModes = []mode{
	{"log", lab.VIP4, config.ProtectLog, config.PathAuto, []int{0, 1}},
	{"hot", lab.VIP4, config.ProtectHot, config.PathAuto, []int{0, 1}},
}

const (
	dumpIn          = 300 * time.Millisecond
	serversListenIn = 90 * time.Second // on a busy machine; RabbitMQ takes some ten seconds
	// log and hot have to hold all that a client says.
	logLimit = 128 * config.MiB
	// An appliance that stands still for a while, with some twenty servers beside it, has not died.
	heartbeat, failureTimeout = 100 * time.Millisecond, 3 * time.Second
)

// bed is a pair in front of real servers.
type bed struct {
	dir     string
	scripts string
	lab     *lab.PairLab
	nodes   *pair.Pair
	modes   []mode
	peers   []peer
	daemons map[string]*daemon // by script and host
}

// daemon is a server that runs.
type daemon struct {
	server realservers.Server
	host   *lab.Host
	log    string
	proc   *realservers.Daemon
	killed bool
}

// newBed starts everything. Peers whose server does not start are told of, and left out.
func newBed(ctx context.Context, o options, modes []mode, peers []peer) (b *bed, unfit map[string]error, err error) {
	b = &bed{modes: modes, daemons: map[string]*daemon{}}
	if b.dir, err = os.MkdirTemp("", "peers-"); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			b.close(o)
		}
	}()
	b.scripts = filepath.Join(b.dir, "scripts")
	if err := errors.Join(os.Chmod(b.dir, 0o755), os.CopyFS(b.scripts, scripts)); err != nil { // servers give up root
		return nil, nil, err
	}
	b.scripts = filepath.Join(b.scripts, "scripts")
	if err := os.MkdirAll(filepath.Join(b.dir, "logs"), 0o777); err != nil {
		return nil, nil, err
	}
	b.lab, err = lab.Pair(ctx, lab.PairOptions{Options: lab.Options{LogDir: filepath.Join(b.dir, "logs")}, Servers: 2})
	if err != nil {
		return nil, nil, err
	}
	unfit = b.serve(ctx, peers)
	c := pair.Config("peers", b.services()...)
	c.Pair.Heartbeat, c.Pair.FailureTimeout = heartbeat, failureTimeout
	pair.Reach(c, "10.20.0.11")
	if b.nodes, err = pair.New(b.lab, c, pair.Options{Dir: b.dir, Self: o.self}); err != nil {
		return nil, nil, err
	}
	return b, unfit, b.nodes.Start(ctx)
}

// serve starts the servers of all peers, and keeps those peers that have theirs.
func (b *bed) serve(ctx context.Context, peers []peer) (unfit map[string]error) {
	unfit = map[string]error{}
	for _, p := range peers {
		if err := p.missing(); err != nil {
			unfit[p.Name] = err
			continue
		}
		var failed error
		for i, h := range b.lab.Servers {
			if !b.serves(i) || b.daemons[p.script+h.Name()] != nil {
				continue
			}
			failed = errors.Join(failed, b.start(ctx, p, i, h))
		}
		if failed != nil {
			unfit[p.Name] = failed
			continue
		}
		b.peers = append(b.peers, p)
	}
	return unfit
}

// serves tells whether a mode uses the server's host.
func (b *bed) serves(i int) bool {
	for _, m := range b.modes {
		for _, s := range m.servers {
			if s == i {
				return true
			}
		}
	}
	return false
}

func (b *bed) start(ctx context.Context, p peer, i int, h *lab.Host) error {
	dir := b.serverDir(p, h)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	address := b.modes[0].address
	for _, m := range b.modes {
		if m.servers[0] == i {
			address = m.address
		}
	}
	s, err := p.server(i, b.scripts, dir, address)
	if err != nil {
		return err
	}
	d := &daemon{server: s, host: h, log: filepath.Join(b.dir, "logs", p.script+"-"+h.Name()+".log")}
	if err := d.start(ctx); err != nil {
		return err
	}
	b.daemons[p.script+h.Name()] = d
	return nil
}

func (d *daemon) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, serversListenIn)
	defer cancel()
	proc, err := d.server.Start(ctx, d.host, d.log)
	if err == nil {
		d.proc = proc
	}
	return err
}

// serverDir is where a peer's server has its files.
func (b *bed) serverDir(p peer, h *lab.Host) string {
	return filepath.Join(b.dir, p.script+"-"+h.Name())
}

// services are one for each server and mode, and those of a server's further ports.
func (b *bed) services() (all []config.Service) {
	seen := map[string]bool{}
	for _, p := range b.peers {
		if seen[p.script] {
			continue
		}
		seen[p.script] = true
		for _, m := range b.modes {
			all = append(all, b.service(p, m, p.port, ""))
			for _, s := range m.servers {
				for _, port := range p.more[s] {
					all = append(all, b.service(p, m, port, fmt.Sprintf("-%d", port)))
				}
			}
		}
	}
	return all
}

func (b *bed) service(p peer, m mode, port int, suffix string) config.Service {
	var servers []string
	for _, s := range m.servers {
		servers = append(servers, netip.AddrPortFrom(b.lab.ServerAddr(s, false, 0).Addr(), uint16(port)).String())
	}
	c := pair.Service(p.script+"-"+m.name+suffix, []string{fmt.Sprintf("%s:%d", m.address, port)}, servers)
	c.Protection, c.Path = m.protection, m.path
	if p.http && m.protection != config.ProtectGateway {
		c.Protocol = config.ProtocolHTTP
	}
	c.Health = config.Health{Interval: 2 * time.Second, Timeout: 2 * time.Second, TCP: m.protection != config.ProtectGateway, Canary: true}
	c.Limits.Log = logLimit
	return c
}

// close ends everything. With --out the logs and what servers and clients have left are kept.
func (b *bed) close(o options) {
	if b.nodes != nil {
		b.dump()
		b.nodes.End()
	}
	if b.lab != nil {
		_ = b.lab.Close()
	}
	if o.keep != "" {
		if err := b.keep(filepath.Join(o.keep, filepath.Base(b.dir))); err != nil {
			say("keep %s: %v", b.dir, err)
		}
	}
	_ = os.RemoveAll(b.dir)
}

// dump has both appliances write which connections are left into their logs.
func (b *bed) dump() {
	for _, n := range b.nodes.Appliances() {
		if p := n.Process(); p != nil && p.Running() {
			_ = p.Signal(syscall.SIGUSR1) // for whoever looks later
		}
	}
	time.Sleep(dumpIn)
}

// keep logs, and what clients have left but for sockets.
func (b *bed) keep(to string) error {
	return filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(b.dir, path) // it is below
		top, _, _ := strings.Cut(rel, "/")
		switch {
		case err != nil || rel == ".":
			return err
		case top != "logs" && top != "clients" && d.IsDir():
			return fs.SkipDir
		case top != "logs" && top != "clients":
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, 0o644)
	})
}

// awaitHealthy waits until the active takes every server for healthy.
func (b *bed) awaitHealthy(ctx context.Context) error {
	_, err := pair.Await(ctx, pair.SyncWithin, "every server is healthy", func(said []control.Status) bool {
		for _, s := range said[0].Services {
			for _, x := range s.Servers {
				if !x.Healthy {
					return false
				}
			}
		}
		return true
	}, b.nodes.Active)
	return err
}
