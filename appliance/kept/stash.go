package kept

import "lockstep/replication"

// stash are bytes of the response that were held, are released, and which the client has not acknowledged: of a takeover, whose source had
// been told that they had arrived, and sends them to nobody any more. A standby that joins has to be told of them. What the source's receive
// queue has is not among them.
type stash struct {
	at    uint64
	bytes []byte
}

// keepReleased keeps what was held from heldAt on and is released now, as far as it is in no receive queue.
func (k *Kept) keepReleased(b []byte) {
	if k.source != nil {
		b = b[:min(uint64(len(b)), k.source.base-min(k.source.base, k.heldAt))]
	}
	s := &k.stash
	if len(b) == 0 {
		return
	}
	if s.at+uint64(len(s.bytes)) != k.heldAt { // what lies between is in the queue, and so is what comes before it
		s.at, s.bytes = k.heldAt, nil
	}
	s.bytes = append(s.bytes, b...)
}

// stashed is what there is of it from off on. What the client has acknowledged is let go of.
func (k *Kept) stashed(off uint64) []byte {
	s := &k.stash
	if d := k.streams[replication.Response].Delivered.Load(); d > s.at {
		gone := min(d-s.at, uint64(len(s.bytes)))
		if s.bytes = s.bytes[gone:]; len(s.bytes) == 0 {
			s.bytes = nil
		}
		s.at += gone
	}
	if off < s.at || off-s.at >= uint64(len(s.bytes)) {
		return nil
	}
	return s.bytes[off-s.at:]
}
