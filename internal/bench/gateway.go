package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

// gateway is what lies between client and server in a bed.
type gateway interface {
	// start returns when clients can connect through it.
	start(ctx context.Context, b *bed) error
	// processes that do its work, for CPU and memory: the active first. None for the kernel.
	processes() []*lab.Proc
	// check tells whether it is still as start left it.
	check(ctx context.Context) error
	// close frees what belongs to this process; the lab ends the gateway's.
	close()
}

func newGateway(k kind, o bedOptions) gateway {
	switch k {
	case haproxy:
		return &haproxyGateway{}
	case ioCopy:
		return &copyGateway{}
	case alone:
		return &applianceGateway{self: o.self, path: config.Path(o.path), alone: true, protection: config.Protection(o.protection)}
	case paired:
		return &applianceGateway{self: o.self, path: config.Path(o.path), setting: o.setting, kept: o.kept, crowd: o.crowd, protection: config.Protection(o.protection)}
	case keepHAProxy, keepConntrackd:
		return &rivalGateway{interval: o.setting.advert, haproxy: k == keepHAProxy}
	default:
		return forwardGateway{}
	}
}

// forwardGateway is the kernel of a, as a router.
type forwardGateway struct{}

func (forwardGateway) start(_ context.Context, b *bed) error { return b.StandIn(b.A) }
func (forwardGateway) processes() []*lab.Proc                { return nil }
func (forwardGateway) check(context.Context) error           { return nil }
func (forwardGateway) close()                                {}

// errNotInstalled is the note in the table where a gateway cannot be measured.
var errNotInstalled = errors.New("not installed")

// haproxyGateway is HAProxy in TCP mode as it comes: one process, a thread per CPU.
type haproxyGateway struct{ proc *lab.Proc }

const haproxyConfig = `global
  maxconn %d
defaults
  mode tcp
  maxconn %d
  timeout connect 5s
  timeout client 10m
  timeout server 10m
`

// haproxyMaxConn is what fits into the usual limit of descriptors, two per connection.
const haproxyMaxConn = 4000

func haproxyConfiguration(b *bed) string {
	var conf strings.Builder
	fmt.Fprintf(&conf, haproxyConfig, haproxyMaxConn, haproxyMaxConn)
	for _, port := range []int{checkedPort, leanPort} {
		fmt.Fprintf(&conf, "listen l%d\n  bind %s\n  server s1 %s\n", port,
			net.JoinHostPort(lab.VIP4, strconv.Itoa(port)), b.ServerAddr(0, false, uint16(port)))
	}
	return conf.String()
}

func (g *haproxyGateway) start(ctx context.Context, b *bed) error {
	path, err := find("haproxy")
	if err != nil {
		return err
	}
	if err := b.StandIn(b.A); err != nil {
		return err
	}
	file := filepath.Join(b.dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(haproxyConfiguration(b)), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if g.proc, err = b.A.Start(lab.Command{Name: "haproxy", Path: path, Args: []string{"-db", "-f", file}}); err != nil {
		return err
	}
	return b.awaitPort(ctx, g.proc)
}

func (g *haproxyGateway) processes() []*lab.Proc {
	if g.proc == nil {
		return nil
	}
	return []*lab.Proc{g.proc}
}

func (g *haproxyGateway) check(context.Context) error { return running(g.proc) }
func (g *haproxyGateway) close()                      {}

func running(p *lab.Proc) error {
	if !p.Running() {
		return fmt.Errorf("%s ended (%s)", p.Name(), pair.Life(p))
	}
	return nil
}

// awaitPort polls until a connection through a proxy opens, or the proxy ends.
func (b *bed) awaitPort(ctx context.Context, proc *lab.Proc) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		conn, err := b.Client.DialContext(ctx, "tcp", b.target(leanPort))
		if err == nil {
			return conn.Close()
		}
		if !proc.Running() {
			return fmt.Errorf("it ended (%s)", pair.Life(proc))
		}
		if e := lab.Pause(ctx, drainPoll); e != nil {
			return fmt.Errorf("it does not listen: %w", err)
		}
	}
}

// copyGateway is the io.Copy proxy.
type copyGateway struct{ proc *lab.RoleProc }

func (g *copyGateway) start(ctx context.Context, b *bed) (err error) {
	if err := b.StandIn(b.A); err != nil {
		return err
	}
	args := copyArgs{Forward: make(map[string]string)}
	for _, port := range []int{checkedPort, leanPort} {
		args.Forward[net.JoinHostPort(lab.VIP4, strconv.Itoa(port))] = b.ServerAddr(0, false, uint16(port)).String()
	}
	if g.proc, err = b.A.Go(copyRole, args); err != nil {
		return err
	}
	return next(ctx, g.proc, &struct{}{}, readyTimeout)
}

func (g *copyGateway) processes() []*lab.Proc {
	if g.proc == nil {
		return nil
	}
	return []*lab.Proc{g.proc.Proc}
}

func (g *copyGateway) check(context.Context) error { return running(g.proc.Proc) }
func (g *copyGateway) close()                      {}
