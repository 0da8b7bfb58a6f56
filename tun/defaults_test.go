package tun

import (
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Others change routes while ours are listed: that says nothing about the default route, and
// it is looked for again.
func TestInterruptedDumpIsNoFault(t *testing.T) {
	var d defaults
	now := time.Now()
	answer, asked := error(nil), 0
	has := func(v6 bool) (bool, error) {
		asked++
		return answer == nil, answer
	}
	look := func() {
		t.Helper()
		now = now.Add(2 * defaultPatience)
		if faults, err := d.faults(has, "front", now); err != nil || len(faults) > 0 {
			t.Errorf("faults %v, error %v", faults, err)
		}
	}
	d.changed.Store(true)
	look()
	answer = fmt.Errorf("list routes: %w", netlink.ErrDumpInterrupted)
	d.changed.Store(true)
	look()
	look()
	answer = nil
	look()
	if asked != 8 {
		t.Errorf("looked %d times, want each time for both families", asked)
	}
	look()
	if asked != 8 {
		t.Error("looked although nothing has changed")
	}
}
