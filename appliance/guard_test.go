package appliance

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lockstep/appliance/config"
	"lockstep/tun"
)

// What the packet filter is missing for is said before anything starts.
func TestFilterWarnings(t *testing.T) {
	plain, limited := &config.Config{Services: make([]config.Service, 2)}, &config.Config{Services: make([]config.Service, 2)}
	limited.Services[1].MinTTL = 255
	missing := fmt.Errorf("ask: %w", unix.EOPNOTSUPP)
	for _, c := range []struct {
		cfg       *config.Config
		err       error
		path, say string // none: nothing is said
	}{
		{plain, nil, "", ""}, {limited, nil, "", ""},
		{plain, missing, "networks.ingress", "TTL of 1 will not arrive"},
		{limited, missing, "services[1].ttl", "will not start"},
		{limited, fmt.Errorf("ask: %w", unix.EPERM), "", "not known"},
		{plain, tun.ErrNoFloodFilter, "", "CONFIG_NFT_LIMIT"}, {limited, tun.ErrNoFloodFilter, "", "answered with cookies"},
	} {
		w := filterWarnings(c.cfg, c.err)
		if c.say == "" {
			if len(w) > 0 {
				t.Errorf("%v: %v", c.err, w)
			}
			continue
		}
		if len(w) != 1 || w[0].Path != c.path || !strings.Contains(w[0].Msg, c.say) || w[0].Hint == "" {
			t.Errorf("%v: %v", c.err, w)
		}
	}
}
