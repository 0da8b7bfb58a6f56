package tun

import (
	"bytes"
	"slices"
	"sync/atomic"
	"testing"
)

// A stranger announces itself while the active is mute, because its lease has lapsed for a moment, say.
// Nobody else follows it: the clients have to come back when it may speak again.
func TestDefenceAfterSilence(t *testing.T) {
	l := newLAN(t)
	var may atomic.Bool
	may.Store(true)
	a, stranger := l.announcerThat(t, 0, may.Load), l.announcer(t, 1)
	a.Activate()
	eventually(t, "the announcements at the beginning have ended", func() bool {
		return a.stats().Announced == uint64(3*len(burstAt()))
	})
	theirs := func(i int) {
		t.Helper()
		for _, ip := range []string{vip4, vip6} {
			l.poke(ip)
			eventually(t, "whose "+ip+" is to the client", func() bool { mac, _ := l.neighbour(ip); return bytes.Equal(mac, l.mac(i)) })
		}
	}
	theirs(0)
	may.Store(false)
	sent, seen := a.stats().Announced, a.stats().Claims
	stranger.mu.Lock()
	stranger.announceLocked()
	stranger.mu.Unlock()
	theirs(1)
	eventually(t, "it has seen the claims", func() bool { return a.stats().Claims >= seen+3 })
	if n := a.stats(); n.Announced != sent || n.Conflicts != 0 {
		t.Fatalf("it has spoken: %+v", n)
	}
	may.Store(true)
	theirs(0)
}

// Who has our address in another VLAN is no stranger here, though the kernel hands us its frames without their tag.
func TestOtherVLANsClaimNothing(t *testing.T) {
	l := newLAN(t)
	a, stranger := l.announcer(t, 0), l.announcer(t, 1)
	a.Activate()
	stranger.mu.Lock() // it follows its interface
	link := stranger.link
	stranger.mu.Unlock()
	claim := gratuitousARP(arpReply, link.mac, stranger.addr4[0])
	plain := claim.append(nil)
	tagged := slices.Concat(plain[:12], []byte{0x81, 0, 0, 5}, plain[12:])
	for _, frame := range [][]byte{tagged, tagged, plain} {
		if err := stranger.socks.arp.send(link.index, frame); err != nil {
			t.Fatal(err)
		}
	}
	<-a.Conflicts() // one socket, so in their order
	if n := a.stats().Conflicts; n != 1 {
		t.Errorf("%d claims of 1", n)
	}
}
