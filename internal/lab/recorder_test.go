package lab_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"lockstep/internal/lab"
)

// The newest frames are kept, each once, with who has sent it, on both kinds of networks.
func TestRecorder(t *testing.T) {
	for name, kind := range map[string]lab.Kind{"bridge": lab.Kernel, "switch": lab.Switch} {
		t.Run(name, func(t *testing.T) {
			_, n, x, y := bridged(t, lab.NetOptions{Kind: kind})
			const kept, sent = 20, 50
			r, err := n.Record(kept)
			if err != nil {
				t.Fatal(err)
			}
			var from, to net.PacketConn
			if err := x.Do(func() (err error) { from, err = net.ListenPacket("udp4", "10.0.0.1:5001"); return err }); err != nil {
				t.Fatal(err)
			}
			defer from.Close()
			if err := y.Do(func() (err error) { to, err = net.ListenPacket("udp4", "10.0.0.2:5002"); return err }); err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			buf := make([]byte, 2000)
			for i := range sent {
				text := make([]byte, 1000)
				text[0] = byte(i)
				if _, err := from.WriteTo(text, to.LocalAddr()); err != nil {
					t.Fatal(err)
				}
				_ = to.SetReadDeadline(time.Now().Add(30 * time.Second))
				if _, _, err := to.ReadFrom(buf); err != nil {
					t.Fatal(err)
				}
			}
			deadline := time.Now().Add(30 * time.Second)
			for {
				var file bytes.Buffer
				if err := r.WritePCAP(&file); err != nil {
					t.Fatal(err)
				}
				frames, hosts := readPCAP(t, file.Bytes())
				var last []int
				for _, f := range frames {
					if len(f.head) >= 43 && f.head[23] == 17 && hosts[f.port] == "x" && f.size == 1042 {
						last = append(last, int(f.head[42]))
					}
				}
				if len(last) > 0 && last[len(last)-1] == sent-1 && len(frames) == kept {
					for i := range last {
						if last[i] != sent-len(last)+i {
							t.Errorf("kept %v", last)
							break
						}
					}
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("kept %v of %d frames; hosts %v", last, len(frames), hosts)
				}
				<-time.After(10 * time.Millisecond)
			}
			r.Close()
		})
	}
}

type framed struct {
	port uint32
	size uint32
	head []byte
}

// readPCAP reads what WritePCAP writes.
func readPCAP(t *testing.T, b []byte) (frames []framed, hosts []string) {
	t.Helper()
	u32 := func(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
	for len(b) > 0 {
		kind, size := u32(b), u32(b[4:])
		if size%4 != 0 || int(size) > len(b) || u32(b[size-4:]) != size {
			t.Fatalf("block of %d bytes is malformed", size)
		}
		body := b[8 : size-4]
		switch kind {
		case 1:
			name := string(body[12 : 12+binary.LittleEndian.Uint16(body[10:])])
			hosts = append(hosts, strings.TrimRight(name, "\x00"))
		case 6:
			frames = append(frames, framed{u32(body), u32(body[16:]), body[20 : 20+u32(body[12:])]})
		}
		b = b[size:]
	}
	return frames, hosts
}

// A disk is a host's own, and full when it is.
func TestDisk(t *testing.T) {
	_, _, x, y := bridged(t, lab.NetOptions{})
	dir := t.TempDir()
	if err := x.Disk(dir, 1<<20); err != nil {
		t.Fatal(err)
	}
	fill := func(h *lab.Host) error {
		p, err := h.Start(lab.Command{Path: "sh", Args: []string{"-c", "head -c 2000000 /dev/zero > " + dir + "/fill"}})
		if err != nil {
			t.Fatal(err)
		}
		return p.Wait(t.Context())
	}
	if err := fill(x); err == nil {
		t.Error("the disk takes more than it has")
	}
	if err := fill(y); err != nil {
		t.Errorf("another host has the same disk: %v", err)
	}
	if err := x.Disk(dir, 0); err == nil {
		t.Error("a disk of nothing")
	}
}

func TestNeighbours(t *testing.T) {
	_, _, x, y := bridged(t, lab.NetOptions{})
	ln, err := y.Listen("tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := x.DialContext(t.Context(), "tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if text, err := x.Neighbours(); err != nil || !strings.Contains(text, "10.0.0.2") {
		t.Errorf("%q, %v", text, err)
	}
}
