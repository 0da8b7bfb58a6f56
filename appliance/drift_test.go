package appliance

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"lockstep/appliance/config"
)

// What a takeover would lose because of two files is found, by its name; what would
// cost nothing is not told.
func TestDrift(t *testing.T) {
	base := func() *config.Config {
		return &config.Config{
			Pair:     config.Pair{FailureTimeout: time.Second},
			Networks: config.Networks{Back: config.BackNetwork{Gateway: []netip.Prefix{netip.MustParsePrefix("10.20.0.1/24")}}},
			Services: []config.Service{
				{Name: "web", Protection: config.ProtectGateway, Source: config.SourceClient,
					Listen:  []netip.AddrPort{netip.MustParseAddrPort("203.0.113.10:80")},
					Servers: []netip.AddrPort{netip.MustParseAddrPort("10.20.0.11:80"), netip.MustParseAddrPort("10.20.0.12:80")}},
				{Name: "log", Protection: config.ProtectLog},
			},
		}
	}
	for name, c := range map[string]struct {
		change func(*config.Config)
		want   string
	}{
		"the same":         {func(*config.Config) {}, ""},
		"order of servers": {func(c *config.Config) { s := c.Services[0].Servers; s[0], s[1] = s[1], s[0] }, ""},
		"limits":           {func(c *config.Config) { c.Services[0].Limits.Connections = 7; c.Services[0].Limits.Log = 7 }, ""},
		"a service more":   {func(c *config.Config) { c.Services = append(c.Services, config.Service{Name: "x"}) }, ""},
		"a service less":   {func(c *config.Config) { c.Services = c.Services[:1] }, `service "log" is not configured on the standby`},
		"a server less":    {func(c *config.Config) { c.Services[0].Servers = c.Services[0].Servers[:1] }, `service "web" has other servers on the standby`},
		"port":             {func(c *config.Config) { c.Services[0].Listen = nil }, `service "web" has other listen addresses on the standby`},
		"protection":       {func(c *config.Config) { c.Services[1].Protection = config.ProtectHot }, `service "log" has other protection or protocol on the standby`},
		"size of log":      {func(c *config.Config) { c.Services[1].Limits.Log = 7 }, `service "log" has other limits.log on the standby`},
		"another gateway":  {func(c *config.Config) { c.Networks.Back.Gateway = nil }, `service "web" has other source, or floating gateway`},
		"another time-out": {func(c *config.Config) { c.Pair.FailureTimeout *= 2 }, "pair.failure_timeout is another one"},
		"path":             {func(c *config.Config) { c.Services[0].Path = config.PathNetstack }, `harmless: service "web" has another path or slow_clients on the standby`},
		"slow clients":     {func(c *config.Config) { c.Services[0].SlowClients = config.SlowBuffer }, `harmless: service "web" has another path`},
		"path of log":      {func(c *config.Config) { c.Services[1].Path = config.PathNetstack }, ""},
		"balance":          {func(c *config.Config) { c.Services[1].Balance = config.BalanceLeast }, `harmless: service "log" has another balance`},
		"a weight": {func(c *config.Config) { c.Services[0].Shares = []config.Share{config.PlainShare, {Weight: 2}} },
			`harmless: service "web" has another balance, weights or backups on the standby`},
		"a plain weight":     {func(c *config.Config) { c.Services[0].Shares = []config.Share{config.PlainShare} }, ""},
		"two things at once": {func(c *config.Config) { c.Services[0].Servers, c.Services[0].Listen = nil, nil }, `other listen addresses, other servers on`},
	} {
		there := base()
		c.change(there)
		lacking, harmless := compare(digests(base()), digests(there))
		for _, h := range harmless {
			lacking = append(lacking, "harmless: "+h)
		}
		got := strings.Join(lacking, "; ")
		if got != c.want && (c.want == "" || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	// A build that knows of more, or of fewer, aspects is compared by those in common.
	older := digests(base())
	for i := range older {
		older[i].Aspects = older[i].Aspects[:1]
	}
	if lacking, harmless := compare(digests(base()), older); len(lacking) > 0 || len(harmless) > 0 {
		t.Error(lacking, harmless)
	}
}
