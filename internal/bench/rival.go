package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"lockstep/internal/lab"
)

// What users would put in front of their servers today: keepalived moves the
// addresses; behind it either HAProxy ends the connections, or the kernel routes them
// and conntrackd tells the other host of them.

// find looks where Debian puts daemons, too: /usr/sbin is not in an ordinary user's
// PATH.
func find(program string) (string, error) {
	for _, dir := range []string{"", "/usr/sbin/", "/usr/local/sbin/"} {
		if path, err := exec.LookPath(dir + program); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", program, errNotInstalled)
}

// rivalGateway is a pair under keepalived.
type rivalGateway struct {
	interval time.Duration // of VRRP's advertisements
	haproxy  bool          // else conntrackd
	hosts    [2]*lab.Host
	procs    []*lab.Proc
}

func (g *rivalGateway) start(ctx context.Context, b *bed) error {
	beside := "conntrackd"
	if g.haproxy {
		beside = "haproxy"
	}
	var paths [2]string
	for i, program := range []string{"keepalived", beside} {
		var err error
		if paths[i], err = find(program); err != nil {
			return err
		}
	}
	g.hosts = [2]*lab.Host{b.A, b.B}
	for i, h := range g.hosts {
		dir := filepath.Join(b.dir, h.Name())
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("create directory: %w", err)
		}
		start := g.startConntrackd
		if g.haproxy {
			start = g.startHAProxy
		}
		if err := start(b, i, dir, paths[1]); err != nil {
			return err
		}
		conf := filepath.Join(dir, "keepalived.conf")
		if err := os.WriteFile(conf, []byte(keepalivedConfig(i, g.interval)), 0o600); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
		if err := g.run(h, dir, lab.Command{Name: "keepalived", Path: paths[0], Args: []string{
			"--dont-fork", "--log-console", "--dont-respawn", "--vrrp", "--use-file", conf,
			"--pid", filepath.Join(dir, "keepalived.pid"), "--vrrp_pid", filepath.Join(dir, "vrrp.pid"),
		}}); err != nil {
			return err
		}
		// The first is to be the active by the time the second begins.
		if err := g.await(ctx, g.holder); err != nil {
			return err
		}
	}
	if !g.haproxy {
		if err := b.Client.Route(lab.BackNet4, lab.VIP4); err != nil {
			return err
		}
	}
	if err := g.await(ctx, g.standsBy); err != nil {
		return err
	}
	// The second hears the first, or it would have taken the addresses by now.
	if err := lab.Pause(ctx, 5*g.interval); err != nil {
		return err
	}
	if err := g.await(ctx, g.holder); err != nil {
		return err
	}
	return b.awaitPort(ctx, g.procs[0])
}

func (g *rivalGateway) run(h *lab.Host, dir string, c lab.Command) error {
	c.Dir = dir
	p, err := h.Start(c)
	if err != nil {
		return err
	}
	g.procs = append(g.procs, p)
	return nil
}

// keepalivedConfig of the first host, which begins as the active, or the second.
// The front's and the back's address move together. Version 3 of VRRP has intervals
// below a second, in hundredths.
func keepalivedConfig(i int, interval time.Duration) string {
	state, priority := "MASTER", 150
	if i > 0 {
		state, priority = "BACKUP", 100
	}
	var c strings.Builder
	fmt.Fprintf(&c, "global_defs {\n  router_id r%d\n  vrrp_version 3\n}\nvrrp_sync_group both {\n  group {\n    front\n    back\n  }\n}\n", i)
	for n, v := range []struct{ name, ifname, addr string }{
		{"front", lab.FrontIf, lab.VIP4 + "/24"}, {"back", lab.BackIf, lab.BackGateway4 + "/24"},
	} {
		fmt.Fprintf(&c, `vrrp_instance %s {
  state %s
  interface %s
  virtual_router_id %d
  priority %d
  advert_int %.2f
  virtual_ipaddress {
    %s
  }
}
`, v.name, state, v.ifname, 51+n, priority, interval.Seconds(), v.addr)
	}
	return c.String()
}

