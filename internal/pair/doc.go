// Package pair runs a pair of appliances, and its witness, inside the lab's standard topology: the one
// way in which demo, bench, storm, suites and the end-to-end tests do it.
//
// It owns keys, configuration files, processes and their ends, and what the nodes say on their
// control sockets. A node is ready when it says so, never because time has passed. It must not know
// what happens to the nodes, nor what runs through them.
//
//	config.go       what is the same for all pairs in the topology, written from config.Config
//	node.go         one appliance or the witness: its file, process, control socket
//	await.go        waiting for what nodes say, and what to tell when they do not
//	pair.go         both together
//	role.go         a node that is the calling program itself
//	description.go  what machines of the image are made from
package pair
