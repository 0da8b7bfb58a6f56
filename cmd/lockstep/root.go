package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/bench"
	"lockstep/internal/demo"
	"lockstep/internal/eval"
	"lockstep/internal/storm"
)

// Exit statuses. 0 is success.
const (
	exitFailed    = 1 // it did not work; for status: the appliance cannot be reached
	exitUsage     = 2 // wrong flags or a wrong configuration
	exitNotInSync = 3 // status: running, but the standby could not take over
)

const defaultConfig = "/etc/lockstep/lockstep.yaml"

// exitError is an error with its exit status. A nil err has been shown already.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// execute runs one command line and returns the exit status.
func execute(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	if err == nil {
		return 0
	}
	status := exitFailed
	var exit *exitError
	var usage storm.UsageError
	if errors.As(err, &usage) {
		status = exitUsage
	}
	if errors.As(err, &exit) {
		status = exit.status
		if exit.err == nil {
			return status
		}
	}
	fmt.Fprintln(stderr, "lockstep:", err)
	return status
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "lockstep",
		Short: "A gateway pair that makes TCP connections outlive crashes",
		Long: `Lockstep is an in-path TCP gateway run as a pair of appliances. When the active one dies the
standby continues every connection: same connection, no byte lost, only a short pause. Clients
and servers need nothing.

See it work on this machine:             lockstep demo
Break it at random, for hours:           lockstep storm
Measure it, with pictures:               lockstep eval --quick
Make keys for a pair:                    lockstep keys --pair edge --members a,b --out keys
Check a configuration:                   lockstep check -c lockstep.yaml
Run an appliance:                        lockstep run -c lockstep.yaml
Run a witness, on a third host:          lockstep witness -c witness.yaml
See whether the standby is in step:      lockstep status
See how a connection stands:             lockstep explain CLIENT:PORT
Hand over before maintenance:            lockstep switchover
Have it read its configuration again:    lockstep reload --dry-run
Take a server out, and back:             lockstep server drain web 10.20.0.11:80 --wait
Volumes for the bootable image:          lockstep image config -c pair.yaml --out volumes`,
		SilenceErrors: true, // execute prints them, once
		SilenceUsage:  true,
		Version:       control.Version(),
	}
	root.SetVersionTemplate("lockstep {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &exitError{exitUsage, fmt.Errorf("%w (`%s --help` lists the flags)", err, cmd.CommandPath())}
	})
	root.AddCommand(runCommand(), witnessCommand(), checkCommand(), statusCommand(), connectionsCommand(), explainCommand(), switchoverCommand(), reloadCommand(), serverCommand(),
		keysCommand(), imageCommand(), versionCommand(), manualCommand(),
		demo.Command(), bench.Command(), eval.Command(), storm.Command())
	root.AddCommand(wrapCommands()...)
	return root
}

// configFlag adds -c to a command.
func configFlag(cmd *cobra.Command, path *string, def string) {
	cmd.Flags().StringVarP(path, "config", "c", def, "the appliance's configuration `file`")
}

// loadConfig loads a configuration and refuses what this version cannot do.
func loadConfig(path string) (*config.Config, error) {
	cfg, err := config.Load(path)
	if err == nil {
		if errs := config.Unsupported(cfg); errs != nil {
			err = errs
		}
	}
	if err != nil {
		return nil, &exitError{exitUsage, explainConfig(path, "started", err)}
	}
	return cfg, nil
}

// explainConfig puts every fault of a file on a line of its own.
func explainConfig(path, done string, err error) error {
	var errs config.Errors
	if !errors.As(err, &errs) {
		return err
	}
	noun := "faults"
	if len(errs) == 1 {
		noun = "fault"
	}
	return fmt.Errorf("configuration %q has %d %s, nothing is %s:\n  %s", path, len(errs), noun, done, strings.ReplaceAll(errs.Error(), "\n", "\n  "))
}
