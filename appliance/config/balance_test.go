package config

import "testing"

func TestBalanceFaults(t *testing.T) {
	for _, c := range []struct{ name, old, new, want, part string }{
		{"balance", "- name: web", "- name: web\n    balance: least_connection", "services[0].balance", "one of: first, round_robin, least_connections, source_hash"},
		{"weight of the first", `["10.20.0.11:80"]`, `[{address: "10.20.0.11:80", weight: 2}]`, "services[0].servers[0].weight", "no effect"},
		{"no weight", `["10.20.0.11:80"]`, `[{address: "10.20.0.11:80", weight: 0}]`, "services[0].servers[0].weight", "1 to 256"},
		{"weight text", `["10.20.0.11:80"]`, `[{address: "10.20.0.11:80", weight: heavy}]`, "services[0].servers[0].weight", "whole number"},
		{"server key", `["10.20.0.11:80"]`, `[{address: "10.20.0.11:80", weigth: 2}]`, "services[0].servers[0].weigth", "did you mean"},
		{"server address", `["10.20.0.11:80"]`, `[{address: example.org, weight: 1}]`, "services[0].servers[0].address", "not an IP address"},
		{"server without address", `["10.20.0.11:80"]`, `[{weight: 1}]`, "services[0].servers[0].address", "not an IP address"},
		{"server of a list", `["10.20.0.11:80"]`, `[{address: "10.20.0.11:80"}, [x]]`, "services[0].servers[1]", "want text or a mapping"},
		{"backups only", `["10.20.0.11:80"]`, `[{address: "10.20.0.11:80", backup: true}]`, "services[0].servers", "each server is a backup"},
		{"slow start of the first", "- name: web", "- name: web\n    slow_start: 3s", "services[0].slow_start", "no effect"},
		{"slow start", "- name: web", "- name: web\n    balance: round_robin\n    slow_start: 2h", "services[0].slow_start", "0 to 1h"},
	} {
		t.Run(c.name, func(t *testing.T) { testFault(t, c.old, c.new, c.want, c.part) })
	}
}