func (g *rivalGateway) startHAProxy(b *bed, i int, dir, path string) error {
	h := g.hosts[i]
	if err := h.Sysctl("net.ipv4.ip_nonlocal_bind", "1"); err != nil { // the standby listens, too
		return err
	}
	conf := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(conf, []byte(haproxyConfiguration(b)), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return g.run(h, dir, lab.Command{Name: "haproxy", Path: path, Args: []string{"-db", "-f", conf}})
}

// conntrackdConfig tells the peer's kernel of every connection at once (no external
// cache), reliably (FTFW), over the sync network.
const conntrackdConfig = `Sync {
  Mode FTFW {
    DisableExternalCache yes
  }
  UDP {
    IPv4_address 10.30.0.%[1]d
    IPv4_Destination_Address 10.30.0.%[2]d
    Port 3780
    Interface %[3]s
    Checksum on
  }
}
General {
  HashSize 32768
  HashLimit 131072
  Syslog no
  LockFile %[4]s/conntrackd.lock
  UNIX {
    Path %[4]s/conntrackd.ctl
  }
  NetlinkBufferSize 2097152
  NetlinkBufferSizeMaxGrowth 8388608
  Filter From Kernelspace {
    Protocol Accept {
      TCP
    }
  }
}
`

// stateful lets nothing pass that does not belong to a connection known to conntrack;
// it is what makes conntrackd needed. Without nft the kernel just routes, which is no
// slower.
const stateful = `table ip pair {
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    tcp flags & (syn | ack) == syn ct state new accept
  }
}
`

func (g *rivalGateway) startConntrackd(_ *bed, i int, dir, path string) error {
	h := g.hosts[i]
	if err := h.Forward(); err != nil {
		return err
	}
	if nft, err := find("nft"); err == nil {
		p, err := h.Start(lab.Command{Name: "nft", Path: nft, Args: []string{"-f", "-"}, Stdin: strings.NewReader(stateful)})
		if err != nil {
			return err
		}
		if <-p.Done(); p.Err() != nil {
			return fmt.Errorf("nft: %w: %s", p.Err(), p.Tail(3))
		}
		// Connections that are picked up are those the other host has told of.
		if err := h.Sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1"); err != nil {
			return err
		}
	}
	conf := filepath.Join(dir, "conntrackd.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, conntrackdConfig, i+1, 2-i, lab.SyncIf, dir), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return g.run(h, dir, lab.Command{Name: "conntrackd", Path: path, Args: []string{"-C", conf}})
}

// holder is an error unless the first host has both addresses and the second none.
func (g *rivalGateway) holder() error {
	for i, h := range g.hosts {
		if h == nil {
			continue
		}
		for _, v := range [][2]string{{lab.FrontIf, lab.VIP4}, {lab.BackIf, lab.BackGateway4}} {
			has, err := holds(h, v[0], v[1])
			if err != nil {
				return err
			}
			if want := i == 0; has != want {
				return fmt.Errorf("%s on %s: %v, expected %v", v[1], h.Name(), has, want)
			}
		}
	}
	return nil
}

// standsBy is an error until the second host's keepalived says that it is the backup of both
// networks; before that it does not listen.
func (g *rivalGateway) standsBy() error {
	p := g.procs[len(g.procs)-1]
	if n := strings.Count(p.Output(), "Entering BACKUP STATE"); n < 2 {
		return fmt.Errorf("keepalived on %s is the backup of %d networks yet", p.Host().Name(), n)
	}
	return nil
}

func holds(h *lab.Host, ifname, addr string) (bool, error) {
	nl := h.Netlink()
	link, err := nl.LinkByName(ifname)
	if err != nil {
		return false, fmt.Errorf("find interface %q of %q: %w", ifname, h.Name(), err)
	}
	all, err := nl.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return false, fmt.Errorf("list addresses of %q on %q: %w", h.Name(), ifname, err)
	}
	for _, a := range all {
		if a.IP.Equal(net.ParseIP(addr)) {
			return true, nil
		}
	}
	return false, nil
}

// await polls until cond has nothing to complain of.
func (g *rivalGateway) await(ctx context.Context, cond func() error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := cond()
		if err == nil {
			return nil
		}
		for _, p := range g.procs {
			if e := running(p); e != nil {
				return e
			}
		}
		if e := lab.Pause(ctx, statusPoll); e != nil {
			return errors.Join(fmt.Errorf("not within %v", readyTimeout), err)
		}
	}
}

func (g *rivalGateway) processes() []*lab.Proc { return g.procs }

// check tells whether nothing has flapped: roles are as start left them.
func (g *rivalGateway) check(context.Context) error {
	for _, p := range g.procs {
		if err := running(p); err != nil {
			return err
		}
	}
	if err := g.holder(); err != nil {
		return fmt.Errorf("the pair changed by itself: %w", err)
	}
	return nil
}

// close ends keepalived in order: killed, it would leave its child and its addresses.
func (g *rivalGateway) close() {
	for _, p := range g.procs {
		if p.Running() {
			_ = p.Terminate(endGrace) // the lab kills what does not end
		}
	}
}
