package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lockstep/appliance/control"
)

// draining is an appliance with one server, which has a connection less whenever somebody asks.
type draining struct {
	mu   sync.Mutex
	s    control.Status
	told []control.ServerCommand
}

func (d *draining) Status() control.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.s
	b := d.s.Services[0].Servers[0]
	s.Services = []control.Service{{Name: "web", Servers: []control.Backend{b}}}
	if b.Connections > 0 {
		d.s.Services[0].Servers[0].Connections--
	}
	return s
}

func (d *draining) Switchover(context.Context) error { return nil }

func (d *draining) Reload(bool) (control.Reloaded, error) { return control.Reloaded{}, nil }

func (d *draining) FindConnections(control.ConnectionQuery) control.ConnectionList {
	return control.ConnectionList{}
}

func (d *draining) Server(_ context.Context, c control.ServerCommand) (control.ServerOrdered, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = append(d.told, c)
	if c.Do == "disable" {
		return control.ServerOrdered{}, errors.New("the last one")
	}
	d.s.Services[0].Servers[0].State = control.ServerDrained
	return control.ServerOrdered{Standby: "busy", Unkept: "disk full"}, nil
}

func TestServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	d := &draining{s: control.Status{Role: control.RoleActive, Services: []control.Service{{Name: "web", Servers: []control.Backend{
		{Addr: "10.20.0.11:80", Connections: 3, Weight: 2, Healthy: true, Checked: true, State: control.ServerReady}}}}}}
	s, err := control.Serve(socket, d, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	run := func(args ...string) (int, string, string) {
		return lockstep(append([]string{"server", "--control", socket}, args...)...)
	}
	status, out, errs := run("list", "web")
	if status != 0 || errs != "" {
		t.Errorf("list: exit %d, %s", status, errs)
	}
	expect(t, out, "SERVICE", "web      10.20.0.11:80  ready  up      2       3")
	status, out, errs = run("drain", "web", "10.20.0.11:80", "--wait")
	if status != 0 || d.told[0].Do != "drain" || d.told[0].Force {
		t.Errorf("drain: exit %d, %+v", status, d.told)
	}
	expect(t, out, "web 10.20.0.11:80: drained, weight 2, 0 connections after ")
	expect(t, errs, "not kept over its restart: disk full", "the standby may not know of it yet: busy")
	if status, _, errs = run("disable", "web", "10.20.0.11:80", "--force"); status != exitFailed || !d.told[1].Force || !strings.Contains(errs, "the last one") {
		t.Errorf("disable: exit %d, %s", status, errs)
	}
	if status, out, _ = run("weight", "web", "10.20.0.11:80", "7", "--json"); status != 0 || d.told[2].Weight != 7 || !strings.Contains(out, `"service":"web","addr":"10.20.0.11:80"`) {
		t.Errorf("weight: exit %d, %s", status, out)
	}
	for _, args := range [][]string{{"drain", "web", "somewhere"}, {"weight", "web", "10.20.0.11:80", "much"}} {
		if status, _, errs := run(args...); status != exitUsage {
			t.Errorf("%v: exit %d, %s", args, status, errs)
		}
	}
	if status, _, _ := run("list", "nothing"); status != exitFailed {
		t.Errorf("no service: exit %d", status)
	}
	if _, out, _ := lockstep("__complete", "server", "--control", socket, "drain", "web", ""); !strings.Contains(out, "10.20.0.11:80\n") {
		t.Errorf("completed: %s", out)
	}
	// Whoever is not active any more counts nothing, and must not say that the server is empty.
	d.s.Role = control.RoleStandby
	if status, _, errs := run("drain", "web", "10.20.0.11:80", "--wait"); status != exitFailed || !strings.Contains(errs, "the active one knows") {
		t.Errorf("after a takeover: exit %d, %s", status, errs)
	}
	// Nor one that has not come to all connections of its takeover yet.
	d.s.Role, d.s.Connections.Open = control.RoleActive, 1
	c := control.NewClient(socket)
	defer c.Close()
	for open, want := range []bool{true, false} {
		d.s.Connections.Open = open
		if _, all, err := find(context.Background(), c, "web", netip.MustParseAddrPort("10.20.0.11:80")); all != want || err != nil {
			t.Errorf("%d connections, none counted at a service: counted all %v, %v", open, all, err)
		}
	}
}
