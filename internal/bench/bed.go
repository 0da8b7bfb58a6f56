package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
	"lockstep/internal/pair"
)

// Time limits of things that take milliseconds on a quiet machine.
const (
	readyTimeout = 30 * time.Second
	replyTimeout = 15 * time.Second
	drainTimeout = 5 * time.Second
	// keptDrainTimeout of beds with two servers: the slower one may still be busy with a
	// connection for ten seconds after its end.
	keptDrainTimeout = 20 * time.Second
	drainPoll        = 5 * time.Millisecond
)

// bed is a lab with one gateway, a server behind it (two where connections outlive one) and a
// client in front of it.
type bed struct {
	*lab.PairLab
	kind    kind
	gateway gateway
	servers []*lab.RoleProc
	client  *lab.RoleProc
	dir     string
}

// bedOptions are what all beds of a bench share.
type bedOptions struct {
	self       string // program to run as an appliance
	dir        string // for configurations, sockets, keys
	keepLogs   string // directory; empty: none
	congestion string // empty: the kernel's default
	path       string // of every service; empty: the product's default
	protection string // the same
	// setting of a pair that is to be cut; zero: see failureTimeout.
	setting setting
	// kept adds a second server, and services whose connections outlive one.
	kept bool
	// crowd, unless it is 0, is how many connections a service for very many has room for.
	crowd int
}

// protected: connections of every service outlive a server.
func (o *bedOptions) protected() bool {
	return o.protection != "" && config.Protection(o.protection) != config.ProtectGateway
}

// newBed builds the lab and brings everything in it up.
func newBed(ctx context.Context, k kind, m mode, o bedOptions) (b *bed, err error) {
	dir, err := os.MkdirTemp(o.dir, string(k)+"-")
	if err != nil {
		return nil, fmt.Errorf("create directory: %w", err)
	}
	links := lab.NetOptions{Kind: lab.Kernel, Offload: m == offloadOn}
	var logs string
	if o.keepLogs != "" {
		logs = filepath.Join(o.keepLogs, string(k)+"-"+string(m))
	}
	servers := 1
	if o.kept || o.protected() {
		servers = 2
	}
	// The lab outlives ctx: appliances get the chance to end in order.
	l, err := lab.Pair(context.WithoutCancel(ctx), lab.PairOptions{
		Front: links, Back: links, Sync: links, Servers: servers, Witness: k == paired, Options: lab.Options{LogDir: logs},
	})
	if err != nil {
		return nil, err
	}
	b = &bed{PairLab: l, kind: k, dir: dir}
	if err := b.populate(ctx, o); err != nil {
		logs := b.logs()
		return nil, errors.Join(fmt.Errorf("%w%s", err, logs), b.close())
	}
	return b, nil
}

// populate starts everything that runs in the lab.
func (b *bed) populate(ctx context.Context, o bedOptions) (err error) {
	if err := b.tune(o.congestion); err != nil {
		return err
	}
	b.servers = make([]*lab.RoleProc, len(b.Servers))
	for i := range b.servers {
		if err := b.startServer(ctx, i); err != nil {
			return err
		}
	}
	b.gateway = newGateway(b.kind, o)
	if err := b.gateway.start(ctx, b); err != nil {
		return fmt.Errorf("start %s: %w", b.kind.title(), err)
	}
	if b.client, err = b.Client.Go(loadRole, loadArgs{Addr: b.target(leanPort)}); err != nil {
		return err
	}
	return nil
}

// startServer gives a server a process, and returns when that listens.
func (b *bed) startServer(ctx context.Context, i int) (err error) {
	if b.servers[i], err = b.Servers[i].Go(serverRole, struct{}{}); err != nil {
		return err
	}
	return next(ctx, b.servers[i], &mark{}, readyTimeout)
}

// tune lets hosts open connections by the ten thousand: many ports, and ports of finished
// connections again after a second.
func (b *bed) tune(congestion string) error {
	for _, h := range append([]*lab.Host{b.Client, b.A, b.B}, b.Servers...) {
		for _, kv := range [][2]string{
			{"net.ipv4.ip_local_port_range", "10000 65000"},
			{"net.ipv4.tcp_tw_reuse", "1"},
			{"net.ipv4.tcp_congestion_control", congestion},
		} {
			if kv[1] == "" {
				continue
			}
			if err := h.Sysctl(kv[0], kv[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// target is what clients dial for one of the two services.
func (b *bed) target(port int) string {
	addr := lab.VIP4
	if b.kind == forwarding || b.kind == keepConntrackd { // routed, nothing is terminated
		addr = b.ServerAddr(0, false, 0).Addr().String()
	}
	return net.JoinHostPort(addr, strconv.Itoa(port))
}

func (b *bed) close() error {
	if b.gateway != nil {
		b.gateway.close()
	}
	return errors.Join(b.PairLab.Close(), os.RemoveAll(b.dir))
}

// logs is the end of what the gateway's processes said, for error messages.
func (b *bed) logs() (s string) {
	if b.gateway == nil {
		return ""
	}
	for _, p := range b.gateway.processes() {
		s += fmt.Sprintf("\n--- %s on %s (%s):\n%s", p.Name(), p.Host().Name(), pair.Life(p), p.Tail(12))
	}
	if g, ok := b.gateway.(*applianceGateway); ok {
		s += g.situation()
	}
	return s
}

// next event of a role within a limit.
func next(ctx context.Context, r *lab.RoleProc, v any, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return r.Next(ctx, v)
}

// ask sends an order to a role and returns the mark it answers with.
func ask(ctx context.Context, r *lab.RoleProc, o order, limit time.Duration) (m mark, err error) {
	if err := r.Send(o); err != nil {
		return m, err
	}
	return m, next(ctx, r, &m, limit)
}

// drained waits until the servers have no connection any more, so that nothing is left of the last
// measurement when the next begins.
func (b *bed) drained(ctx context.Context) error {
	limit := drainTimeout
	if len(b.servers) > 1 {
		limit = keptDrainTimeout
	}
	deadline := time.Now().Add(limit)
	for {
		var open int64
		for _, s := range b.servers {
			m, err := ask(ctx, s, order{Do: doMark}, replyTimeout)
			if err != nil {
				return err
			}
			open += m.Open
		}
		if open == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d connections are still open at the server %v after their client closed them", open, limit)
		}
		if err := lab.Pause(ctx, drainPoll); err != nil {
			return err
		}
	}
}

// checkedClient starts a traffic client as a process of its own.
func (b *bed) checkedClient(args traffic.ClientArgs) (*lab.RoleProc, error) {
	if args.Addr == "" {
		args.Addr = b.target(checkedPort)
	}
	return b.Client.Go(traffic.ClientRole, args)
}
