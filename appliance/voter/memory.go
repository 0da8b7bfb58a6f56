package voter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"lockstep/replication/arbiter"
)

// What the state file holds: a mark, the failure_timeout that this voter had, and
// what the core wants remembered, which carries a checksum of its own beside the file's.
const (
	mark      = "LSV1"
	memoryLen = len(mark) + 8
)

func encodeMemory(timeout time.Duration, core []byte) []byte {
	b := append([]byte(nil), mark...)
	b = binary.BigEndian.AppendUint64(b, uint64(timeout))
	return append(b, core...)
}

// decodeMemory reads the file's content; core is nil if there is none.
func decodeMemory(content []byte) (timeout time.Duration, core []byte, err error) {
	if content == nil {
		return 0, nil, nil
	}
	if len(content) < memoryLen || !bytes.HasPrefix(content, []byte(mark)) {
		return 0, nil, fmt.Errorf("not a voter's state: %w", arbiter.ErrStored)
	}
	timeout = time.Duration(binary.BigEndian.Uint64(content[len(mark):]))
	if core = content[memoryLen:]; len(core) == 0 {
		core = nil
	}
	return timeout, core, nil
}

// CheckState tells whether what this voter must not forget could be written now. It
// writes to the disk, and may take as long as that does.
func (v *Voter) CheckState() error { return v.file.Check() }

// maxPromise bounds what a damaged file can make us wait: no configuration has a
// longer failure_timeout.
const maxPromise = time.Minute

// keepOldPromise waits out what this voter may have promised before it was started
// with a shorter failure_timeout. The core waits as long as the present one after
// its first input, which must come that much later. It reports false when the voter
// has to end.
func (v *Voter) keepOldPromise(before time.Duration) bool {
	longer := min(before, maxPromise) - v.cfg.FailureTimeout
	if longer <= 0 {
		return true
	}
	v.cfg.Log.Info("failure_timeout is shorter than before; waiting for what was promised then", "for", longer)
	timer := time.NewTimer(longer)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-v.quit:
		return false
	}
}
