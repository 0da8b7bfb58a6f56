package kept

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"lockstep/appliance/carry"
	"lockstep/appliance/pool"
	"lockstep/replication"
	"lockstep/stack"
)

// toldOf is a journal that remembers what it is told of a server's leg.
type toldOf struct {
	Journal
	all []string
}

func (j *toldOf) Delivered(_ replication.ConnID, _ replication.Stream, off uint64) {
	j.all = append(j.all, fmt.Sprint("delivered ", off))
}

func (j *toldOf) ServerLeg(replication.ConnID, replication.LegRecord, [2]uint64) {
	j.all = append(j.all, "another leg")
}

// between is a host that does something else in the middle of what is delivered.
type between struct {
	Host
	do func()
}

func (h *between) Now() time.Duration {
	if do := h.do; do != nil {
		h.do = nil
		do()
	}
	return 0
}
func (*between) Wake()        {}
func (*between) Wanted() bool { return false }

// An ACK of the recorded leg's server comes while another leg is recorded in its place, whose
// server has less of the request. The journal must not hear of the ACK after it has heard of
// that leg: the standby would continue it from where only the former one has got to.
func TestAckMeetsAnotherLeg(t *testing.T) {
	j, h := &toldOf{}, &between{}
	k := New(Conn{Journal: j, Host: h, Pool: pool.New(pool.Config{}), Options: &Options{}, Flags: &carry.Flags{}})
	k.flags.Protected.Store(true)
	before, next := &replica{k: k, leg: &stack.Leg{}}, &replica{k: k, leg: &stack.Leg{}}
	before.recorded.Store(true)
	before.acked.Store(80)
	k.streams[replication.Request].Delivered.Store(80)
	next.acked.Store(90)
	k.source = next
	k.all.Store(&[]*replica{before, next})

	h.do = func() {
		if !k.recording.TryLock() {
			return // the worker has to wait
		}
		k.recording.Unlock()
		k.record()
	}
	before.Delivered(nil, 100)
	k.record()
	if i := slices.Index(j.all, "another leg"); i >= 0 && slices.Contains(j.all[i:], "delivered 100") {
		t.Errorf("the journal is told: %q", j.all)
	}
	next.acked.Store(100)
	k.record()
	if want := []string{"delivered 100", "another leg", "delivered 100"}; !slices.Equal(j.all, want) {
		t.Errorf("the journal is told %q, want %q", j.all, want)
	}
	before.Delivered(nil, 120) // it is not the connection's leg any more
	if len(j.all) != 3 {
		t.Errorf("the journal is told %q", j.all)
	}
}
