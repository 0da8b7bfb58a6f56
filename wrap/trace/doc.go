//go:build amd64

// Package trace stands between a program and its kernel: ptrace, a seccomp filter so that only the calls
// of interest stop, and a vDSO in which clocks are read from a value that the tracer sets.
//
// It owns the stops of every process and thread beneath the first, registers and memory, and the
// machine code put into the vDSO. It must not know why a result is what it is, nor of connections:
// a Handler decides. Only x86-64.
//
//	filter.go  the seccomp filter
//	loop.go    the stops
//	orphan.go  stops before their time
//	task.go    processes, threads, calls, memory
//	vdso.go    the vDSO's functions, replaced
//	image.go   what an exec has made: auxiliary vector, machine
package trace
