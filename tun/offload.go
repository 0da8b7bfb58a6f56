package tun

import (
	"fmt"

	"github.com/safchain/ethtool"
)

// groFeature is generic receive offload by its kernel name.
const groFeature = "rx-gro"

// EnableGRO turns generic receive offload on for the named interfaces: frames of
// one connection that arrive together then reach the TUN device as one
// superpacket, which costs a fraction of reading them one by one. Most drivers
// have it on already; virtual ones often not. restore puts back what was found.
// An interface that cannot do it is left as it is and named in the error, which
// is for the log: everything works without, only slower.
func EnableGRO(names ...string) (restore func() error, err error) {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return func() error { return nil }, fmt.Errorf("open ethtool: %w", err)
	}
	defer e.Close()
	var changed []string
	for _, name := range names {
		have, ferr := e.Features(name)
		if ferr == nil && have[groFeature] {
			continue
		}
		if ferr == nil {
			ferr = e.Change(name, map[string]bool{groFeature: true})
		}
		if ferr != nil {
			err = fmt.Errorf("turn on receive offload of %s: %w", name, ferr)
			continue
		}
		changed = append(changed, name)
	}
	return func() error { return disableGRO(changed) }, err
}

func disableGRO(names []string) error {
	if len(names) == 0 {
		return nil
	}
	e, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open ethtool: %w", err)
	}
	defer e.Close()
	for _, name := range names {
		if cerr := e.Change(name, map[string]bool{groFeature: false}); cerr != nil {
			err = fmt.Errorf("turn off receive offload of %s: %w", name, cerr)
		}
	}
	return err
}
