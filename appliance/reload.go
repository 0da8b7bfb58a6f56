package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"lockstep/appliance/carry"
	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/appliance/relay"
	"lockstep/internal/clock"
)

// File is where a running appliance reads its configuration anew.
type File struct {
	Load  func() (*config.Config, error)
	Level *slog.LevelVar // of what is logged
}

// RunFile is Run with a file that may change: SIGHUP and `lockstep reload` have it read again.
func RunFile(ctx context.Context, cfg *config.Config, file File, log *slog.Logger) error {
	return start(ctx, cfg, file, clock.System{}, log)
}

// reloading is what holds of the configuration now. Node.cfg stays what the process was started with.
type reloading struct {
	mu   sync.Mutex
	file File
	now  *config.Config
}

// elsewhere is what to do instead.
const elsewhere = "cannot change while the process runs: restart the standby with the new file, see in `lockstep status` on the active what a takeover would lose by the difference, `lockstep switchover`, restart the other"

// whileRunning are a service's keys that can change.
var whileRunning = []string{"limits.connections", "limits.idle", "keepalive.idle", "keepalive.interval", "keepalive.count", "park_after"}

// refusal says why a change is not made; empty: it can be.
func refusal(key string) string {
	if key == "log.level" {
		return ""
	}
	if rest, of := strings.CutPrefix(key, "services."); of {
		if _, within, _ := strings.Cut(rest, "."); slices.Contains(whileRunning, within) {
			return ""
		}
	}
	return elsewhere
}

// judge is the difference of two configurations, and what of it a process that was started with a third can make.
func judge(now, to, started *config.Config) (control.Reloaded, error) {
	var r control.Reloaded
	diff, err := config.Diff(now, to)
	if err != nil {
		return r, err
	}
	most, all := connections(started), connections(to)
	for _, d := range diff {
		why := refusal(d.Key)
		if why == "" && all > most && strings.HasSuffix(d.Key, ".limits.connections") {
			why = fmt.Sprintf("the limits of all services come to %d connections, and the process was started for %d, which the standby can keep: raise one by what another gives up, or restart as for other keys", all, most)
		}
		r.Changes = append(r.Changes, control.Change{Key: d.Key, From: d.From, To: d.To, Refused: why})
		r.Refused = r.Refused || why != ""
	}
	return r, nil
}

// Reload implements control.Provider: the file is read and checked, and either all of its changes are made or none.
func (n *Node) Reload(dry bool) (control.Reloaded, error) {
	n.reloading.mu.Lock()
	defer n.reloading.mu.Unlock()
	if n.reloading.file.Load == nil {
		return control.Reloaded{}, errors.New("this appliance was not started from a file")
	}
	to, err := n.reloading.file.Load()
	if err != nil {
		return control.Reloaded{}, err
	}
	if to, err = RealNames(to); err != nil {
		return control.Reloaded{}, err
	}
	r, err := judge(n.reloading.now, to, n.cfg)
	if err != nil || r.Refused || dry || len(r.Changes) == 0 {
		return r, err
	}
	n.apply(to)
	r.Applied = true
	for _, c := range r.Changes {
		n.log.Info("configuration changed", "key", c.Key, "from", c.From, "to", c.To)
	}
	return r, nil
}

// apply makes to's changes, which judge has let through. n.reloading.mu is held.
func (n *Node) apply(to *config.Config) {
	for _, s := range n.services {
		// The order of services in the file means nothing.
		named := func(c config.Service) bool { return c.Name == s.Name }
		was := settings(&n.reloading.now.Services[slices.IndexFunc(n.reloading.now.Services, named)])
		if is := settings(&to.Services[slices.IndexFunc(to.Services, named)]); was != is {
			n.relay.Change(s, is)
		}
	}
	if n.reloading.file.Level != nil {
		// Validation has let through only names that slog knows.
		var level slog.Level
		_ = level.UnmarshalText([]byte(to.Log.Level))
		n.reloading.file.Level.Set(level)
	}
	n.reloading.now = to
}

func settings(c *config.Service) relay.Settings {
	return relay.Settings{MaxConns: c.Limits.Connections, Idle: c.Limits.Idle, Keepalive: carry.Keepalive(c.Keepalive), Park: c.ParkAfter}
}

// reloadAsTold does what `lockstep reload` does; what is refused is in the log.
func (n *Node) reloadAsTold() {
	r, err := n.Reload(false)
	switch {
	case err != nil:
		n.log.Error("the configuration was not read again, nothing is changed", "err", err)
	case r.Refused:
		for _, c := range r.Changes {
			if c.Refused != "" {
				n.log.Error("the new configuration is refused as a whole, nothing is changed", "key", c.Key, "from", c.From, "to", c.To, "why", c.Refused)
			}
		}
	case len(r.Changes) == 0:
		n.log.Info("the configuration was read again: nothing in it is new")
	}
}
