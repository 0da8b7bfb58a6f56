//go:build !amd64

package main

import "github.com/spf13/cobra"

// A program is wrapped on x86-64 only.
func wrapCommands() []*cobra.Command { return nil }

func becomeWrapped() {}
