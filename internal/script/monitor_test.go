package script

import (
	"testing"

	"lockstep/tun"
)

// A question whether a client has a connection, which comes when its leg has gone and its record
// has not, is no ACK of that leg; an ACK of what the standby does not hold is found.
func TestMonitorKnowsQuestions(t *testing.T) {
	for name, x := range map[string]struct {
		stamp, echo uint32
		sound       bool
	}{"question": {1, 0, true}, "ACK": {1, 7, false}} {
		t.Run(name, func(t *testing.T) {
			r, err := New(Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			c := r.Dial(40000, 1000, 2000)
			if err := c.Handshake(nil, nil); err != nil {
				t.Fatal(err)
			}
			if !r.Settle() {
				t.Fatal("does not come to rest")
			}
			opts := NoOpts
			opts.TS, opts.TSVal, opts.TSEcr = true, x.stamp, x.echo
			s := Segment{Src: c.Client.to, Dst: c.Client.self, Flags: ACK, Seq: 5, Ack: c.Client.isn + 1<<20, Opts: opts, Payload: []byte{0}}
			r.gen.dev.inspect(make([]byte, tun.VnetHeaderLen), s.Encode())
			if err := r.Err(); (err == nil) != x.sound {
				t.Errorf("%v", err)
			}
		})
	}
}
