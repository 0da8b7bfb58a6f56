package main

import (
	"strings"
	"testing"

	"lockstep/appliance/control"
)

func TestShowReloaded(t *testing.T) {
	var b strings.Builder
	showReloaded(&b, &control.Reloaded{Refused: true, Changes: []control.Change{
		{Key: "services.new", To: "configured", Refused: "restart"},
		{Key: "services.old", From: "configured", Refused: "restart"},
		{Key: "log.level", From: "info", To: "debug"},
	}})
	if want := "+ services.new: configured\n  restart\n- services.old: configured\n  restart\n~ log.level: info -> debug\n"; b.String() != want {
		t.Errorf("%q", b.String())
	}
	b.Reset()
	showReloaded(&b, &control.Reloaded{})
	expect(t, b.String(), "nothing is new")
}
