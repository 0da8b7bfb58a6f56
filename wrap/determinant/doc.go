// Package determinant names the results of system calls that two servers have to agree on, and
// derives those that need no agreement.
//
// A determinant (the literature's word) is the result of a call that depends on more than what the
// program has been told: random bytes, a time, what stat says. Its name is a connection, or the
// program's start; the process, by its descent from the one that accepted the connection; a kind; and
// a place in the sequence of that process's calls of the kind.
//
// It owns names, their encoding, the derivation of randomness from a secret that the servers share,
// and the rule "who is asked first decides" (Log). It is pure: no clocks, no I/O, no goroutines. It must
// not know how a result is got from a program or put into it, nor how a question travels.
//
//	name.go    connections, instances, names
//	random.go  randomness derived from a secret
//	log.go     first asked decides
package determinant
