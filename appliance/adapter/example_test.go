package adapter_test

import (
	"fmt"

	"lockstep/appliance/adapter"
)

// Where a server may be replaced by another one: not while a response is under way, and a head is
// released whole.
func Example() {
	const (
		request  = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
		head     = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
		response = head + "hello"
	)
	mask, err := adapter.NewMask(adapter.DefaultMask())
	if err != nil {
		panic(err)
	}
	h := adapter.NewHTTP(mask)
	h.Request([]byte(request))
	fmt.Println("of half a head,", h.Releasable([]byte(head[:20]), false), "bytes may go")

	for b := []byte(head); len(b) > 0; {
		b = b[h.Response(b):]
	}
	_, ok := h.Checkpoint()
	fmt.Println("within the body: checkpoint", ok, "and a FIN would be", h.End())

	for b := []byte(response[len(head):]); len(b) > 0; {
		b = b[h.Response(b):]
	}
	at, ok := h.Checkpoint()
	fmt.Println("at its end: checkpoint", ok, "at", at == uint64(len(request)), "and a FIN would be", h.End())
	// Output:
	// of half a head, 0 bytes may go
	// within the body: checkpoint false and a FIN would be premature
	// at its end: checkpoint true at true and a FIN would be complete
}
