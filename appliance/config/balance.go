package config

import (
	"fmt"
	"slices"
	"time"
)

// Balance says how the server of a new connection is chosen among those that are up.
type Balance string

// Values of Balance.
const (
	BalanceFirst Balance = "first"             // the first one; the others are its spares
	BalanceTurn  Balance = "round_robin"       // each in its turn
	BalanceLeast Balance = "least_connections" // the one with the fewest for its weight
	BalanceHash  Balance = "source_hash"       // by the client's address
)

// Share is what one server is to have of what its service gets.
type Share struct {
	Weight int // 1 to 256, beside the others'
	Backup bool
}

// PlainShare is what a server has of which only the address is written.
var PlainShare = Share{Weight: 1}

const (
	// MaxWeight is the largest share of a server.
	MaxWeight    = 256
	maxSlowStart = time.Hour
)

// ShareOf is the i-th server's.
func (s *Service) ShareOf(i int) Share {
	if i >= len(s.Shares) {
		return PlainShare
	}
	return s.Shares[i]
}

// namedServer is how a server is written that has more than an address.
type namedServer struct {
	Address string `yaml:"address"`
	Weight  int    `yaml:"weight,omitempty"`
	Backup  bool   `yaml:"backup,omitempty"`
}

// MarshalYAML writes each server as the file does: by its address, or with what it has else.
func (s Service) MarshalYAML() (any, error) {
	type plain Service // without this method
	list := make([]any, len(s.Servers))
	for i, a := range s.Servers {
		if share := s.ShareOf(i); share == PlainShare {
			list[i] = a.String()
		} else {
			list[i] = namedServer{a.String(), share.Weight, share.Backup}
		}
	}
	return struct {
		plain   `yaml:",inline"`
		Servers []any `yaml:"servers,flow"`
	}{plain(s), list}, nil
}

// servers reads the list of them, each of which is an address, or a mapping with one.
func (d *draft) servers(s *section, svc *Service) {
	const hint = "write an IP address and a port, such as 10.20.0.11:80"
	list, isList := s.m["servers"].([]any)
	if _, set := s.d.override(join(s.envPath, "servers")); set || !isList || !slices.ContainsFunc(list, func(e any) bool { _, is := e.(map[string]any); return is }) {
		svc.Servers = d.addresses(s, "servers", hint)
		return
	}
	s.known = append(s.known, "servers")
	for i, e := range list {
		one := &section{d: s.d, path: fmt.Sprintf("%s[%d]", join(s.path, "servers"), i)}
		share, text, path := PlainShare, "", one.path
		switch v := e.(type) {
		case string:
			text = v
		case map[string]any:
			one.m, one.envPath = v, join(s.envPath, fmt.Sprintf("servers.%d", i))
			path = join(one.path, "address")
			one.text("address", &text)
			one.count("weight", &share.Weight)
			one.flag("backup", &share.Backup)
			one.done()
		default:
			s.d.errs.add(one.path, "put it in quotes", "is %s, want text or a mapping", kindOf(e))
			continue
		}
		addr, ok := s.d.address(path, text, hint)
		if !ok {
			continue
		}
		svc.Servers, svc.Shares = append(svc.Servers, addr), append(svc.Shares, share)
	}
}

// balance checks what the choice of a server goes by.
func (v *validator) balance(path string, s *Service) {
	first := s.Balance == BalanceFirst && !v.faulty(path+".balance")
	if p := path + ".slow_start"; !v.faulty(p) {
		switch {
		case s.SlowStart < 0 || s.SlowStart > maxSlowStart:
			v.add(p, "0 to 1h", "%v is out of range", s.SlowStart)
		case s.SlowStart > 0 && first:
			v.add(p, "leave it out, or write balance: round_robin", "has no effect with balance: first")
		}
	}
	backups := 0
	for i, share := range s.Shares {
		p := fmt.Sprintf("%s.servers[%d]", path, i)
		if share.Backup {
			backups++
		}
		switch {
		case v.faulty(p + ".weight"):
		case share.Weight < 1 || share.Weight > MaxWeight:
			v.add(p+".weight", "1 to 256; a server that is to have nothing is a backup, or is left out", "%d is out of range", share.Weight)
		case share.Weight != 1 && first:
			v.add(p+".weight", "leave it out, or write balance: round_robin", "has no effect with balance: first")
		}
	}
	if backups > 0 && backups == len(s.Servers) {
		v.add(path+".servers", "leave backup out of those that are to serve first", "each server is a backup")
	}
}
