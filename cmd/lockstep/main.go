// Command lockstep is the appliance and the tools around it: one binary.
//
// It owns the command line: flags, help, exit statuses, what is printed. It
// must not hold logic of its own: each command reads its input, calls the
// package that does the work and shows the result.
package main

import (
	"os"
	"time"

	"lockstep/appliance/control"
	"lockstep/images/machine"
	"lockstep/internal/lab"
	"lockstep/internal/storm"
)

func main() {
	// In the bootable image this program is the machine's first process, too.
	if machine.IsInit() {
		machine.Main(machine.Options{Version: control.Version(), Render: func(s *control.Status) string {
			return render(s, palette{on: true}, time.Now(), false)
		}})
	}
	becomeWrapped()
	// The lab re-executes this program inside its namespaces; in every other
	// process this returns at once.
	lab.Main(storm.Roles())
	os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
}
