package lab_test

import (
	"encoding/binary"
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
	for range rounds {
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
	count := func() (there, back int) {
		mu.Lock()
		defer mu.Unlock()
		return len(sent[5001]), len(sent[5002])
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) { // between polls of a condition with a deadline
		there, back := count()
		if there == rounds && back == rounds {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d frames seen there, %d back", there, rounds, back)
		}
	}
	for _, c := range captures {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	for i := range rounds {
		if !sent[5001][i].Before(sent[5002][i]) || i > 0 && !sent[5002][i-1].Before(sent[5001][i]) {
			t.Errorf("round %d out of order: %v, %v", i, sent[5001][i], sent[5002][i])
		}
	}
}
