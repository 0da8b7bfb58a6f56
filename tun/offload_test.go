package tun

import (
	"errors"
	"fmt"
	"testing"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
)

func groOf(name string) (bool, error) {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return false, err
	}
	defer e.Close()
	f, err := e.Features(name)
	return f[groFeature], err
}

func TestEnableGRORestores(t *testing.T) {
	newNS(t).run(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		before, err := groOf("v0")
		if err != nil {
			return err
		}
		restore, err := EnableGRO("v0")
		if err != nil {
			return err
		}
		if on, err := groOf("v0"); err != nil || !on {
			return fmt.Errorf("receive offload is %v after EnableGRO (%v)", on, err)
		}
		if err := restore(); err != nil {
			return err
		}
		if on, err := groOf("v0"); err != nil || on != before {
			return fmt.Errorf("receive offload is %v after restore, was %v (%v)", on, before, err)
		}
		if _, err := EnableGRO("nosuch0"); err == nil {
			return errors.New("no error for an interface that does not exist")
		}
		return nil
	})
}
