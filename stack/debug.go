package stack

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// String describes a leg for logs and tests.
func (l *Leg) String() string {
	if l == nil {
		return "none"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	ep := "-"
	if l.ep != nil {
		ep = tcp.EndpointState(l.ep.State()).String()
	}
	return fmt.Sprintf("%s<-%s state=%d ep=%s rx[nxt=%d acked=%d edge=%d permit=%d open=%v owed=%v] tx[nxt=%d una=%d] confirmed=%v err=%v",
		l.p.Local, l.p.Remote, l.state, ep, l.rxNxt, l.rxAcked, l.rxEdge, l.permit, l.gateOpen, l.owed.set, l.txNxt, l.txUna, l.confirmed, l.err)
}

// Process returns when netstack is done with all segments that it was given before. It takes them on goroutines of its
// own, so that an answer to a later packet, a ping's, does not show that it has. For tests; it is called by one at a time.
func (e *Engine) Process() {
	e.reading.Lock()
	e.gro.Flush()
	e.reading.Unlock()
	e.stack.Pause() // each of them stops when its queue is empty
	e.stack.Resume()
}
