// Package notify tells the service manager that started this process how it is, by
// systemd's protocol (sd_notify(3)): that it is ready, that it lives, that it ends.
// Without such a manager (NOTIFY_SOCKET is not set) it does nothing.
//
// It must not know what the process does.
package notify

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// rate is how often the manager is told what `systemctl status` shows, where it does
// not want to hear more often (WatchdogSec=).
const rate = 5 * time.Second

// Notifier tells that the process lives until it is closed.
type Notifier struct {
	quit, joined chan struct{}
	log          *slog.Logger
	failed       atomic.Bool // told once
}

// Ready says that the process is ready, and from then on, three times in each period of the
// manager's watchdog, that it lives. alive is asked each time, for a line of how it is:
// while it does not return the manager hears nothing, and ends the process.
func Ready(log *slog.Logger, alive func() string) *Notifier {
	n := &Notifier{quit: make(chan struct{}), joined: make(chan struct{}), log: log}
	if !n.tell(daemon.SdNotifyReady + "\n" + status(alive())) {
		close(n.joined)
		return n
	}
	every := rate
	switch period, err := daemon.SdWatchdogEnabled(false); {
	case err != nil:
		log.Warn("the service manager's watchdog has a period that cannot be read: it is not served", "err", err)
	case period > 0:
		every = min(every, period/3)
	}
	go n.run(every, alive)
	return n
}

func (n *Notifier) run(every time.Duration, alive func() string) {
	defer close(n.joined)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.tell(daemon.SdNotifyWatchdog + "\n" + status(alive()))
		case <-n.quit:
			return
		}
	}
}

// closeLimit is how long Close waits for an answer that does not come: what hangs must not keep the process from its end.
const closeLimit = 2 * time.Second

// Close says that the process ends.
func (n *Notifier) Close() {
	n.tell(daemon.SdNotifyStopping)
	close(n.quit)
	select {
	case <-n.joined:
	case <-time.After(closeLimit):
		n.log.Warn("whoever asked how this process is has had no answer, and is left", "after", closeLimit)
	}
}

// tell reports whether there is somebody who listens.
func (n *Notifier) tell(state string) bool {
	sent, err := daemon.SdNotify(false, state)
	if err != nil && !n.failed.Swap(true) {
		n.log.Warn("the service manager cannot be told how this process is; it may end it", "err", err)
	}
	return sent || err != nil
}

func status(line string) string { return "STATUS=" + line }
