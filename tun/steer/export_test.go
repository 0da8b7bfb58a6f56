package steer

import (
	"sync/atomic"

	"github.com/cilium/ebpf"

	"lockstep/splice"
)

// Program is what sits in a hook.
func (s *Steering) Program(h Hook) *ebpf.Program { return s.progs[h][0] }

// Hint makes the programs look for the packets of a connection at an entry's place.
func (f *Flows) Hint(a *splice.Addrs, e Entry) error {
	for _, k := range flowKeys(a) {
		if err := f.keys.Put(k[:], uint64Of(e)); err != nil {
			return err
		}
	}
	return nil
}

// Owner makes the programs believe that another thread than this process's holds the lease.
func (f *Flows) Owner(n uint32) (was uint32) { return atomic.SwapUint32(&f.life.lease().owner, n) }

// OwnerDied is how the kernel marks a thread that has died.
const OwnerDied = ownerDied
