// Package eval is `lockstep eval`: the questions that FT-TCP's report answers (throughput, failover time, and what
// they depend on; Zagorodnov, Marzullo, Alvisi, Bressoud, ACM TOCS 27(2), 2009), asked anew on this machine, with
// pictures.
//
// It owns what is asked, the samples as they were taken, and the report that is made of them. Like the bench, which
// judges figures against targets and beside other gateways, it uses the appliance only as an operator would
// (internal/pair); it must not reach into stack, replication or tun. Everything runs in network namespaces of its own.
//
//	command.go   flags
//	plan.go      experiments and their runs: order, progress, what is left, going on after a stop
//	world.go     a pair between a client and two servers
//	episode.go   one download, and what happens in the middle of it
//	timeline.go  bytes against time around each fault
//	failover.go  the distribution of failover times, and what they are made of
//	history.go   recovery against what had been sent before
//	clients.go   throughput against the number of clients
//	messages.go  throughput against the size of messages, and the sync link's round trip
//	latency.go   latencies at a fixed load
//	samples.go   what was measured: lines of JSON while it is taken, CSV in the report
//	statistics.go medians and quantiles
//	picture.go   samples as SVG
//	report.go    the page, the tables
//
// A run writes its samples when it is done, so an evaluation that was interrupted goes on where it was; numbers and
// pictures of the report are made of the samples alone.
package eval
