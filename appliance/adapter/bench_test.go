package adapter_test

import (
	"fmt"
	"testing"

	"lockstep/appliance/adapter"
)

// What following a response costs a relay, per slice of 64 KiB of a body and per small exchange.
func BenchmarkHTTP(b *testing.B) {
	for _, c := range []struct {
		name string
		resp []byte
	}{
		{"small", crlf("HTTP/1.1 200 OK\nServer: a\nDate: Wed, 25 Nov 2026 09:00:00 GMT\nContent-Type: text/html\nContent-Length: 2\n\nab")},
		{"body", append(crlf(fmt.Sprintf("HTTP/1.1 200 OK\nContent-Length: %d\n\n", 64<<10)), make([]byte, 64<<10)...)},
		{"chunks of 4 KiB", chunks(16, 4<<10)},
	} {
		b.Run(c.name, func(b *testing.B) {
			a := newHTTP(b)
			req := crlf("GET / HTTP/1.1\nHost: www.example\nUser-Agent: x/1.0\nAccept: */*\n\n")
			var spans [8][2]int
			b.SetBytes(int64(len(c.resp)))
			b.ReportAllocs()
			for b.Loop() {
				a.Request(req)
				rest := c.resp[:a.Releasable(c.resp, false)]
				a.Mask(spans[:0], rest)
				for len(rest) > 0 {
					rest = rest[a.Response(rest):]
				}
				if a.End() != adapter.Complete {
					b.Fatal("the response is not complete")
				}
			}
		})
	}
}

func chunks(n, size int) []byte {
	b := crlf("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n")
	for range n {
		b = fmt.Appendf(b, "%x\r\n%s\r\n", size, make([]byte, size))
	}
	return append(b, "0\r\n\r\n"...)
}
