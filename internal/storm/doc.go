// Package storm is `lockstep storm`: faults at random, one after the other, for as long as one
// likes, on a pair under load that checks itself.
//
// It owns the order of faults, what is expected of a pair after each of them, and the evidence
// that is collected when that does not come true. Everything that is random is drawn from one seed.
// The nodes are those of package pair. It must not reach into stack, replication or tun.
//
//	command.go   flags, entering a user namespace, exit status
//	options.go   what can be asked for, and what cannot
//	storm.go     the order of things
//	faults.go    the kinds of faults, and how one is drawn
//	breaks.go    what each of them does to processes, cables and machines
//	datapath.go  what is taken away from the appliances' kernels
//	stranger.go  a host on the front network that means no good
//	servers.go   servers that die
//	load.go      the connections
//	real.go      nginx and curl beside them
//	watch.go     whether they move, and what became of them
//	starved.go   whether the machine let the appliances run
//	astray.go    whether clients and servers send to the active
//	evidence.go  the folder that is written about a finding
//	report.go    what came of it all
package storm
