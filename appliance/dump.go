package appliance

import (
	"context"
	"os"
	"os/signal"

	"lockstep/internal/loglimit"
)

// dumpMax bounds what one signal can write into the log.
const dumpMax = 1000

// onSignal does something whenever the process gets a signal, until ctx ends.
func (n *Node) onSignal(ctx context.Context, sig os.Signal, do func()) {
	n.wg.Go(func() {
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, sig)
		defer signal.Stop(ch)
		for {
			select {
			case <-ctx.Done():
				return
			case <-ch:
				do()
			}
		}
	})
}

// dump logs every connection: what support asks for first when one does not move.
func (n *Node) dump() {
	n.relay.Describe(dumpMax, func(state string) {
		n.log.Info("connection", "state", state, loglimit.Unlimited())
	})
}
