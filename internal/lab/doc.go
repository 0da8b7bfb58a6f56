// Package lab builds small networks out of Linux network namespaces, breaks them on purpose, and
// leaves nothing behind. The demo, the end-to-end tests and the benchmarks stand on it.
//
// # What it owns
//
// A [Lab] owns hosts ([Host]), layer-2 networks ([Network]) with their ports ([Port]) and the
// processes started inside hosts ([Proc]). It is pure Go: no ip, tc or nft is executed. It knows
// nothing of Lockstep: what runs inside a host is the caller's business. [Pair] is the one
// exception to that rule in spirit only: it lays out the addresses every Lockstep test uses.
//
// # How it lives and dies
//
// Every host is an anonymous network namespace (with mount and UTS namespaces beside it) that
// belongs to one locked OS thread of this process, the host's holder. Processes are forked from
// that thread and so are born inside. Nothing is registered under /var/run/netns and no
// interface ever exists in the namespace the program was started in: links are created with both
// ends in their final namespaces. So when this process ends, for whatever reason, SIGKILL
// included, the kernel does the cleaning: threads and descriptors vanish, children get SIGKILL
// through PR_SET_PDEATHSIG, and namespaces without users are destroyed with their links.
//
// # Networks
//
// [Kernel] networks are a Linux bridge with veth ports: fast, for benchmarks. [Switch] networks
// are a learning Ethernet switch in this process, over AF_PACKET sockets, which can lose,
// duplicate, reorder, delay and throttle frames per port and direction, seeded and changeable
// while traffic runs (netem is not available in every kernel).
//
// # Lock order
//
// Lab.mu, then Network.mu, then fabric.mu, then conduit.mu. No lock is held over a call into a
// holder thread except Lab.mu while the topology is being built.
package lab
