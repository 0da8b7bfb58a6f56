package appliance

import (
	"net/netip"

	"lockstep/stack"
)

// notice logs what a peer has asked of TCP and does not get. The engine sees to it that
// it is not said too often.
func (n *Node) notice(what stack.Notice, peer netip.AddrPort) {
	switch what {
	case stack.NoticeSigned:
		n.log.Warn("refused a connection that asks for signed segments: TCP MD5 and TCP-AO are not supported, on either side", "client", peer)
	case stack.NoticeUrgent:
		n.log.Warn("urgent data becomes ordinary bytes on a connection that outlives its servers (protection log, hot)", "client", peer)
	}
}
