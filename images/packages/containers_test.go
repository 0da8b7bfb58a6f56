package main

import (
	"bytes"
	"testing"
	"time"
)

// The images hold what each program needs to write to, and are the same each time.
func TestContainers(t *testing.T) {
	o := options{version: "v1.2.3", epoch: time.Unix(1_700_000_000, 0).UTC()}
	for _, c := range containers {
		var one, two bytes.Buffer
		if err := c.image([]byte("program"), o).Write(&one); err != nil {
			t.Fatal(err)
		}
		if err := c.image([]byte("program"), o).Write(&two); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one.Bytes(), two.Bytes()) {
			t.Errorf("%s: two images differ", c.name)
		}
		config := c.image(nil, o).Config
		if want := "/usr/bin/lockstep"; config.Entrypoint[0] != want || len(config.Entrypoint) != 2 {
			t.Errorf("%s: starts %v", c.name, config.Entrypoint)
		}
		if _, ok := config.Volumes["/"+c.state.Name[:len(c.state.Name)-1]]; !ok {
			t.Errorf("%s: volumes %v", c.name, config.Volumes)
		}
		if root := config.User == ""; root != (c.name == "appliance") {
			t.Errorf("%s runs as %q", c.name, config.User)
		}
	}
}
