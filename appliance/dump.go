package appliance

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"lockstep/internal/loglimit"
)

// dumpMax bounds what one signal can write into the log.
const dumpMax = 1000

// dumpOnSignal logs every connection when the process gets SIGUSR1: what support
// asks for first when a connection does not move.
func (n *Node) dumpOnSignal(ctx context.Context) {
	defer n.wg.Done()
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGUSR1)
	defer signal.Stop(ch)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ch:
			n.relay.Describe(dumpMax, func(state string) {
				n.log.Info("connection", "state", state, loglimit.Unlimited())
			})
		}
	}
}
