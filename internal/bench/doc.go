// Package bench is `lockstep bench`: what a connection through Lockstep costs, and how long a
// failure is felt, measured beside what a user would take instead: the kernel's forwarding,
// HAProxy in TCP mode, and a plain io.Copy proxy.
//
// It owns the measuring and the judging: what is run in which order, how figures are taken,
// medians, ratios, targets, the table and the JSON document. Like the demo it uses the appliance
// only as an operator would (`lockstep run`, the control socket: internal/pair); it must not reach into stack,
// replication or tun. Everything runs in network namespaces of its own (internal/lab).
//
//	command.go    flags, entering a user namespace, exit status
//	plan.go       the order of things: rounds, gateways, time limit
//	steps.go      one measurement each, and the figures it yields
//	figure.go     what is measured, with units
//	bed.go        a lab with one gateway, a server and a client
//	gateway.go    the gateways that are not Lockstep
//	appliance.go  the ones that are
//	rival.go      what users would take today: keepalived with HAProxy, with conntrackd
//	roles.go      what runs as processes of its own inside the lab: server, copying proxy
//	load.go       the same: the client
//	place.go      the CPUs of client and server
//	window.go     a measurement of throughput or requests
//	idle.go       memory per idle connection
//	failover.go   a killed active
//	crowd.go      very many idle connections: the processes that hold them
//	cut.go        an active whose cables are pulled, beside the rivals
//	planned.go    a switchover; an active, and a standby, that stands still
//	rejoin.go     a standby that comes back under load
//	kept.go       what outliving a server costs: throughput, memory
//	scale.go      very many idle connections through a pair, takeovers, a rejoin
//	serverkill.go a killed server
//	usage.go      CPU time and memory of processes and of the machine
//	samples.go    medians and ratios
//	target.go     what must be reached
//	report.go     header, table, JSON
//
// How figures are taken. Every round visits every gateway, in a fresh lab each, so that slow
// changes of the machine meet all alike; a ratio of two gateways is taken within a round, and the
// median of the rounds is reported. Bytes are counted where they arrive, between two marks that
// each process sets with its own clock. The load generators neither make nor check patterns: that
// would cost more than some gateways do. What is checked byte for byte is the traffic of the
// failover measurements.
package bench
