package lab_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"lockstep/internal/lab"
)

// Each capture sees what its own host sends, all of it, and their times tell in which order two
// hosts spoke.
func TestCapture(t *testing.T) {
	_, _, x, y := bridged(t, lab.NetOptions{})
	const rounds = 50
	var mu sync.Mutex
	sent := map[uint16][]time.Time{} // by UDP source port
	look := func(at time.Time, frame []byte) {
		if len(frame) < 42 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[23] != 17 {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		port := binary.BigEndian.Uint16(frame[34:])
		sent[port] = append(sent[port], at)
	}
	var captures []*lab.Capture
	for _, h := range []*lab.Host{x, y} {
		c, err := h.Capture("eth0", look)
		if err != nil {
			t.Fatal(err)
		}
		captures = append(captures, c)
	}
	conns := map[*lab.Host]net.PacketConn{}
	for h, addr := range map[*lab.Host]string{x: "10.0.0.1:5001", y: "10.0.0.2:5002"} {
		if err := h.Do(func() (err error) { conns[h], err = net.ListenPacket("udp4", addr); return err }); err != nil {
			t.Fatal(err)
		}
		defer conns[h].Close()
	}
	buf := make([]byte, 2000)
	round := func() {
		for _, turn := range [][2]*lab.Host{{x, y}, {y, x}} {
			if _, err := conns[turn[0]].WriteTo(make([]byte, 1000), conns[turn[1]].LocalAddr()); err != nil {
				t.Fatal(err)
			}
			if err := conns[turn[1]].SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := conns[turn[1]].ReadFrom(buf); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The kernel turns stamping on by a worker, which a busy machine keeps waiting: until then a frame's time is
	// that of the look at it.
	for n, end := 0, time.Now().Add(time.Minute); ; {
		for range rounds {
			round()
		}
		n += rounds
		awaitFrames(t, n, &mu, sent)
		mu.Lock()
		wrong := outOfOrder(sent[5001][n-rounds:], sent[5002][n-rounds:])
		mu.Unlock()
		if wrong == "" {
			break
		}
		if time.Now().After(end) {
			t.Error(wrong)
			break
		}
	}
	for _, c := range captures {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// awaitFrames waits until that many frames were seen of each host.
func awaitFrames(t *testing.T, n int, mu *sync.Mutex, sent map[uint16][]time.Time) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) { // between polls of a condition with a deadline
		mu.Lock()
		there, back := len(sent[5001]), len(sent[5002])
		mu.Unlock()
		if there == n && back == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d frames seen there, %d back", there, n, back)
		}
	}
}

// outOfOrder says which question was not sent before its answer, or not after the one before.
func outOfOrder(there, back []time.Time) string {
	for i := range there {
		if !there[i].Before(back[i]) || i > 0 && !back[i-1].Before(there[i]) {
			return fmt.Sprintf("round %d out of order: %v, %v", i, there[i], back[i])
		}
	}
	return ""
}
