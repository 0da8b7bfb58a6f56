package storm

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"lockstep/internal/lab"
)

// learnWithin is how long hosts may have a wrong neighbour entry after a fault's end.
const learnWithin = 3 * time.Second

// astray demands that clients and servers send to the active: that their neighbour entries have its
// address. An entry that leads to the other appliance costs a connection half a minute, and no
// connection that happens to move otherwise tells of it.
func (s *storm) astray(ctx context.Context) error {
	if s.opts.quick {
		return nil
	}
	for deadline := time.Now().Add(learnWithin); ; {
		wrong, err := s.wrongNeighbours()
		if err != nil || wrong == "" {
			return err
		}
		if !time.Now().Before(deadline) {
			s.find(finding{Kind: findAstray, Detail: wrong})
			return nil
		}
		if lab.Pause(ctx, pollEvery) != nil {
			return nil
		}
		// Somebody else may have become active meanwhile, on a busy machine.
		if why := s.ready(ctx); why != "" {
			return nil // the next look at the pair tells
		}
	}
}

func (s *storm) wrongNeighbours() (string, error) {
	var wrong []string
	for _, e := range []struct {
		host  *lab.Host
		addrs []string
		net   string
	}{
		{s.pair.Client, []string{lab.VIP4, lab.VIP6}, "front"},
		{s.pair.Servers[0], []string{lab.BackGateway4, lab.BackGateway6}, "back"},
	} {
		want, err := s.port(onActive, e.net).MAC()
		if err != nil {
			return "", err
		}
		for _, a := range e.addrs {
			mac, usable, err := e.host.Neighbour(netip.MustParseAddr(a))
			if err != nil {
				return "", err
			}
			if usable && mac != want {
				wrong = append(wrong, fmt.Sprintf("%s has %s for %s, but the active %s has %s", e.host.Name(), mac, a, s.nodes.Active.Name, want))
			}
		}
	}
	return strings.Join(wrong, "; "), nil
}
