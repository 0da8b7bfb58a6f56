//go:build amd64

// Package wrap runs an unmodified server program and makes the results of its non-deterministic system calls
// determinants: what two servers have to agree on in order to send the same bytes. It is the north-side wrap of FT-TCP.
//
// It owns which call gets what: attribution of a process's calls to the connection that it serves,
// randomness, clocks, process numbers, what stat and statfs say, the order of directories. It must not know how a call
// is stopped (trace), how the program is shut off (jail), how determinants are named (determinant), nor who
// decides and where (determinant.Authority).
//
//	run.go         a program from its start to its end
//	supervisor.go  processes, and what they serve
//	calls.go       the calls that stop
//	alone.go       a server that is the only one
//	accept.go      connections
//	clock.go       time
//	random.go      randomness, process numbers
//	files.go       stat, statfs
//	directory.go   directories in order
package wrap
