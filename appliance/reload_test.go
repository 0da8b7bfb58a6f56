package appliance

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/pool"
	"lockstep/appliance/relay"
)

// running is an appliance without packets, and the file that it reads again.
func running(t *testing.T) (n *Node, file *config.Config) {
	make := func() *config.Config {
		c := config.Default()
		c.Node, c.Networks.Front.Interface, c.Networks.Back.Interface = "a", "lo", "lo"
		for _, name := range []string{"web", "mail"} {
			s := config.DefaultService(name)
			s.Servers = []netip.AddrPort{netip.MustParseAddrPort("10.20.0.11:80")}
			c.Services = append(c.Services, s)
		}
		return c
	}
	file = make()
	n = &Node{cfg: make(), log: slog.New(slog.DiscardHandler)}
	n.reloading.now = n.cfg
	n.reloading.file = File{Load: func() (*config.Config, error) { return file, nil }, Level: new(slog.LevelVar)}
	for i := range n.cfg.Services {
		s := &n.cfg.Services[i]
		n.services = append(n.services, &relay.Service{Name: s.Name, Pool: pool.New(poolConfig(s, nil)), Settings: settings(s)})
	}
	n.relay = relay.New(n.services, nil)
	t.Cleanup(n.relay.Close)
	return n, file
}

// What can change does, at once; all else is refused, and then nothing changes.
func TestReload(t *testing.T) {
	n, file := running(t)
	reload := func(dry bool, want string, refused, applied bool) {
		t.Helper()
		r, err := n.Reload(dry)
		var keys []string
		for _, c := range r.Changes {
			keys = append(keys, c.Key)
		}
		if got := strings.Join(keys, " "); err != nil || got != want || r.Refused != refused || r.Applied != applied {
			t.Errorf("%v: %s, refused %t, applied %t; want %s", err, got, r.Refused, r.Applied, want)
		}
	}
	idle := func() time.Duration { return n.services[0].Now().Idle }
	reload(false, "", false, false)
	file.Services[0].Limits.Idle, file.Log.Level = time.Minute, "debug"
	reload(true, "log.level services.web.limits.idle", false, false)
	if idle() != config.DefaultIdle || n.reloading.file.Level.Level() != slog.LevelInfo {
		t.Error("a dry run has changed something")
	}
	file.Services[1].Protection = config.ProtectHot
	reload(false, "log.level services.mail.protection services.web.limits.idle", true, false)
	if idle() != config.DefaultIdle || n.reloading.file.Level.Level() != slog.LevelInfo {
		t.Error("a part of what was refused is changed")
	}
	file.Services[1].Protection = config.ProtectGateway
	reload(false, "log.level services.web.limits.idle", false, true)
	if idle() != time.Minute || n.services[1].Now().Idle != config.DefaultIdle || n.reloading.file.Level.Level() != slog.LevelDebug {
		t.Error("not changed")
	}
	// The limits of all together are what the standby can keep.
	was := *file
	changed := *file
	changed.Services = append([]config.Service{}, file.Services...)
	*file = changed
	file.Services[0].Limits.Connections++
	reload(false, "services.web.limits.connections", true, false)
	file.Services[1].Limits.Connections--
	reload(false, "services.mail.limits.connections services.web.limits.connections", false, true)
	if n.services[0].Now().MaxConns != was.Services[0].Limits.Connections+1 {
		t.Error("the limit is not raised")
	}
	file.Services = file.Services[:1]
	reload(false, "services.mail", true, false)
	n.reloading.file.Load = func() (*config.Config, error) { return nil, errors.New("a misspelt key") }
	if _, err := n.Reload(false); err == nil || n.services[0].Now().MaxConns != was.Services[0].Limits.Connections+1 {
		t.Errorf("a wrong file: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for key, want := range map[string]bool{
		"log.level": false, "log.format": true, "node": true, "services.web": true, "services.web.limits.idle": false,
		"services.web.keepalive.count": false, "services.web.limits.log": true, "services.web.servers": true, "pair.failure_timeout": true,
		"limits.memory": true, "services.web.park_after": false,
	} {
		if got := refusal(key) != ""; got != want {
			t.Errorf("%s: refused %t", key, got)
		}
	}
}
