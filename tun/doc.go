// Package tun owns everything the gateway asks of the kernel below TCP: the
// TUN device and its superpackets, the policy routes and sysctls that bring
// protected segments into it, and the ARP and NDP frames that tell the
// neighbours which appliance holds the virtual addresses.
//
// It must not know of TCP state, connections, roles, epochs or replication:
// it moves packets and answers for addresses when it is told to, and it never
// decides by itself who is active.
//
// Everything acts on the network namespace of the thread that called Open,
// InstallRoutes, NewAnnouncer or WatchLinks; what they return keeps to that
// namespace whichever thread uses it later.
package tun
