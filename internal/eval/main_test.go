package eval

import (
	"maps"
	"os"
	"testing"

	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
	"lockstep/internal/pair"
)

// TestMain makes this test binary what an evaluation starts in its labs, appliances and witness as well.
func TestMain(m *testing.M) {
	roles := traffic.Roles()
	maps.Copy(roles, pair.Roles())
	lab.Main(roles)
	os.Exit(m.Run())
}
