// Package appliance puts an appliance together and decides its role.
//
// It owns: the order in which parts are made and ended (appliance.go), the role
// in the pair and the takeover (roles.go), what drives the shell around the
// replication core: clock, goroutines, connections (journal.go), and what is
// reported outside (status.go).
//
// Like cmd it may see everything; nothing but cmd, internal/pair and tests may see it. A byte's way through
// the parts is told in ARCHITECTURE.md.
package appliance
