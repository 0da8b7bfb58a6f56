// Package demo is `lockstep demo`: the whole thing on one machine, with a fault in the middle of
// a transfer, and a verdict.
//
// It owns the story: topology, appliances, traffic, fault, what the user sees. It uses the
// appliance only as an operator would, through `lockstep keys`, `lockstep run` and the control
// socket, so the appliances are the real ones, in processes of their own. It must not reach into
// stack, replication or tun.
//
//	command.go    flags, entering a user namespace, exit status
//	options.go    what can be asked for, and what cannot
//	run.go        the order of things
//	rounds.go     an appliance fails and comes back
//	servers.go    a server fails and comes back
//	appliance.go  keys, configuration files, processes, waiting for roles
//	load.go       the transfers and the idle connections
//	service.go    the real servers and clients that can be shown instead
//	fetch.go      a real client, and what it has got
//	verdict.go    what came of it
//	view.go       the timeline, on a terminal or as a log
package demo
