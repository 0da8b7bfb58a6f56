package main

import (
	"strings"
	"testing"

	"lockstep/appliance/control"
)

func TestConnectionsTable(t *testing.T) {
	l := control.ConnectionList{Role: control.RoleActive, Matched: 7, Busy: 1, Resting: 2, Connections: []control.Connection{
		{ID: 1, Client: "192.0.2.17:50312", Listen: "203.0.113.10:80", Service: "web", Server: "10.20.0.11:80", State: "open", Path: "passed on",
			Protected: true, AgeMicros: 3_600_000_000, IdleMicros: 1500, WaitsFor: "its two ends"},
		{ID: 2, Client: "[2001:db8::17]:1", Service: "web", State: "dialling", Path: "ended", AgeMicros: 1_250_000},
	}}
	var b strings.Builder
	if err := renderConnections(&b, palette{}, &l); err != nil {
		t.Fatal(err)
	}
	expect(t, b.String(), "192.0.2.17:50312  web      10.20.0.11:80  open      passed on  yes   1h0m0s  2ms   its two ends\n",
		"[2001:db8::17]:1  web      none           dialling  ended      no    1.3s    0s    -\n",
		"2 of 7 (--limit shows more); 1 more were being run all the time; 2 more were taken over, and nothing has passed on them yet\n")
	expect(t, explain(&l.Connections[0], palette{}), "connection   192.0.2.17:50312 -> 203.0.113.10:80, service web\n", "server       10.20.0.11:80\n",
		"way          passed on: ", "kept         yes: ", "waits for    its two ends\n")
	expect(t, explain(&l.Connections[1], palette{}), "server       none at present\n", "way          ended here: ", "kept         no: ", "waits for    nothing: it is being run\n")
	b.Reset()
	if err := renderConnections(&b, palette{}, &control.ConnectionList{Role: control.RoleStandby}); err != nil || b.String() != "this appliance is standby: the active one has the connections\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

func TestConnectionFlags(t *testing.T) {
	for client, want := range map[string]string{"192.0.2.17": "192.0.2.17/32", "2001:db8::/32": "2001:db8::/32", "": "invalid Prefix"} {
		o := connectionFlags{from: client, query: control.ConnectionQuery{Sort: control.OrderAge, Limit: 1}}
		if err := o.settle(); err != nil || o.query.Client.String() != want {
			t.Errorf("%q: %v, %v", client, o.query.Client, err)
		}
	}
	for _, o := range []connectionFlags{
		{from: "web", query: control.ConnectionQuery{Sort: control.OrderAge, Limit: 1}},
		{query: control.ConnectionQuery{Sort: "size", Limit: 1}},
		{query: control.ConnectionQuery{Sort: control.OrderAge, Limit: control.MostConnections + 1}},
	} {
		if o.settle() == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
