package appliance

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"lockstep/appliance/config"
)

// limits.memory is about the process's memory, not about bytes of payload: a byte that
// waits to be delivered lies in the receive queue of one leg, in a buffer of the size of
// a frame with what describes it, and again in the send buffer of the other. Measured
// with frames of 1500 bytes it takes 2.5 bytes of memory; superpackets take less.
const (
	memoryPerByte = 5
	memoryPerTwo  = 2 // that is, 5 for 2
)

// payloadLimit is how many bytes of payload may be buffered.
func payloadLimit(m config.Size) int64 { return int64(m) / memoryPerByte * memoryPerTwo }

// memoryOf is what n bytes of payload take.
func memoryOf(n int64) uint64 { return uint64(max(0, n)) / memoryPerTwo * memoryPerByte }

const (
	// heapBase is what the program takes without connections, bytes.
	heapBase = 32 << 20
	// heapPeriod is how often the collector is told how much may be used.
	heapPeriod = time.Second
)

// heapLimit is what the Go runtime may use before it collects, garbage included: without
// it as much garbage as there is in use. Connections themselves take memory, too, and
// are limited elsewhere; the collector must never run all the time because of them, so
// a quarter of what is in use is left to it in any case.
func heapLimit(m config.Size, live uint64) int64 {
	limit := max(uint64(m)+uint64(m)/4, live+live/4) + heapBase
	return int64(min(limit, math.MaxInt64))
}

// watchMemory keeps the collector's limit near limits.memory. Whoever sets GOMEMLIMIT
// knows better.
func (n *Node) watchMemory(ctx context.Context) {
	defer n.wg.Done()
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	former := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(former)
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(heapPeriod)
	defer tick.Stop()
	for {
		metrics.Read(sample)
		debug.SetMemoryLimit(heapLimit(n.cfg.Limits.Memory, sample[0].Value.Uint64()))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
