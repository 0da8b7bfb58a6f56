// Package services runs the real servers of the seed paper's three kinds, a file server, a web
// server and a streaming server, behind a pair of appliances, with their real clients, and kills
// the primary server and the active appliance in the middle of transfers.
//
// It holds tests only. Every byte that a client has written to its disk is compared with what the
// server was given; never how long something took. The servers are Debian's packages. They run in
// the foreground inside the lab's hosts, with a configuration and directories of the test's own;
// nothing of the system's configuration is read or changed.
//
// docs/services.md says what these tests have shown.
package services

import (
	"os"
	"testing"

	"lockstep/internal/e2e/rig"
)

func TestMain(m *testing.M) {
	wrappedMain()
	rig.Main(nil)
	os.Exit(m.Run())
}
