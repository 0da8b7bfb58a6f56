package wire_test

import (
	"fmt"

	"lockstep/replication/wire"
)

// A batch with bytes of one connection's request, and what its reader sees.
func Example() {
	frame := wire.Begin(nil)
	frame = wire.AppendData(frame, 7, wire.Request, 100, []byte("GET /"), false)
	wire.Finish(frame, 0, wire.Header{Version: wire.Version, Type: wire.TypeBatch, Epoch: 3, Index: 1})

	h, payload, err := wire.Decode(frame)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(h.Type, h.Epoch, h.Index)
	entries := wire.NewEntries(payload)
	for {
		var e wire.Entry
		if more, err := entries.Next(&e); !more {
			fmt.Println(err)
			return
		}
		fmt.Printf("%d %v at %d: %s\n", e.ID, e.Stream, e.Off, e.Data)
	}
	// Output:
	// batch 3 1
	// 7 request at 100: GET /
	// <nil>
}
