package config

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Warning is something about the machine that will stop or hamper the
// appliance although the configuration itself is right.
type Warning struct {
	Path string // the key concerned
	Msg  string
	Hint string
}

// String writes the warning on one line, as FieldError does.
func (w Warning) String() string { return FieldError(w).Error() }

// Check looks at the machine the appliance is to run on: interfaces,
// addresses, the identity's files, the TUN device. It changes nothing.
func Check(c *Config) []Warning {
	var w []Warning
	add := func(path, hint, format string, args ...any) {
		w = append(w, Warning{path, fmt.Sprintf(format, args...), hint})
	}
	for _, n := range []struct{ path, name string }{
		{"networks.front.interface", c.Networks.Front.Interface},
		{"networks.back.interface", c.Networks.Back.Interface},
	} {
		ifc, err := net.InterfaceByName(n.name)
		switch {
		case err != nil:
			add(n.path, "`ip link` lists what there is", "this machine has no interface %q", n.name)
		case ifc.Flags&net.FlagUp == 0:
			add(n.path, "`ip link set "+n.name+" up`", "interface %q is down", n.name)
		}
	}
	if self := c.Self().Addr(); !local(self) {
		add("pair.members."+c.Node, "add it to the interface of the sync network", "this machine does not have the address %v", self)
	}
	if _, _, paired := c.Peer(); !paired {
		add("pair.members", "add the second appliance", "there is no standby: nothing survives this appliance")
	} else {
		checkIdentity(c.Pair.Identity, "pair.identity", add)
	}
	if at, ok := c.Decides(); ok {
		if !local(at.Addr()) {
			add("authority.members."+c.Node, "add it to the interface of the back network", "this machine does not have the address %v", at.Addr())
		}
		checkIdentity(c.Authority.Identity, "authority.identity", add)
	}
	if c.Pair.Witness.IsValid() {
		checkState(c.Pair.State, "pair.state", add)
	}
	checkGateway(c, add)
	checkFirewall(conntrackCount, add)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		add("", "load the module: `modprobe tun`", "no TUN device: %v", err)
	}
	if dir := filepath.Dir(c.Control); !isDir(dir) && !isDir(filepath.Dir(dir)) {
		add("control", "create it, or choose another path", "neither %s nor the directory above it exists", dir)
	}
	return w
}

// conntrackCount says how many connections this network namespace's firewall tracks; it
// is there once the kernel can.
const conntrackCount = "/proc/sys/net/netfilter/nf_conntrack_count"

// checkFirewall warns of a stateful firewall: the other appliance's does not know the
// connections that are continued there.
func checkFirewall(path string, add func(path, hint, format string, args ...any)) {
	b, err := os.ReadFile(path)
	if err != nil {
		return
	}
	if n := strings.TrimSpace(string(b)); n != "0" {
		add("", "take them out with notrack, and accept what is untracked: docs/troubleshooting.md",
			"a firewall here tracks connections (%s now): after a takeover the other appliance's does not know them, and may drop those that are passed on, or were idle", n)
	}
}

// checkState looks whether a state directory can be written, or made.
func checkState(dir, path string, add func(path, hint, format string, args ...any)) {
	at := dir
	for !isDir(at) && at != filepath.Dir(at) {
		if _, err := os.Lstat(at); err == nil {
			add(path, "move it away, or choose another directory", "%s is no directory", at)
			return
		}
		at = filepath.Dir(at)
	}
	if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
		add(path, "run as the user who owns it, or choose another directory", "%s cannot be written: %v", at, err)
	}
}

func checkIdentity(dir, path string, add func(path, hint, format string, args ...any)) {
	const hint = "`lockstep keys --help` tells how to make it and where to copy it"
	key := filepath.Join(dir, "node.key")
	info, err := os.Stat(key)
	if err != nil {
		add(path, hint, "no key: %v", err)
		return
	}
	if info.Mode().Perm()&0o077 != 0 {
		add(path, "`chmod 600 "+key+"`", "%s is readable by others", key)
	}
	f, err := os.Open(key)
	if err != nil {
		add(path, "run as the user who owns it", "unreadable: %v", err)
		return
	}
	f.Close()
}

func checkGateway(c *Config, add func(path, hint, format string, args ...any)) {
	for i, s := range c.Services {
		for j, server := range s.Servers {
			inBack := false
			for _, g := range c.Networks.Back.Gateway {
				inBack = inBack || g.Masked().Contains(server.Addr())
			}
			if !inBack {
				add(fmt.Sprintf("services[%d].servers[%d]", i, j), "its way back to the clients must lead through the active appliance",
					"%v is in none of the networks of networks.back.gateway", server.Addr())
			}
		}
	}
}

func local(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // unknown is no reason to warn
	}
	for _, have := range addrs {
		if p, err := netip.ParsePrefix(have.String()); err == nil && (p.Addr() == a || (p.Addr().IsLoopback() && a.IsLoopback())) {
			return true
		}
	}
	return false
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
