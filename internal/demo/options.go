package demo

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lockstep/appliance/config"
)

// Faults and directions that can be asked for.
const (
	faultKill     = "kill"
	faultFreeze   = "freeze"
	faultLinkDown = "link-down"
	faultPowerOff = "power-off"
	// faultPartition lets both live: the standby takes over, with the witness's vote or without a
	// witness, and the active falls silent because nobody confirms its lease.
	faultPartition = "partition"
	// faultSwitchover is none: the active is asked to hand over, as for maintenance.
	faultSwitchover = "switchover"
	faultNone       = "none"

	// What happens to a server.
	faultServerKill    = "server-kill"
	faultServerFreeze  = "server-freeze"
	faultServerRestart = "server-restart"

	dirDownload = "download"
	dirUpload   = "upload"
	dirBoth     = "both"
)

// faults in the order of the help.
var faults = []string{faultKill, faultFreeze, faultLinkDown, faultPowerOff, faultPartition, faultSwitchover, faultNone}

// serverFaults likewise: those of a server.
var serverFaults = []string{faultServerKill, faultServerFreeze, faultServerRestart}

// Whose bytes the client gets.
const (
	releasePrimary = string(config.ReleasePrimary)
	releaseFirst   = string(config.ReleaseFirst)
)

// options of one demo, checked.
type options struct {
	fault      string
	protection string // empty: gateway
	release    string // empty: primary
	path       string // empty: the product's default
	rounds     int    // failures, with the repair of what failed in between
	direction  string
	size       int64         // bytes per direction; 0, with machines: chosen when they are known
	patience   time.Duration // for a connection without progress; 0: the default
	chunk      int           // bytes of one write; 0: by size
	pace       time.Duration // between writes; 0: as fast as possible
	idle       int           // idle connections
	witness    bool
	service    string // real servers and clients; empty: the demo's own
	vm         string // directory of an image: the appliances are virtual machines; empty: processes
	json       bool
	keepLogs   string // directory; empty: nothing is kept
	self       string // the program that is run as an appliance
}

// Limits of what can be asked for: beyond them the demo would measure the machine.
const (
	minSize = 1 << 20
	maxSize = 1 << 40
	maxIdle = 20000
	// maxRounds: beyond it the gap of each round could not be told apart from others.
	maxRounds = 20
	// maxLogged is the largest upload that can be told to another server: both appliances keep it
	// in memory.
	maxLogged = 512 << 20
	// loggedSize is the default of --size where the log is shown: a spare has to send half of it
	// again.
	loggedSize = 256 << 20
)

// ofServer tells whether it is a server that fails.
func (o options) ofServer() bool { return slices.Contains(serverFaults, o.fault) }

// kept tells whether connections outlive their server.
func (o options) kept() bool { return o.protects() != string(config.ProtectGateway) }

func (o options) protects() string { return cmp.Or(o.protection, string(config.ProtectGateway)) }

// servers is how many there are.
func (o options) servers() int {
	if o.fault == faultServerRestart {
		return 1
	}
	return 2
}

// retold tells whether an upload must be in the log to its end: another server has to be told it.
func (o options) retold() bool {
	return o.ofServer() && o.direction != dirDownload && (o.protection == string(config.ProtectLog) || o.rounds > 1)
}

// settle fills in what depends on the fault and was not asked for.
func (o *options) settle(changed func(flag string) bool) {
	o.settleService(changed)
	if o.protection == "" {
		switch {
		case o.fault == faultServerRestart:
			o.protection = string(config.ProtectLog)
		case o.ofServer():
			o.protection = string(config.ProtectHot)
		default:
			o.protection = string(config.ProtectGateway)
		}
	}
	if o.ofServer() && o.protection == string(config.ProtectLog) && o.service == "" {
		if !changed("direction") {
			o.direction = dirDownload
		}
		if !changed("size") {
			o.size = loggedSize
		}
	}
}

func (o options) check() error {
	if err := o.checkService(); err != nil {
		return err
	}
	if o.vm != "" {
		if err := o.checkVM(); err != nil {
			return err
		}
	} else if all := slices.Concat(faults, serverFaults); !slices.Contains(all, o.fault) {
		return fmt.Errorf("--fault: %q is none of %s", o.fault, strings.Join(all, ", "))
	}
	if err := o.checkProtection(); err != nil {
		return err
	}
	if o.rounds < 1 || o.rounds > maxRounds {
		return fmt.Errorf("--rounds: %d is not within 1 to %d", o.rounds, maxRounds)
	}
	if !slices.Contains([]string{dirDownload, dirUpload, dirBoth}, o.direction) {
		return fmt.Errorf("--direction: %q is none of download, upload, both", o.direction)
	}
	if (o.size < minSize || o.size > maxSize) && (o.size != 0 || o.vm == "") {
		return fmt.Errorf("--size: %v is not within %v to %v", config.Size(o.size), config.Size(minSize), config.Size(maxSize))
	}
	if o.idle < 0 || o.idle > maxIdle {
		return fmt.Errorf("--connections: %d is not within 0 to %d", o.idle, maxIdle)
	}
	return nil
}

// checkProtection refuses what could show nothing.
func (o options) checkProtection() error {
	known := []string{string(config.ProtectGateway), string(config.ProtectLog), string(config.ProtectHot)}
	switch {
	case !slices.Contains(known, o.protects()):
		return fmt.Errorf("--protection: %q is none of %s", o.protection, strings.Join(known, ", "))
	case o.ofServer() && !o.kept() && !o.resumes():
		return fmt.Errorf("--protection: with gateway a connection ends with its server, so --fault %s could only lose it (hint: --protection log or hot)", o.fault)
	case o.fault == faultServerRestart && o.protection == string(config.ProtectHot):
		return errors.New("--protection: hot needs two servers, and --fault server-restart has one (hint: --protection log, or --fault server-kill --rounds 2)")
	case o.path != "" && o.path != string(config.PathAuto) && o.path != string(config.PathNetstack):
		return fmt.Errorf("--path: %q is none of %s, %s", o.path, config.PathAuto, config.PathNetstack)
	case o.release != "" && o.release != releasePrimary && o.release != releaseFirst:
		return fmt.Errorf("--release: %q is none of %s, %s", o.release, releasePrimary, releaseFirst)
	case o.release != "" && o.protection != string(config.ProtectHot):
		return errors.New("--release: only with --protection hot is there more than one server to choose from")
	case o.retold() && o.size > maxLogged:
		return fmt.Errorf("--size: another server has to be told the upload, so it must fit into the log: %v at most (hint: --direction download)", config.Size(maxLogged))
	}
	return nil
}
