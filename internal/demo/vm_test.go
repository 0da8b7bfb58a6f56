package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/appliance/config"
	"lockstep/images/provision"
	"lockstep/internal/lab/labtest"
	"lockstep/internal/pair"
	"lockstep/internal/vm"
)

func TestDescriptionIsValid(t *testing.T) {
	for _, witness := range []bool{true, false} {
		m := &machines{accel: vm.TCG("x")}
		c := options{vm: "x"}.configuration()
		m.timing(c)
		text, err := pair.Description(c, witness)
		if err != nil {
			t.Fatal(err)
		}
		d, err := provision.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if d.Pair != pairName || strings.Join(d.Members, " ") != "a b" || (d.Witness == pair.WitnessName) != witness {
			t.Errorf("the pair is %+v", d)
		}
		cfg, err := config.Parse(d.Config["b"], nil)
		if err != nil || cfg.Pair.FailureTimeout != slowTimeout || cfg.Pair.Heartbeat != slowHeartbeat || len(cfg.Services[0].Servers) != 4 {
			t.Errorf("configuration of b: %+v, %v", cfg, err)
		}
	}
	fast := &machines{accel: vm.Accel{Name: "kvm"}}
	c := options{vm: "x"}.configuration()
	if fast.timing(c); c.Pair.FailureTimeout != config.DefaultFailureTimeout {
		t.Error("a real machine has other timing than the defaults")
	}
}

func TestVMDefaults(t *testing.T) {
	given := func(names ...string) func(string) bool {
		return func(flag string) bool { return strings.Contains(strings.Join(names, " ")+" ", flag+" ") }
	}
	o := options{vm: "x", fault: faultKill, rounds: 1, direction: dirBoth, size: 1 << 30, idle: 100}
	o.vmDefaults(given())
	if err := o.check(); err != nil || o.fault != faultTurns || o.rounds != 3 || o.idle != vmIdle {
		t.Errorf("%+v, %v", o, err)
	}
	if o.turn(1) != faultPowerOff || o.turn(2) != faultReset || o.turn(3) != faultShutdown || o.turn(4) != faultPowerOff {
		t.Error("the turns are in another order")
	}
	(&machines{accel: vm.TCG("x")}).pace(&o)
	if o.size != slowSize || o.pace != slowPace || o.chunk != slowChunk {
		t.Errorf("an emulated pair carries %+v", o)
	}
	o = options{vm: "x", fault: faultReset, rounds: 2, direction: dirBoth, size: 5 << 20, idle: 1}
	o.vmDefaults(given("fault", "rounds", "size", "connections"))
	(&machines{accel: vm.Accel{Name: "kvm"}}).pace(&o)
	if err := o.check(); err != nil || o.fault != faultReset || o.rounds != 2 || o.size != 5<<20 || o.idle != 1 || o.turn(2) != faultReset {
		t.Errorf("%+v, %v", o, err)
	}
	for _, fault := range []string{faultKill, faultFreeze, faultPartition} {
		o.fault = fault
		if err := o.check(); err == nil || !strings.Contains(err.Error(), "with --vm") {
			t.Errorf("%s of a machine: %v", fault, err)
		}
	}
}

// The whole thing with machines: power-off of the active in the middle of transfers, and its return.
func TestDemoWithMachines(t *testing.T) {
	labtest.RequireRoot(t)
	const image, program = "../../bin/image", "../../bin/lockstep"
	missing := (vm.Image{Dir: image}).Check()
	if _, err := os.Stat(program); err != nil {
		missing = err
	}
	if missing != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(missing)
		}
		t.Skipf("no machines are started (make build image):\n%v", missing)
	}
	self, err := filepath.Abs(program)
	if err != nil {
		t.Fatal(err)
	}
	const size = 24 << 20 // outlasts the snapshot of an emulated pair on a busy machine
	var stdout, stderr bytes.Buffer
	err = execute(context.Background(), options{
		vm: image, self: self, fault: faultPowerOff, rounds: 1, direction: dirBoth, size: size, idle: 4, witness: true, json: true,
	}, &stdout, &stderr)
	var v verdict
	if e := json.Unmarshal(stdout.Bytes(), &v); e != nil {
		t.Fatalf("no verdict: %v (error %v)\n%s", e, err, stderr.String())
	}
	if err != nil || !v.OK || v.Connections != 6 || v.Bytes != 2*size+4*4 || v.ActiveAfter == v.ActiveBefore {
		t.Errorf("%v: %+v\n%s", err, v, stderr.String())
	}
}
