package appliance

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"lockstep/appliance/config"
	"lockstep/replication/wire"
)

// The two appliances have a configuration each, edited by people. What decides whether
// one can continue the other's connections is compared when a session begins: each
// tells the other hashes of it, service by service.

// aspects are the parts of a service's configuration that are compared, in the order in
// which their hashes travel. New ones are added at the end: a peer that does not know
// of them leaves them out.
var aspects = []struct {
	name string
	of   func(*config.Config, *config.Service) []string
	// harmless: it costs no connection at a takeover, but what begins is served as the active's says.
	harmless bool
}{
	{"listen addresses", func(_ *config.Config, s *config.Service) []string { return sorted(s.Listen) }, false},
	{"servers", func(_ *config.Config, s *config.Service) []string { return sorted(s.Servers) }, false},
	{"protection or protocol", func(_ *config.Config, s *config.Service) []string {
		return []string{string(s.Protection), string(s.Protocol)}
	}, false},
	{"source, or floating gateway", func(c *config.Config, s *config.Service) []string {
		return append(sorted(c.Networks.Back.Gateway), string(s.Source))
	}, false},
	{"limits.log", func(_ *config.Config, s *config.Service) []string {
		if s.Protection == config.ProtectGateway {
			return nil // there is none
		}
		return []string{fmt.Sprint(uint64(s.Limits.Log))}
	}, false},
	{"path or slow_clients", func(_ *config.Config, s *config.Service) []string {
		if s.Protection != config.ProtectGateway {
			return nil // each is terminated
		}
		return []string{string(s.Path), string(s.SlowClients)}
	}, true},
	{"balance, weights or backups", func(_ *config.Config, s *config.Service) []string {
		all := []string{string(s.Balance), s.SlowStart.String()}
		for i, a := range s.Servers {
			if share := s.ShareOf(i); share != config.PlainShare {
				all = append(all, fmt.Sprint(a, share))
			}
		}
		slices.Sort(all)
		return all
	}, true},
}

// pairWide stands in a service's place for what concerns all: its one aspect is
// pair.failure_timeout, by which one side falls silent and the other takes over.
const pairWide = ""

func sorted[T fmt.Stringer](list []T) []string {
	out := make([]string, 0, len(list))
	for _, v := range list {
		out = append(out, v.String())
	}
	slices.Sort(out)
	return out
}

// digests are of everything that this appliance is configured to serve.
func digests(c *config.Config) []wire.ServiceDigest {
	hash := func(parts ...string) uint64 {
		sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
		return binary.BigEndian.Uint64(sum[:])
	}
	all := []wire.ServiceDigest{{Name: pairWide, Aspects: []uint64{hash(c.Pair.FailureTimeout.String())}}}
	for i := range c.Services {
		d := wire.ServiceDigest{Name: c.Services[i].Name}
		for _, a := range aspects {
			d.Aspects = append(d.Aspects, hash(a.of(c, &c.Services[i])...))
		}
		all = append(all, d)
	}
	return all
}

// compare tells what would be lost if an appliance with standby's services took over
// from one with active's: one sentence for each service that is not the same there. harmless is what would only
// be served otherwise from then on.
func compare(active, standby []wire.ServiceDigest) (lacking, harmless []string) {
	for _, a := range active {
		i := slices.IndexFunc(standby, func(s wire.ServiceDigest) bool { return s.Name == a.Name })
		if i < 0 {
			lacking = append(lacking, fmt.Sprintf("service %q is not configured on the standby", a.Name))
			continue
		}
		if a.Name == pairWide {
			if n := min(len(a.Aspects), len(standby[i].Aspects)); !slices.Equal(a.Aspects[:n], standby[i].Aspects[:n]) {
				lacking = append(lacking, "pair.failure_timeout is another one on the standby")
			}
			continue
		}
		var differ []string
		for k := range min(len(a.Aspects), len(standby[i].Aspects), len(aspects)) {
			switch {
			case a.Aspects[k] == standby[i].Aspects[k]:
			case aspects[k].harmless:
				harmless = append(harmless, fmt.Sprintf("service %q has another %s on the standby: connections are served as the active's says when they begin", a.Name, aspects[k].name))
			default:
				differ = append(differ, aspects[k].name)
			}
		}
		if len(differ) > 0 {
			lacking = append(lacking, fmt.Sprintf("service %q has other %s on the standby", a.Name, strings.Join(differ, ", other ")))
		}
	}
	return lacking, harmless
}
