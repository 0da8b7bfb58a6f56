// Package machine is process 1 of the appliance's image: what a machine needs between its kernel
// and `lockstep run`, and nothing else. It owns mounts, modules, sysctls, links, the watchdog, the
// power button, the two consoles, finding the configuration, and the program's life.
//
// It must not know what the program does: it starts it, asks its control socket how it is, and asks
// it to stop as an operator would.
//
// Its goroutines, beside those of one run of the program, live as long as the machine: nobody waits for
// them, since the kernel ends with process 1.
//
//	machine.go    the order of things
//	prepare.go    mounts, sysctls, what is set once
//	modules.go    which modules, from the index that the builder wrote
//	sources.go    where configuration is looked for
//	configure.go  from files to a machine that can run the program
//	links.go      interfaces, addresses, routes
//	program.go    the supervised program
//	observe.go    its health
//	screen.go     the console's window
//	journal.go    the log on the serial console
//	button.go     power button
//	watchdog.go   hardware watchdog
//	port.go       the control socket on a virtio port
package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/appliance/control"
)

// Options are what the command line's package lends.
type Options struct {
	Version string
	// Render writes a status for people, lines of any length.
	Render func(*control.Status) string
}

// IsInit reports whether this process is a machine's first, started by the kernel as /init.
func IsInit() bool { return os.Getpid() == 1 && os.Args[0] == "/init" }

// Paths on the machine.
const (
	programPath = "/lockstep"
	configDir   = "/etc/lockstep"
	mountPoint  = "/mnt"
)

// machine is the state of process 1.
type machine struct {
	opts    Options
	log     *slog.Logger
	journal *journal
	screen  *screen
	modules *modules
	// stateMount is where the state partition is mounted; empty: nowhere. Of Main's goroutine.
	stateMount string
	// ending is cancelled when the machine is to end; how says in which way.
	ending context.Context
	end    context.CancelCauseFunc

	mu  sync.Mutex
	how ending // guards itself: set before end is called
}

// ending is how a machine ends.
type ending int

const (
	powerOff ending = iota
	reboot
)

// retryEvery is the pace at which configuration is looked for.
const retryEvery = time.Second

// Main is the whole life of the machine. It does not return: process 1 that ends is a panic of the
// kernel, which is what reboots a machine whose init is broken.
func Main(opts Options) {
	m := &machine{opts: opts}
	m.ending, m.end = context.WithCancelCause(context.Background())
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "init: %v\n%s\nrebooting\n", r, debug.Stack())
			time.Sleep(5 * time.Second) // for whoever reads it
			_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		}
	}()
	err := m.run()
	m.log.Info("machine ends", "why", err)
	m.halt()
}

// run returns when the machine is to end.
func (m *machine) run() error {
	problems := prepare()
	m.journal = openJournal()
	m.log = slog.New(slog.NewTextHandler(m.journal, &slog.HandlerOptions{}))
	for _, p := range problems {
		m.log.Error("machine is not as it should be", "err", p)
	}
	m.log.Info("lockstep appliance", "version", m.opts.Version)
	m.screen = openScreen(m.opts.Version)
	m.modules = newModules(m.log)
	m.modules.load()
	go m.screen.run(m.ending)
	go m.watchSignals()
	go m.watchButtons()
	go m.keepWatchdog()
	go m.servePort()
	for m.ending.Err() == nil {
		job := m.awaitConfiguration()
		if job == nil {
			break
		}
		if err := m.supervise(job); err != nil {
			m.log.Error("the program refused its configuration; waiting for another one", "err", err)
			m.screen.problem(err)
			m.sleep(lastPause)
		}
	}
	return context.Cause(m.ending)
}

// stop ends the machine.
func (m *machine) stop(how ending, why string) {
	m.mu.Lock()
	m.how = how
	m.mu.Unlock()
	m.log.Info("told to end", "why", why)
	m.screen.note(why + ": handing over to the standby")
	m.end(errors.New(why))
}

// sleep returns early when the machine is to end.
func (m *machine) sleep(d time.Duration) {
	select {
	case <-m.ending.Done():
	case <-time.After(d):
	}
}

// awaitConfiguration looks for a configuration until there is one that can be carried out. It
// returns nil when the machine is to end first.
func (m *machine) awaitConfiguration() *job {
	said := ""
	for m.ending.Err() == nil {
		m.modules.load() // a disk may have been plugged in
		job, err := m.configure()
		if err == nil {
			m.screen.problem(nil)
			return job
		}
		if text := err.Error(); text != said {
			said = text
			m.log.Error("waiting for a right configuration", "err", err)
		}
		m.screen.problem(err)
		m.sleep(retryEvery)
	}
	return nil
}

// halt writes what must last and switches the machine off, or lets it start again.
func (m *machine) halt() {
	m.journal.flush()
	if err := m.unmountState(); err != nil {
		m.log.Error("state is not unmounted in order", "err", err)
	}
	m.journal.flush()
	unix.Sync()
	m.mu.Lock()
	how := m.how
	m.mu.Unlock()
	command := unix.LINUX_REBOOT_CMD_POWER_OFF
	if how == reboot {
		command = unix.LINUX_REBOOT_CMD_RESTART
	}
	err := unix.Reboot(command)
	panic(errors.Join(errors.New("the machine does not end"), err))
}
