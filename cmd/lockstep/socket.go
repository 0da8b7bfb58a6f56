package main

import (
	"encoding/json"
	"io"

	"github.com/spf13/cobra"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
)

// socketFlags say how the appliance on this machine is found, and whether a person or a program is answered.
type socketFlags struct {
	json            bool
	config, control string
}

// add adds -c and --control to a command; beneath: to all beneath it.
func (o *socketFlags) add(cmd *cobra.Command, beneath bool) {
	to := cmd.Flags()
	if beneath {
		to = cmd.PersistentFlags()
	}
	to.StringVar(&o.control, "control", "", "the appliance's control `socket`")
	to.StringVarP(&o.config, "config", "c", "", "the appliance's configuration `file`")
	cmd.MarkFlagsMutuallyExclusive("control", "config")
}

// client is of its control socket.
func (o *socketFlags) client() (*control.Client, error) {
	path := config.DefaultControl
	switch {
	case o.control != "":
		path = o.control
	case o.config != "":
		cfg, err := config.Load(o.config)
		if err != nil {
			return nil, &exitError{exitUsage, explainConfig(o.config, "started", err)}
		}
		path = cfg.Control
	}
	return control.NewClient(path), nil
}

// printJSON writes one object for programs.
func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
