// Package jail starts a program in PID, mount, IPC and time namespaces of its own, beneath an init that
// reaps, held before its first instruction until whoever wants to follow it has taken hold of it.
//
// It owns the two processes between the supervisor and the program, which are this very executable
// again (Main): the init, which ends with the supervisor and whose end ends all; and the stub, which
// prepares its one thread and becomes the program. It must not know what is done with the program, nor
// why: the stub's preparations come by name (Prepare).
//
//	main.go   the two processes
//	start.go  starting them
package jail
