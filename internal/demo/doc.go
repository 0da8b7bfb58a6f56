// Package demo is `lockstep demo`: the whole thing on one machine, with a fault in the middle of
// a transfer, and a verdict.
//
// It owns the story: topology, appliances, traffic, fault, what the user sees. It uses the
// appliance only as an operator would, through `lockstep run`, `lockstep image config` and the control
// socket (internal/pair), so the appliances are the real ones, in processes of their own. It must not
// reach into stack, replication or tun.
//
//	command.go    flags, entering a user namespace, exit status
//	help.go       what --help says
//	options.go    what can be asked for, and what cannot
//	run.go        the order of things
//	rounds.go     an appliance fails and comes back
//	servers.go    a server fails and comes back
//	appliance.go  the pair: its configuration, what the demo knows of each appliance
//	vm.go         the machines that the appliances run in, with --vm, and their faults
//	load.go       the transfers and the idle connections
//	service.go    the real servers and clients that can be shown instead
//	fetch.go      a real client, and what it has got
//	verdict.go    what came of it
//	view.go       the timeline, on a terminal or as a log
//	conclusion.go the verdict in words
package demo
