package carry

import (
	"lockstep/replication"
	"lockstep/stack"
)

// LegRecord turns a leg's parameters into their replicated form.
func LegRecord(p stack.Params) replication.LegRecord {
	return replication.LegRecord{
		Local: p.Local, Remote: p.Remote, ISS: p.ISS, IRS: p.IRS, MSS: p.MSS, OurMSS: p.OurMSS,
		PeerWS: p.PeerWS, OurWS: p.OurWS, SACK: p.SACK, TS: p.TS, TSOffset: p.TSOffset,
		PeerTS: p.PeerTS, RTTMicros: p.RTTMicros,
	}
}

// LegParams is the way back.
func LegParams(r replication.LegRecord) stack.Params {
	return stack.Params{
		Local: r.Local, Remote: r.Remote, ISS: r.ISS, IRS: r.IRS, MSS: r.MSS, OurMSS: r.OurMSS,
		PeerWS: r.PeerWS, OurWS: r.OurWS, SACK: r.SACK, TS: r.TS, TSOffset: r.TSOffset,
		PeerTS: r.PeerTS, RTTMicros: r.RTTMicros,
	}
}

// DataEnd is Held without the FIN.
func DataEnd(s *replication.StreamState) uint64 {
	if s.Fin {
		return s.Held - 1
	}
	return s.Held
}

// Resume says how the leg that receives rx and sends tx goes on.
func Resume(rx, tx *replication.StreamState) stack.Resume {
	return stack.Resume{
		Received: DataEnd(rx), Sent: min(tx.Delivered, DataEnd(tx)), PeerFIN: rx.Fin,
		Held: DataEnd(tx), HeldFIN: tx.Fin,
		Ahead: DataEnd(rx) - min(rx.Delivered, DataEnd(rx)),
	}
}

// Gates says where the gates of a connection's legs were closed, by the stream whose
// bytes they acknowledge.
type Gates struct {
	Acked [2]uint64 // offsets
	Fin   [2]bool   // that includes the FIN
}

// Picture is what a standby that joins is told of a connection.
type Picture struct {
	Pos    [2]replication.StreamPos
	Log    *replication.Log // nil: it has none
	Server replication.LegRecord
	Logged bool
	Start  [2]uint64 // where the server's leg begins
}
