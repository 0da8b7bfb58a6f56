package tun

import (
	"context"
	"time"
)

// A stranger's gratuitous ARP or unsolicited advertisement for one of our addresses
// draws our neighbours' packets to it until they find out by themselves, which takes a
// Linux client more than ten seconds. RFC 5227, section 2.4 (c), has a host whose address
// must stay, "such as a link's default router", answer with one announcement.
//
// The RFC allows one in ten seconds, lest two hosts that both insist flood the network.
// A stranger that repeats itself would have our clients for nearly all of that time, so
// here the announcements are defendEvery apart, which floods nothing either.
const (
	// defendEvery is how often an address is defended at most.
	defendEvery = 250 * time.Millisecond
	// defendAgain is when the last announcement is repeated: one may be lost, and some
	// neighbours ignore a change of an entry that is less than a second old (Linux:
	// neigh/*/locktime).
	defendAgain = 1100 * time.Millisecond
)

// Defend announces anew because somebody else has, if active; at once unless it did a
// moment ago, and then as soon as it may. One that is mute does it when it may speak again: it has
// been the active all the time then.
func (a *Announcer) Defend() {
	select {
	case a.attack <- struct{}{}:
	default: // one is waiting already
	}
}

// defences sends what Defend asks for.
func (a *Announcer) defences(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	owed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.attack:
			timer.Reset(defendAgain - defendEvery)
		case <-timer.C:
		}
		a.mu.Lock()
		mute := a.active && !a.answering()
		if a.active {
			a.announceLocked()
		}
		a.mu.Unlock()
		if mute {
			timer.Reset(defendEvery)
		} else if owed {
			timer.Reset(defendAgain - defendEvery)
		}
		owed = mute
		select { // what comes meanwhile waits in attack
		case <-ctx.Done():
			return
		case <-time.After(defendEvery):
		}
	}
}
