package appliance

import (
	"encoding/binary"

	"lockstep/internal/loglimit"
	"lockstep/replication/link"
	"lockstep/tun"
)

// tunnel is by which this host's kernel hands on what still arrives when this process is dead.
func (n *Node) tunnel(mtu int) tun.TunnelConfig {
	peer := n.peerName()
	if peer == "" {
		return tun.TunnelConfig{}
	}
	// One port for both ends, though their sync ports may differ.
	port := n.cfg.Self().Port()
	if other := n.cfg.Pair.Members[peer]; peer < n.cfg.Node {
		port = other.Port()
	}
	return tun.TunnelConfig{Name: tunnelName, Local: n.cfg.Self().Addr(), Remote: n.cfg.Pair.Members[peer].Addr(), Port: port, MTU: mtu}
}

// openTunnel gives it a number that only the two ends of the session know.
func (n *Node) openTunnel(s *link.Session) {
	secret, err := s.Secret("tunnel")
	if err == nil {
		err = n.routes.OpenTunnel(binary.BigEndian.Uint32(secret), n.keeper)
	}
	if err != nil {
		n.log.Warn("what arrives in the moments after this process died will be lost, and sent again by its senders", "err", err)
	}
}

// startKeeper starts the process that keeps the TUN device when this one has died.
func (n *Node) startKeeper(undo *closers) {
	if n.peerName() == "" {
		return
	}
	lost := func(err error) {
		if err == nil {
			n.log.Info("another process keeps the TUN device now", loglimit.Per("keeper again"))
			return
		}
		n.log.Warn("what is in the TUN device's queue when this process dies will be lost, and sent again by its senders", "err", err, loglimit.Per("keeper"))
	}
	k, err := tun.StartKeeper(n.dev, lost)
	if err != nil {
		lost(err)
		return
	}
	n.keeper = k
	undo.add("keeper of the TUN device", k.Close)
}

// onward gives a packet to the peer.
func (n *Node) onward(bufs [][]byte) error {
	if n.keeper == nil {
		return tun.ErrNoTunnel
	}
	return n.keeper.HandOn(bufs)
}

// succeed tells the process beside the former active that it may hand on what waits there.
func (n *Node) succeed() {
	if n.keeper == nil {
		return
	}
	if err := n.keeper.Succeed(); err != nil {
		n.log.Debug("the former active's host is not told of the takeover", "err", err)
	}
}
