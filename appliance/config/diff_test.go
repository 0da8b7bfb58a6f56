package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiff(t *testing.T) {
	example := string(read1(t, "../../lockstep.example.yaml"))
	for name, c := range map[string]struct {
		edit func(*Config)
		want []Change
	}{
		"nothing":   {func(*Config) {}, nil},
		"one key":   {func(c *Config) { c.Log.Level = "debug" }, []Change{{"log.level", "info", "debug"}}},
		"off":       {func(c *Config) { c.Services[0].Limits.Idle = 0 }, []Change{{"services.web.limits.idle", "120h0m0s", "0s"}}},
		"a node":    {func(c *Config) { c.Node = "x" }, []Change{{"node", c0(t, example).Node, "x"}}},
		"no longer": {func(c *Config) { c.Services = c.Services[1:] }, []Change{{"services.web", "configured", ""}}},
		"order":     {func(c *Config) { slices.Reverse(c.Services) }, nil},
		"one more": {func(c *Config) { c.Services = append(c.Services, DefaultService("new")) },
			[]Change{{"services.new", "", "configured"}}},
	} {
		from, to := c0(t, example), c0(t, example)
		c.edit(to)
		got, err := Diff(from, to)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
	from, to := c0(t, example), c0(t, example)
	to.Services[0].Servers = to.Services[0].Servers[:1]
	to.Services[0].Keepalive.Count, to.Metrics = 3, from.Self()
	got, err := Diff(from, to)
	var keys []string
	for _, c := range got {
		keys = append(keys, c.Key)
	}
	if want := "metrics services.web.keepalive.count services.web.servers"; err != nil || strings.Join(keys, " ") != want {
		t.Errorf("%v, %v, want %s", keys, err, want)
	}
}

func c0(t *testing.T, file string) *Config {
	t.Helper()
	c, err := Parse([]byte(file), nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
