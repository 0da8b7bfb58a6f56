package steer

import (
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
