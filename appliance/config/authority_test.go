package config

import "testing"

func TestAuthorityFaults(t *testing.T) {
	for _, c := range []struct{ name, old, new, want, part string }{
		{"decider of no name", "node: a", "node: a\nauthority: {members: {a: \"10.20.0.2:7480\", c: \"10.20.0.3:7480\"}}", "authority.members.c", "one of: a, b"},
		{"one decider", "node: a", "node: a\nauthority: {members: {a: \"10.20.0.2:7480\"}}", "authority.members", "write b's address"},
		{"decider floats", "node: a", "node: a\nauthority: {members: {a: \"10.20.0.1:7480\", b: \"10.20.0.3:7480\"}}", "authority.members.a", "floats"},
		{"decider is member", "node: a", "node: a\nauthority: {members: {a: \"10.30.0.1:7400\", b: \"10.20.0.3:7480\"}}", "authority.members.a", "another port"},
		{"decider port 0", "node: a", "node: a\nauthority: {members: {a: \"10.20.0.2:0\", b: \"10.20.0.3:7480\"}}", "authority.members.a", "has port 0"},
		{"one decider twice", "node: a", "node: a\nauthority: {members: {a: \"10.20.0.2:7480\", b: \"10.20.0.2:7480\"}}", "authority.members.b", "also authority.members.a"},
		{"decider is metrics", "node: a", "node: a\nauthority: {members: {a: \"127.0.0.1:9464\", b: \"10.20.0.3:7480\"}}", "authority.members.a", "also metrics"},
		{"half of the hosts", `servers: ["10.20.0.11:80"]`, `servers: ["10.20.0.11:80", "10.20.0.12:80"]
    protection: log
  - name: more
    listen: ["203.0.113.10:81"]
    servers: ["10.20.0.12:81", "10.20.0.13:81"]
    protection: log
authority: {identity: /etc/x, members: {a: "10.20.0.2:7480", b: "10.20.0.3:7480"}}`, "services[1].servers", "some hosts are also services[0]'s"},
		{"nobody to ask", "node: a", "node: a\nauthority: {members: {a: \"10.20.0.2:7480\", b: \"10.20.0.3:7480\"}}", "authority.members", "no service has servers"},
	} {
		t.Run(c.name, func(t *testing.T) { testFault(t, c.old, c.new, c.want, c.part) })
	}
}
