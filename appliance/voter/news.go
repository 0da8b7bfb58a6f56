package voter

import "lockstep/replication/arbiter"

// News is where the voters stand. Its fields are arbiter.Ready's.
type News struct {
	State  arbiter.State
	Solo   bool // we are active and nobody can continue our connections
	Leader bool
	Quorum bool
	Joined bool
	// Claimed is our newest claim that was committed since the last News that was
	// taken; nil if there is none. Act on it only if it is of State.Epoch.
	Claimed *arbiter.Claim
}

// News gives the newest news; what was not taken is replaced by what is newer, but a
// claim stays until it is taken or a newer one comes. One goroutine reads it.
func (v *Voter) News() <-chan News { return v.news }

// publish never blocks: the loop is the only sender, and takes back what nobody has
// taken.
func (v *Voter) publish(n News) {
	select {
	case old := <-v.news:
		if n.Claimed == nil {
			n.Claimed = old.Claimed
		}
	default:
	}
	v.news <- n
}
