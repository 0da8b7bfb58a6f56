package splice

import "gvisor.dev/gvisor/pkg/tcpip/header"

// LocateOptions finds the timestamps and SACK options of a TCP header's options, without a closure
// because it runs for every segment. The indexes are into opts, -1 when absent; ok is
// false if an option lies about its length.
func LocateOptions(opts []byte) (ts, sack int, ok bool) {
	ts, sack = -1, -1
	for i := 0; i < len(opts); {
		switch opts[i] {
		case header.TCPOptionEOL:
			return ts, sack, true
		case header.TCPOptionNOP:
			i++
			continue
		}
		if i+1 >= len(opts) {
			return ts, sack, false
		}
		n := int(opts[i+1])
		if n < 2 || i+n > len(opts) {
			return ts, sack, false
		}
		switch opts[i] {
		case header.TCPOptionTS:
			if n != header.TCPOptionTSLength {
				return ts, sack, false
			}
			ts = i
		case header.TCPOptionSACK:
			if (n-2)%8 != 0 {
				return ts, sack, false
			}
			sack = i
		}
		i += n
	}
	return ts, sack, true
}
