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
