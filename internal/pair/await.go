package pair

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
)

const tailLines = 20 // of a node's log, in messages

// Await asks the appliances until ok holds for what all of them say, and returns that. It gives up
// when one's process ends, when the limit has passed, or ctx ends; what is what is waited for.
func Await(ctx context.Context, limit time.Duration, what string, ok func(said []control.Status) bool, nodes ...*Node) ([]control.Status, error) {
	limit *= time.Duration(nodes[0].Slow)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(nodes[0].Poll)
	defer tick.Stop()
	for {
		var said []control.Status
		var silent error
		for _, n := range nodes {
			s, err := n.Status(ctx)
			said, silent = append(said, s), errors.Join(silent, err)
		}
		if silent == nil && ok(said) {
			return said, nil
		}
		for _, n := range nodes {
			if p := n.Process(); p == nil || !p.Running() {
				return nil, fmt.Errorf("appliance %q ended (%s) while waiting until %s%s", n.Name, Life(p), what, Situation(n))
			}
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("not within %v: %s%s", limit, what, Situation(nodes...)), silent)
		case <-tick.C:
		}
	}
}

// Life is how a process is, in words.
func Life(p *lab.Proc) string {
	switch {
	case p == nil:
		return "not started"
	case p.Running():
		return "running"
	case p.Err() != nil:
		return p.Err().Error()
	default:
		return "exit status 0"
	}
}

// Situation is what the nodes have said last, with the ends of their logs, for messages.
func Situation(nodes ...*Node) string {
	var b strings.Builder
	for _, n := range nodes {
		if s, ok := n.Last(); ok {
			fmt.Fprintf(&b, "\n  %s has said: %s, epoch %d, in sync %v %s, peer connected %v %s, connections %+v, lag %+v, drops %v", n.Name,
				s.Role, s.Epoch, s.InSync, s.WhyNotInSync, s.Peer.Connected, s.Peer.Why, s.Connections, s.Lag, s.Drops)
		} else if n.Client != nil {
			fmt.Fprintf(&b, "\n  %s has not answered on its control socket", n.Name)
		}
		p := n.Process()
		fmt.Fprintf(&b, "\n  %s: its process (%s) has said last:\n", n.Name, Life(p))
		if p != nil {
			b.WriteString(Indent(p.Tail(tailLines)))
		}
	}
	return b.String()
}

// Indent lines of a log.
func Indent(s string) string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return "    (nothing)"
	}
	return "    " + strings.ReplaceAll(s, "\n", "\n    ")
}
