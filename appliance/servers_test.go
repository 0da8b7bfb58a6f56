package appliance

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"lockstep/appliance/kept"
	"lockstep/appliance/pool"
	"lockstep/appliance/relay"
)

// The status, the metrics made of it and the log name a server that says something else; one that
// has only ended short may have been killed, and the log says no more than that it has.
func TestEndedShortIsNoDivergence(t *testing.T) {
	for name, short := range map[string]bool{"short": true, "something else": false} {
		var log bytes.Buffer
		n := &Node{log: slog.New(slog.NewTextHandler(&log, nil))}
		s := &relay.Service{Name: "hot", Pool: pool.New(pool.Config{Servers: []netip.AddrPort{netip.MustParseAddrPort("10.20.0.11:80")}})}
		var w servers
		n.serverDiverged(s, &w, &kept.Divergence{Exact: true, Ended: "was reset", Short: short})
		if told := w.last.LastDivergence != "" && !w.last.DivergedAt.IsZero(); told == short {
			t.Errorf("%s: the status has %q, %v", name, w.last.LastDivergence, w.last.DivergedAt)
		}
		if warned := strings.Contains(log.String(), "level=WARN"); warned == short || !strings.Contains(log.String(), "was reset") {
			t.Errorf("%s: the log has %s", name, log.String())
		}
	}
}
